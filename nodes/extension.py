"""What ComfyUI asks for: the nodes, after their folders and routes are there."""

from __future__ import annotations

from comfy_api.latest import ComfyExtension, io

from . import hardware, routes
from .calibrate import NVFP4Calibrate
from .compare import NVFP4Compare, NVFP4CompareImages
from .convert import NVFP4Convert
from .library import LIBRARIES
from .report import NVFP4CalibrationReport
from .sensitivity import NVFP4Sensitivity


class NVFP4StudioExtension(ComfyExtension):
    """The pack as ComfyUI sees it."""

    async def on_load(self) -> None:
        """Runs once before the nodes are listed."""
        for library in LIBRARIES:
            library.register()
        routes.register()
        hardware.register()

    async def get_node_list(self) -> list[type[io.ComfyNode]]:
        """All nodes of the pack."""
        return [
            NVFP4Calibrate,
            NVFP4Convert,
            NVFP4CalibrationReport,
            NVFP4Sensitivity,
            NVFP4Compare,
            NVFP4CompareImages,
        ]
