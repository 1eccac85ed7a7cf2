"""nvfp4-studio: calibrate a diffusion transformer while it generates and convert it to mixed NVFP4/FP8.

Importing this package imports neither ComfyUI nor torch, so that the command line, the tests and
ComfyUI's loader can all do it; ComfyUI's own modules are touched only inside ``comfy_entrypoint``.
"""

from __future__ import annotations

from typing import Any

__version__ = "0.1.0"

WEB_DIRECTORY = "./web"


async def comfy_entrypoint() -> Any:
    """Give ComfyUI the extension with all nodes.

    ComfyUI's loader keeps a single line of an exception raised here, so the traceback is logged
    before it is passed on.
    """
    import logging

    try:
        from .nodes.extension import NVFP4StudioExtension
    except Exception:
        logging.exception("nvfp4-studio could not be loaded")
        raise
    return NVFP4StudioExtension()


__all__ = ["WEB_DIRECTORY", "__version__", "comfy_entrypoint"]
