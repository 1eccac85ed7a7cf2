"""One ComfyUI server, spoken to through its HTTP and websocket API.

Every answer is bounded and checked; what the server says is data, never an instruction. Connection failures are
`Unreachable`, anything else that is not the expected answer is a `ServerError`.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import aiohttp
from yarl import URL

from ..text import one_line
from .errors import RequestError, ServerError, Unreachable
from .workflow import NodeInfo, Prompt

CONNECT_SECONDS = 10
READ_SECONDS = 120
"""A server that loads a model may answer nothing for a minute."""

HEARTBEAT_SECONDS = 60
MAX_JSON = 64 << 20
MAX_CALIBRATION = 16 << 30
MAX_INFLUENCE = 16 << 20
CHUNK = 1 << 20
CALIBRATIONS = "nvfp4_studio/calibrations"


class Server:
    """A server's address and its connections; use as an async context manager."""

    def __init__(self, address: str) -> None:
        self.url = _url(address)
        self.name = str(self.url.with_user(None)).rstrip("/")
        self.client_id = uuid.uuid4().hex
        self._session: aiohttp.ClientSession | None = None
        self._socket: aiohttp.ClientWebSocketResponse[bool] | None = None

    async def __aenter__(self) -> Server:
        timeout = aiohttp.ClientTimeout(total=None, sock_connect=CONNECT_SECONDS, sock_read=READ_SECONDS)
        self._session = aiohttp.ClientSession(timeout=timeout)
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close_socket()
        await self._asked().close()

    async def node(self, name: str) -> NodeInfo | None:
        """What the server says of a node class, None when it has none of this name."""
        found = await self._json("GET", "object_info/" + name)
        info = found.get(name) if isinstance(found, dict) else None
        return info if isinstance(info, dict) else None

    async def calibrations(self) -> tuple[str, list[str]]:
        """The version of nvfp4-studio on the server, and the names of the calibrations there."""
        found = await self._json("GET", CALIBRATIONS)
        entries = found.get("calibrations") if isinstance(found, dict) else None
        if not isinstance(entries, list):
            raise ServerError(f"{self.name} lists no calibrations: update nvfp4-studio in its custom_nodes.")
        names = [str(entry["name"]) for entry in entries if isinstance(entry, dict) and "name" in entry]
        return one_line(str(found.get("version")), 40), names

    async def queue(self, prompt: Prompt, prompt_id: str) -> str:
        """Queue a workflow; the id under which the server runs it. Raises ServerError with what it found wrong."""
        body = {"prompt": prompt, "prompt_id": prompt_id, "client_id": self.client_id}
        found = await self._json("POST", "prompt", body)
        return str(found["prompt_id"]) if isinstance(found, dict) and "prompt_id" in found else prompt_id

    async def queued(self) -> dict[str, tuple[bool, Prompt]]:
        """Everyone's prompts in the server's queue: id -> (whether it runs, the workflow)."""
        found = await self._json("GET", "queue")
        entries = {}
        for state in ("queue_running", "queue_pending"):
            for entry in found.get(state, ()) if isinstance(found, dict) else ():
                if isinstance(entry, list) and len(entry) > 2 and isinstance(entry[2], dict):
                    entries[str(entry[1])] = (state == "queue_running", entry[2])
        return entries

    async def ended(self, prompt_id: str) -> dict[str, Any] | None:
        """The prompt's entry in the history, None while there is none."""
        found = await self._json("GET", "history/" + prompt_id)
        entry = found.get(prompt_id) if isinstance(found, dict) else None
        return entry if isinstance(entry, dict) else None

    async def cancel(self, prompt_id: str) -> None:
        """Take the prompt out of the queue, or interrupt it when, and only when, it is the one that runs."""
        await self._json("POST", "queue", {"delete": [prompt_id]})
        running, _ = (await self.queued()).get(prompt_id, (False, {}))
        if running:
            await self._json("POST", "interrupt", {"prompt_id": prompt_id})

    async def download(self, name: str, path: Path) -> bool:
        """Write a calibration of the server to a file; False when it has none of this name."""
        return await self._download(name, "file", path, "a calibration", MAX_CALIBRATION)

    async def download_influence(self, name: str, path: Path) -> bool:
        """Write the influence measured with a calibration of the server to a file; False when there is none."""
        return await self._download(name, "influence", path, "an influence", MAX_INFLUENCE)

    async def delete(self, name: str) -> None:
        """Delete a calibration of the server; one that is not there is fine."""
        with translated(self.name):
            async with self._asked().post(self._at(f"{CALIBRATIONS}/delete"), json={"name": name}) as answer:
                if answer.status not in (200, 404):
                    raise ServerError(f"{self.name} did not delete the calibration {name}: status {answer.status}.")

    async def receive(self, seconds: float) -> tuple[str, dict[str, Any]] | None:
        """The next message about what this client queued, as (type, data); None after silence or a lost connection.

        A connection that ended is opened anew by the next call. Raises Unreachable when it cannot be.
        """
        await self.listen()
        assert self._socket is not None
        with translated(self.name):
            try:
                message = await asyncio.wait_for(self._socket.receive(), seconds)
            except asyncio.TimeoutError:
                return None
        if message.type == aiohttp.WSMsgType.TEXT:
            return _event(message.data)
        if message.type == aiohttp.WSMsgType.BINARY:  # a preview picture
            return "", {}
        await self.close_socket()
        return None

    async def listen(self) -> None:
        """Open the websocket connection unless it is open; what is queued after that is heard of."""
        if self._socket is None:
            address = self._at("ws").with_query(clientId=self.client_id)
            with translated(self.name):
                self._socket = await self._asked().ws_connect(
                    address, heartbeat=HEARTBEAT_SECONDS, max_msg_size=MAX_JSON
                )

    async def close_socket(self) -> None:
        """End the websocket connection, if there is one."""
        socket, self._socket = self._socket, None
        if socket is not None:
            await socket.close()

    async def _json(self, method: str, path: str, body: object = None) -> Any:
        with translated(self.name):
            async with self._asked().request(method, self._at(path), json=body) as answer:
                require_up(self.name, answer.status)
                raw = bytearray()
                async for chunk in answer.content.iter_chunked(CHUNK):
                    raw += chunk
                    if len(raw) > MAX_JSON:
                        raise ServerError(f"{self.name}/{path} answered with more than {MAX_JSON} bytes.")
                try:
                    found = json.loads(raw) if raw else None
                except (ValueError, RecursionError) as error:
                    if answer.status != 200:
                        raise ServerError(
                            f"{self.name}/{path} answered {answer.status}: is this a ComfyUI, and its nvfp4-studio up to "
                            "date?"
                        ) from error
                    raise ServerError(f"{self.name}/{path} is no ComfyUI: its answer is no JSON.") from error
                if answer.status != 200:
                    raise ServerError(f"{self.name}/{path} answered {answer.status}: {_complaint(found)}")
                return found

    async def _download(self, name: str, route: str, path: Path, what: str, most: int) -> bool:
        with translated(self.name):
            async with self._asked().get(self._at(f"{CALIBRATIONS}/{route}").with_query(name=name)) as answer:
                if answer.status == 404:
                    return False
                require_up(self.name, answer.status)
                if answer.status != 200:
                    raise ServerError(f"{self.name} answered {answer.status} instead of {what}.")
                size = 0
                with path.open("wb") as file:
                    async for chunk in answer.content.iter_chunked(CHUNK):
                        size += len(chunk)
                        if size > most:
                            raise ServerError(f"{self.name} sent more than {most} bytes as {what}.")
                        file.write(chunk)
                return True

    def _asked(self) -> aiohttp.ClientSession:
        assert self._session is not None
        return self._session

    def _at(self, path: str) -> URL:
        return self.url / path


def _url(address: str) -> URL:
    text = address if "://" in address else f"http://{address}"
    try:
        url = URL(text)
        port = url.port
    except ValueError as error:
        raise RequestError(f"--server {address}: {error}.") from error
    if url.scheme not in ("http", "https") or not url.host or port is None or url.query or url.fragment:
        raise RequestError(f"--server {address} is no address of a server: write it like http://127.0.0.1:8188.")
    return url


@contextlib.contextmanager
def translated(name: str) -> Iterator[None]:
    """Failures of the connection as `Unreachable`."""
    try:
        yield
    except (aiohttp.ClientError, asyncio.TimeoutError, ConnectionError) as error:
        raise Unreachable(f"{name} does not answer ({str(error) or type(error).__name__}).") from error


def require_up(name: str, status: int) -> None:
    if status in (502, 503, 504):
        raise Unreachable(f"{name} does not answer (its proxy says {status}).")


def _event(data: str) -> tuple[str, dict[str, Any]]:
    try:
        found = json.loads(data)
    except (ValueError, RecursionError):
        return "", {}
    if isinstance(found, dict) and isinstance(found.get("type"), str) and isinstance(found.get("data"), dict):
        return found["type"], found["data"]
    return "", {}


def _complaint(found: object) -> str:
    """What ComfyUI says is wrong with a prompt, in one line."""
    if not isinstance(found, dict):
        return "no reason given."
    error = found.get("error")
    if isinstance(error, str):
        return one_line(error)
    parts = [str(error.get("message", "")), str(error.get("details", ""))] if isinstance(error, dict) else []
    nodes = found.get("node_errors")
    for node, problem in nodes.items() if isinstance(nodes, dict) else ():
        for one in problem.get("errors", ()) if isinstance(problem, dict) else ():
            if isinstance(one, dict):
                parts.append(f"node {node}: {one.get('message', '')}: {one.get('details', '')}")
    return one_line("; ".join(part for part in parts if part)) or "no reason given."
