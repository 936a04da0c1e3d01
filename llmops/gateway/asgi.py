"""The same answers over plain ASGI, for any server, and for an uvicorn that the short cut does not fit."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Awaitable, Callable, MutableMapping
from typing import TYPE_CHECKING, Any, Final

import msgspec

from llmops.gateway.access.keyform import Digester
from llmops.gateway.refusal import Refusal
from llmops.gateway.reply import Request, marked_of

if TYPE_CHECKING:
    from llmops.gateway.app import App
    from llmops.gateway.surfaces import Surface

Scope = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[MutableMapping[str, Any]]]
Send = Callable[[MutableMapping[str, Any]], Awaitable[None]]
_HIGH_WATER: Final = 256 * 1024


class AsgiReply:
    """Collects what is written; ``pump`` sends it, so that the writers never wait."""

    def __init__(self) -> None:
        self.gone = False
        self.on_gone: Callable[[], None] | None = None
        self.on_pause: Callable[[], None] | None = None
        self.on_resume: Callable[[], None] | None = None
        self.complete = False
        self.task: asyncio.Task[None] | None = None
        self._messages: list[MutableMapping[str, Any]] = []
        self._size = 0
        self._paused = False
        self._wake = asyncio.Event()

    def whole(self, status: int, headers: bytes, body: bytes) -> None:
        """See ``Reply``."""
        if self._messages or self.complete:
            return
        lines = [*_pairs(headers), (b"content-length", b"%d" % len(body))]
        self._put({"type": "http.response.start", "status": status, "headers": lines}, 0)
        self._put({"type": "http.response.body", "body": body}, len(body))
        self.complete = True

    def start(self, status: int, headers: bytes, first: bytes) -> None:
        """See ``Reply``."""
        self._put({"type": "http.response.start", "status": status, "headers": _pairs(headers)}, 0)
        if first:
            self.write(first)

    def write(self, data: bytes) -> None:
        """See ``Reply``."""
        self._put({"type": "http.response.body", "body": data, "more_body": True}, len(data))
        if self._size > _HIGH_WATER and not self._paused and self.on_pause is not None:
            self._paused = True
            self.on_pause()

    def end(self) -> None:
        """See ``Reply``."""
        self._put({"type": "http.response.body", "body": b""}, 0)
        self.complete = True

    def settled(self) -> None:
        """See ``Reply``."""

    def cut(self) -> None:
        """See ``Reply``. ASGI has no word for it: an answer that is never ended makes the server close the connection."""
        self.complete = self.gone = True
        self._wake.set()

    def lost(self) -> None:
        """The caller is gone."""
        if not self.complete and not self.gone:
            self.gone = True
            self._wake.set()
            if self.on_gone is not None:
                self.on_gone()

    async def pump(self, send: Send) -> None:
        """Send until the answer is whole or the caller gone."""
        while True:
            await self._wake.wait()
            self._wake.clear()
            while self._messages:
                if self.gone:
                    return
                message = self._messages.pop(0)
                await send(message)
                self._size -= len(message.get("body", b""))
            if self._paused and self.on_resume is not None:
                self._paused = False
                self.on_resume()
            if self.complete or self.gone:
                return

    def _put(self, message: MutableMapping[str, Any], size: int) -> None:
        if not self.gone:
            self._messages.append(message)
            self._size += size
            self._wake.set()


async def answer(
    app: App, surface: Surface, scope: Scope, receive: Receive, send: Send, *, model: str | None = None
) -> None:
    """Serve one hot request over ASGI; ``model`` is the one that the path names, whatever the body says."""
    reply = AsgiReply()
    chunks: list[bytes] = []
    size, more = 0, True
    while more:
        message = await receive()
        if message["type"] == "http.disconnect":
            return
        chunks.append(message.get("body", b""))
        size += len(chunks[-1])
        more = message.get("more_body", False)
        if size > app.max_body:
            refusal = Refusal(413, f"the body is over {app.max_body} bytes", code="body_too_large")
            headers = b"content-type: application/json\r\nconnection: close\r\n"
            reply.whole(413, headers, refusal.body(surface.dialect, ""))
            await reply.pump(send)
            return
    client = scope.get("client")
    body = b"".join(chunks) if model is None else _for_model(b"".join(chunks), model)
    named = list(scope["headers"])
    caller = client[0] if client else ""
    request = Request(
        surface, named, marked_of(named), body, digester=Digester(), client=caller, started_ns=time.monotonic_ns()
    )
    watcher = asyncio.ensure_future(_watch(receive, reply))
    worker = reply.task = asyncio.get_running_loop().create_task(app.serve(request, reply))
    try:
        await reply.pump(send)
        await worker
    finally:
        for task in (watcher, worker):
            task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await task


def _for_model(body: bytes, model: str) -> bytes:
    """The body with this model; what is no JSON object stays as it is and is refused later, in the usual words."""
    try:
        fields = msgspec.json.decode(body, type=dict[str, msgspec.Raw])
    except msgspec.DecodeError:
        return body
    fields["model"] = msgspec.Raw(msgspec.json.encode(model))
    return msgspec.json.encode(fields)


async def _watch(receive: Receive, reply: AsgiReply) -> None:
    """Notice that the caller goes."""
    while (await receive())["type"] != "http.disconnect":
        pass
    reply.lost()


def _pairs(headers: bytes) -> list[tuple[bytes, bytes]]:
    lines = headers.split(b"\r\n")
    return [(name, value) for name, _, value in (line.partition(b": ") for line in lines) if name]
