"""What every route checks before it looks at anything: who asks, and whether the body is small plain JSON.

ComfyUI has an origin check of its own, but ``--enable-cors-header`` replaces it; these checks hold without it.
"""

from __future__ import annotations

import json
from collections.abc import Awaitable, Callable
from typing import Any

from aiohttp import web

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]

MAX_BODY = 4096
"""Bytes: the longest request is a name or an id."""


class Refused(Exception):
    """A request that is answered with a status and one sentence."""

    def __init__(self, status: int, sentence: str) -> None:
        super().__init__(sentence)
        self.status = status


def guarded(handler: Handler) -> Handler:
    """The handler behind the origin check; :class:`Refused` becomes ``{"error": sentence}``."""

    async def answer(request: web.Request) -> web.StreamResponse:
        try:
            _require_same_origin(request)
            return await handler(request)
        except Refused as refused:
            return web.json_response({"error": str(refused)}, status=refused.status)

    return answer


async def json_object(request: web.Request) -> dict[str, Any]:
    """The body as a JSON object.

    Only ``application/json`` is taken: a browser sends that to a foreign origin only after asking the server for
    permission, so no web page can send it by a plain form.
    """
    if request.content_type != "application/json":
        raise Refused(415, "Send application/json.")
    body = bytearray()
    async for chunk in request.content.iter_chunked(MAX_BODY):
        body += chunk
        if len(body) > MAX_BODY:
            raise Refused(413, f"The body has more than {MAX_BODY} bytes.")
    try:
        found = json.loads(body)
    except (ValueError, RecursionError) as error:
        raise Refused(400, "The body is not JSON.") from error
    if not isinstance(found, dict):
        raise Refused(400, "The body is no JSON object.")
    return found


def _require_same_origin(request: web.Request) -> None:
    """Refuse what a page of another site sends; programs send neither of the two headers and may pass."""
    site = request.headers.get("Sec-Fetch-Site")
    if site is not None:
        if site not in ("same-origin", "none"):
            raise Refused(403, "Requests from other sites are refused.")
        return
    origin = request.headers.get("Origin")
    if origin is not None and origin.partition("://")[2].lower() != request.headers.get("Host", "").lower():
        raise Refused(403, "Requests from other sites are refused.")
