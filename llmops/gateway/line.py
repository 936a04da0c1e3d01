"""What the short cut answers on: a connection in compiled fields, and the reply to one of its requests."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from http import HTTPStatus
from typing import TYPE_CHECKING, Any, Final

from llmops.gateway.access.keyform import Digester
from llmops.gateway.plain import PlainReader
from llmops.gateway.reply import RawHeaders
from llmops.gateway.surfaces import Surface
from llmops.http1.writing import plain_fd, write_now

if TYPE_CHECKING:
    from llmops.gateway.fastlane import Lane

_STATUS: Final = {status.value: f"{status.value} {status.phrase}".encode() for status in HTTPStatus}


class _Event:
    """Stands in for the asyncio.Event of uvicorn's cycle, which a short-cut request has no use for."""

    __slots__ = ()

    def set(self) -> None:
        """Nothing waits."""


_EVENT: Final = _Event()


class Line:
    """What the requests of one connection need of it, in fields: uvicorn's protocol class has its own in a dictionary.

    Attributes:
        fd: See ``plain_fd``.
        client: The caller's address.
        idle_since: When its latest answer was over, or it was opened.
    """

    def __init__(self, lane: Lane, transport: asyncio.Transport) -> None:
        self.gateway = lane.gateway
        self.transport = transport
        self.fd = plain_fd(transport)
        self.client: str = lane.client[0] if lane.client else ""
        self.loop = lane.loop
        self.tasks: set[asyncio.Task[None]] = lane.tasks
        self.flow = lane.flow
        self.pipeline: Any = lane.pipeline
        self.counts: Any = lane.server_state
        self.digester = Digester()
        self.reader = PlainReader()
        self.idle_since = time.monotonic()

    def over(self) -> None:
        """An answer is whole."""
        if self.pipeline or self.flow.read_paused or self.transport.is_closing():
            lane: Any = self.transport.get_protocol()
            lane.on_response_complete()
        else:
            self.counts.total_requests += 1
            self.idle_since = time.monotonic()


class LaneReply:
    """One request on the short cut: a ``Reply``, and in the place of uvicorn's request cycle."""

    gone = False
    disconnected = False
    response_started = False
    response_complete = False
    size = 0
    started_ns = 0
    message_event = _EVENT
    on_gone: Callable[[], None] | None = None
    on_pause: Callable[[], None] | None = None
    on_resume: Callable[[], None] | None = None
    task: asyncio.Task[None] | None = None

    def __init__(self, line: Line, surface: Surface, headers: RawHeaders, marked: RawHeaders, keep_alive: bool) -> None:
        self._line = line
        self.surface = surface
        self.headers = headers
        self.marked = marked
        self.keep_alive = keep_alive
        self.chunks: list[bytes] = []

    def whole(self, status: int, headers: bytes, body: bytes) -> None:
        """See ``Reply``."""
        if self.gone or self.response_started:
            return
        self.response_started = True
        close = b"" if self.keep_alive else b"connection: close\r\n"
        line = self._line
        raw = b"HTTP/1.1 %b\r\n%bcontent-length: %d\r\n%b\r\n%b" % (
            _STATUS.get(status) or _unusual(status),
            headers,
            len(body),
            close,
            body,
        )
        write_now(line.transport, line.fd, raw)  # before anything else of this turn is done: somebody waits for it
        self._complete()

    def start(self, status: int, headers: bytes, first: bytes) -> None:
        """See ``Reply``."""
        if self.gone:
            return
        self.response_started = True
        close = b"" if self.keep_alive else b"connection: close\r\n"
        chunk = b"%x\r\n%b\r\n" % (len(first), first) if first else b""
        line = self._line
        raw = b"HTTP/1.1 %b\r\n%btransfer-encoding: chunked\r\n%b\r\n%b" % (
            _STATUS.get(status) or _unusual(status),
            headers,
            close,
            chunk,
        )
        write_now(line.transport, line.fd, raw)

    def write(self, data: bytes) -> None:
        """See ``Reply``."""
        if not self.gone and data:
            self._line.transport.write(b"%x\r\n%b\r\n" % (len(data), data))

    def end(self) -> None:
        """See ``Reply``."""
        if not self.gone:
            self._line.transport.write(b"0\r\n\r\n")
            self._complete()

    def settled(self) -> None:
        """See ``Reply``: the task is taken from uvicorn's set here, which costs less than a callback of the task."""
        if self.task is not None:
            self._line.tasks.discard(self.task)

    def cut(self) -> None:
        """See ``Reply``."""
        self.gone = True
        self._line.transport.abort()

    def lost(self) -> None:
        """The connection is gone."""
        self.gone = self.disconnected = True
        if self.on_gone is not None and not self.response_complete:
            self.on_gone()

    def _complete(self) -> None:
        self.response_complete = True
        if not self.keep_alive:
            self._line.transport.close()
        self._line.over()


def _unusual(status: int) -> bytes:
    return b"%d Status" % status
