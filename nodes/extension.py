"""What ComfyUI asks for: the nodes, after the folder and the route are there."""

from __future__ import annotations

from comfy_api.latest import ComfyExtension, io

from . import host, routes
from .calibrate import NVFP4Calibrate
from .convert import NVFP4Convert
from .report import NVFP4CalibrationReport


class NVFP4StudioExtension(ComfyExtension):
    """The pack as ComfyUI sees it."""

    async def on_load(self) -> None:
        """Runs once before the nodes are listed."""
        host.register_calibration_folder()
        routes.register()

    async def get_node_list(self) -> list[type[io.ComfyNode]]:
        """All nodes of the pack."""
        return [NVFP4Calibrate, NVFP4Convert, NVFP4CalibrationReport]
