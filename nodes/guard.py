"""What every route checks before it looks at anything: who asks, and whether the body is small plain JSON.

ComfyUI has an origin check of its own, but ``--enable-cors-header`` replaces it; these checks hold without it.
"""

from __future__ import annotations

import json
from collections.abc import Awaitable, Callable
from typing import Any

from aiohttp import web

from ..calibration.errors import StudioError
from .errors import HostError

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]

MAX_BODY = 4096
"""Bytes: most requests are a name or an id."""


class Refused(Exception):
    """A request that is answered with a status and one sentence."""

    def __init__(self, status: int, sentence: str) -> None:
        super().__init__(sentence)
        self.status = status


def guarded(handler: Handler) -> Handler:
    """The handler behind the origin check; what it refuses becomes ``{"error": sentence}``.

    404 for what is not there, 400 for everything else that the pack's own errors say, 500 when the disk refuses.
    """

    async def answer(request: web.Request) -> web.StreamResponse:
        try:
            _require_same_origin(request)
            return await handler(request)
        except Refused as refused:
            return _error(refused.status, refused)
        except HostError as error:
            return _error(404, error)
        except StudioError as error:
            return _error(400, error)
        except OSError as error:
            return _error(500, f"The disk refused: {error.strerror or error}.")

    return answer


async def json_object(request: web.Request, limit: int = MAX_BODY) -> dict[str, Any]:
    """The body, of at most ``limit`` bytes, as a JSON object.

    Only ``application/json`` is taken: a browser sends that to a foreign origin only after asking the server for
    permission, so no web page can send it by a plain form.
    """
    if request.content_type != "application/json":
        raise Refused(415, "Send application/json.")
    body = bytearray()
    async for chunk in request.content.iter_chunked(limit):
        body += chunk
        if len(body) > limit:
            raise Refused(413, f"The body has more than {limit} bytes.")
    try:
        found = json.loads(body)
    except (ValueError, RecursionError) as error:
        raise Refused(400, "The body is not JSON.") from error
    if not isinstance(found, dict):
        raise Refused(400, "The body is no JSON object.")
    return found


def _error(status: int, error: Exception | str) -> web.Response:
    return web.json_response({"error": str(error)}, status=status)


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
