"""One route: the button asks for the token that its prompt will carry. No paths, no names, no disk."""

from __future__ import annotations

import json
import re

from aiohttp import web
from server import PromptServer

from .gate import gate

TOKEN_ROUTE = "/nvfp4_studio/conversion_token"
_NODE_ID = re.compile(r"[0-9A-Za-z_.-]{1,40}(:[0-9A-Za-z_.-]{1,40}){0,15}")


def register() -> None:
    """Add the route to ComfyUI's server; a script that only imports the nodes has none."""
    server = getattr(PromptServer, "instance", None)
    if server is not None:
        server.routes.post(TOKEN_ROUTE)(conversion_token)


async def conversion_token(request: web.Request) -> web.Response:
    """``{"node": "1:2:5"}`` -> ``{"token": "..."}``: allows this node one conversion.

    Only ``application/json`` is taken: a browser sends that to a foreign origin only after asking the server
    for permission, so that no web page can ask for a token by a plain form.
    """
    if request.content_type != "application/json":
        return _refused(415, "Send application/json.")
    try:
        body = await request.json()
    except (json.JSONDecodeError, UnicodeDecodeError):
        return _refused(400, "The body is not JSON.")
    node = body.get("node") if isinstance(body, dict) else None
    if not isinstance(node, str) or not _NODE_ID.fullmatch(node):
        return _refused(400, 'The body must be {"node": "<execution id of the node>"}.')
    return web.json_response({"token": gate.issue(node)})


def _refused(status: int, message: str) -> web.Response:
    return web.json_response({"error": message}, status=status)
