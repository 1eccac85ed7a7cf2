"""The pack's routes: a token for the button, and listing, downloading and deleting calibrations.

A calibration is asked for by its name, an id that the server maps to a file of ``models/nvfp4_calibration``;
what is no such name gets a 4xx and nothing is touched. The command ``nvfp4-studio calibrate`` uses them.
"""

from __future__ import annotations

import asyncio
import re
from pathlib import Path

from aiohttp import web
from server import PromptServer

from .. import __version__
from ..calibration.errors import StudioError
from . import host
from .gate import gate
from .guard import Refused, guarded, json_object

TOKEN_ROUTE = "/nvfp4_studio/conversion_token"
LIST_ROUTE = "/nvfp4_studio/calibrations"
FILE_ROUTE = "/nvfp4_studio/calibrations/file"
DELETE_ROUTE = "/nvfp4_studio/calibrations/delete"
MAX_NAME = 1000
_NODE_ID = re.compile(r"[0-9A-Za-z_.-]{1,40}(:[0-9A-Za-z_.-]{1,40}){0,15}")


def register() -> None:
    """Add the routes to ComfyUI's server; a script that only imports the nodes has none."""
    server = getattr(PromptServer, "instance", None)
    if server is not None:
        server.routes.post(TOKEN_ROUTE)(guarded(conversion_token))
        server.routes.get(LIST_ROUTE)(guarded(list_calibrations))
        server.routes.get(FILE_ROUTE)(guarded(calibration_file))
        server.routes.post(DELETE_ROUTE)(guarded(delete_calibration))


async def conversion_token(request: web.Request) -> web.Response:
    """``{"node": "1:2:5"}`` -> ``{"token": "..."}``: allows this node one conversion."""
    node = (await json_object(request)).get("node")
    if not isinstance(node, str) or not _NODE_ID.fullmatch(node):
        raise Refused(400, 'The body must be {"node": "<execution id of the node>"}.')
    return web.json_response({"token": gate.issue(node)})


async def list_calibrations(request: web.Request) -> web.Response:
    """``{"version": the pack's, "calibrations": [{"name", "bytes", "modified_ns"}]}``."""
    found = await asyncio.to_thread(host.stored_calibrations)
    entries = [{"name": name, "bytes": stat.st_size, "modified_ns": stat.st_mtime_ns} for name, stat in found]
    return web.json_response({"version": __version__, "calibrations": entries})


async def calibration_file(request: web.Request) -> web.StreamResponse:
    """``?name=my-model``: the file, streamed."""
    path = await _calibration(request.query.get("name"))
    return web.FileResponse(path, headers={"Content-Type": "application/octet-stream", "Cache-Control": "no-store"})


async def delete_calibration(request: web.Request) -> web.Response:
    """``{"name": "my-model"}`` -> ``{"deleted": "my-model"}``."""
    name = (await json_object(request)).get("name")
    path = await _calibration(name)
    await asyncio.to_thread(path.unlink, missing_ok=True)
    host.refresh_lists()
    return web.json_response({"deleted": name})


async def _calibration(name: object) -> Path:
    """The file behind a name that came with a request."""
    if not isinstance(name, str) or not 0 < len(name) <= MAX_NAME:
        raise Refused(400, "Give the name of a calibration.")
    try:
        return await asyncio.to_thread(host.exchangeable_calibration, name)
    except host.HostError as error:
        raise Refused(404, str(error)) from error
    except (OSError, UnicodeEncodeError) as error:  # longer than a file name can be, or not encodable in one
        raise Refused(404, "There is no calibration of this name.") from error
    except StudioError as error:
        raise Refused(400, str(error)) from error
