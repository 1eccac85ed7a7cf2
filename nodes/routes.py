"""The pack's routes. Each takes ids and options, never paths, and asks a plain function for the answer.

``GET`` only reads. Whatever has an id in its body is ``POST`` with ``application/json``; ``guard`` says what else
is refused. Functions that touch the disk run in a thread, so that a slow disk holds up no other request.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import Callable, Mapping
from importlib import import_module
from pathlib import Path
from typing import Any

from aiohttp import web
from server import PromptServer

from .gate import gate
from .guard import MAX_BODY, Handler, Refused, guarded, json_object
from .library import CALIBRATIONS
from .studio.fields import name_in

PREFIX = "/nvfp4_studio/"
MAX_PLAN = 65_536
"""Bytes of a body with a plan: a thousand layers pinned by hand."""
COMPRESSED_FROM = 65_536
"""Bytes: the plan of a model of 840 layers has 580 KB, 25 KB compressed, which counts on a rented machine."""
_NODE_ID = re.compile(r"[0-9A-Za-z_.-]{1,40}(:[0-9A-Za-z_.-]{1,40}){0,15}")

Answer = Callable[[Mapping[str, Any]], Any]
"""From the query or the body to what is sent: bytes of a PNG, or plain data that becomes JSON."""

READ: Mapping[str, str] = {
    "sources": "sources.listed",
    "calibrations": "calibrations.listed",
    "calibration_plot": "calibrations.plot",
    "recipes": "saved_recipes.listed",
    "sensitivities": "sensitivities.listed",
    "sensitivity_plot": "sensitivities.plot",
    "conversions": "conversions.listed",
    "results": "results.listed",
    "result_plot": "results.plot",
}
"""Path -> module of ``studio`` and its function, imported by the first request: most starts of ComfyUI have none."""
ASKED: Mapping[str, tuple[str, int]] = {
    "source": ("sources.described", MAX_BODY),
    "calibration": ("calibrations.described", MAX_BODY),
    "calibrations/merge": ("calibrations.merged", MAX_PLAN),
    "calibrations/delete": ("calibrations.deleted", MAX_BODY),
    "plan": ("planning.planned", MAX_PLAN),
    "recipes/save": ("saved_recipes.saved", MAX_PLAN),
    "recipes/delete": ("saved_recipes.deleted", MAX_BODY),
    "sensitivities/delete": ("sensitivities.deleted", MAX_BODY),
    "conversions/discard": ("interrupted.discarded", MAX_BODY),
    "result": ("results.described", MAX_BODY),
    "results/delete": ("results.deleted", MAX_BODY),
}
"""Path -> the same, and the most bytes that a body may have."""


def register() -> None:
    """Add the routes to ComfyUI's server; a script that only imports the nodes has none."""
    server = getattr(PromptServer, "instance", None)
    if server is None:
        return
    server.routes.post(PREFIX + "conversion_token")(guarded(conversion_token))
    server.routes.get(PREFIX + "calibrations/file")(guarded(calibration_file))
    server.routes.get(PREFIX + "calibrations/influence")(guarded(calibration_influence))
    for path, answer in READ.items():
        server.routes.get(PREFIX + path)(guarded(reading(answer)))
    for path, (answer, limit) in ASKED.items():
        server.routes.post(PREFIX + path)(guarded(asking(answer, limit)))


async def conversion_token(request: web.Request) -> web.Response:
    """``{"node": "1:2:5"}`` -> ``{"token": "..."}``: allows this node one conversion."""
    node = (await json_object(request)).get("node")
    if not isinstance(node, str) or not _NODE_ID.fullmatch(node):
        raise Refused(400, 'The body must be {"node": "<execution id of the node>"}.')
    return web.json_response({"token": gate.issue(node)})


async def calibration_file(request: web.Request) -> web.StreamResponse:
    """``?name=my-model``: the file, streamed."""
    path = await asyncio.to_thread(CALIBRATIONS.exchangeable, name_in(request.query, "name"))
    return _streamed(path)


async def calibration_influence(request: web.Request) -> web.StreamResponse:
    """``?name=my-model``: the influence measured beside this calibration; 404 where none was."""
    name = name_in(request.query, "name")

    def found() -> Path:
        from .studio.calibrations import influence_of  # by the first request: most starts of ComfyUI have none

        path = influence_of(CALIBRATIONS.exchangeable(name))
        if path is None:
            raise Refused(404, f"No influence was measured with the calibration {name!r}.")
        return path

    return _streamed(await asyncio.to_thread(found))


def reading(answer: str) -> Handler:
    """A handler that answers from the query."""

    async def handler(request: web.Request) -> web.StreamResponse:
        return await asyncio.to_thread(_answered, answer, request.query)

    return handler


def asking(answer: str, limit: int) -> Handler:
    """A handler that answers from a JSON body."""

    async def handler(request: web.Request) -> web.StreamResponse:
        body = await json_object(request, limit)
        return await asyncio.to_thread(_answered, answer, body)

    return handler


def _streamed(path: Path) -> web.FileResponse:
    return web.FileResponse(path, headers={"Content-Type": "application/octet-stream", "Cache-Control": "no-store"})


def _answered(answer: str, asked: Mapping[str, Any]) -> web.Response:
    module, _, function = answer.partition(".")
    found: Answer = getattr(import_module(f".studio.{module}", __package__), function)
    return _response(found(asked))


def _response(found: Any) -> web.Response:
    from .studio.plain import as_json  # with the first request, as the rest of the studio

    headers = {"Cache-Control": "no-store"}
    if isinstance(found, bytes):
        return web.Response(body=found, content_type="image/png", headers=headers)
    response = web.json_response(text=as_json(found), headers=headers)
    if response.content_length and response.content_length > COMPRESSED_FROM:
        response.enable_compression()
    return response
