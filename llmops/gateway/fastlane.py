"""The short cut: hot requests answered inside uvicorn's own protocol class, without scope, receive and send.

A subclass of uvicorn's ``HttpToolsProtocol`` that keeps its connection handling, keep-alive and shutdown, and takes the
hot paths of ``surfaces.HOT`` for itself; everything else goes the ordinary ASGI road. It leans on these attributes of
uvicorn's class, which ``fits`` checks and a test pins: ``parser``, ``transport``, ``flow``, ``cycle``, ``pipeline``,
``tasks``, ``on_response_complete``. Where they are missing the gateway runs on plain ASGI, slower but right.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from http import HTTPStatus
from typing import TYPE_CHECKING, Any, Final

from httptools import HttpParserError, HttpParserUpgrade
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from llmops.gateway.refusal import Refusal
from llmops.gateway.reply import MARKED, RawHeaders, Request
from llmops.gateway.request import serve
from llmops.gateway.sockets import has_unread
from llmops.gateway.surfaces import HOT, Surface

if TYPE_CHECKING:
    from llmops.gateway.app import App

_NEEDED: Final = (
    "on_headers_complete",
    "on_message_complete",
    "on_body",
    "on_response_complete",
    "shutdown",
    "send_400_response",
    "_unsupported_upgrade_warning",
)
# How long a connection without a request is kept open while the server ends.
_LINGER_S: Final = 0.5
_LOOK_AGAIN_S: Final = 0.02
_LOOKED_FOR: Final = MARKED | {b"expect"}
_STATUS: Final = {status.value: f"{status.value} {status.phrase}".encode() for status in HTTPStatus}


def fits() -> bool:
    """Whether the installed uvicorn has what this class leans on."""
    return all(hasattr(HttpToolsProtocol, name) for name in _NEEDED)


class _Event:
    """Stands in for the asyncio.Event of uvicorn's cycle, which a short-cut request has no use for."""

    __slots__ = ()

    def set(self) -> None:
        """Nothing waits."""


_EVENT: Final = _Event()


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

    def __init__(self, lane: Lane, surface: Surface, keep_alive: bool) -> None:
        self._lane = lane
        self.surface = surface
        self.headers: RawHeaders = lane.headers
        self.marked = lane.marked
        self.keep_alive = keep_alive
        self.chunks: list[bytes] = []

    def whole(self, status: int, headers: bytes, body: bytes) -> None:
        """See ``Reply``."""
        if self.gone or self.response_started:
            return
        self.response_started = True
        close = b"" if self.keep_alive else b"connection: close\r\n"
        self._lane.transport.write(
            b"HTTP/1.1 %b\r\n%bcontent-length: %d\r\n%b\r\n%b"
            % (_STATUS.get(status) or _unusual(status), headers, len(body), close, body)
        )
        self._complete()

    def start(self, status: int, headers: bytes, first: bytes) -> None:
        """See ``Reply``."""
        if self.gone:
            return
        self.response_started = True
        close = b"" if self.keep_alive else b"connection: close\r\n"
        chunk = b"%x\r\n%b\r\n" % (len(first), first) if first else b""
        self._lane.transport.write(
            b"HTTP/1.1 %b\r\n%btransfer-encoding: chunked\r\n%b\r\n%b"
            % (_STATUS.get(status) or _unusual(status), headers, close, chunk)
        )

    def write(self, data: bytes) -> None:
        """See ``Reply``."""
        if not self.gone and data:
            self._lane.transport.write(b"%x\r\n%b\r\n" % (len(data), data))

    def end(self) -> None:
        """See ``Reply``."""
        if not self.gone:
            self._lane.transport.write(b"0\r\n\r\n")
            self._complete()

    def settled(self) -> None:
        """See ``Reply``: the task is taken from uvicorn's set here, which costs less than a callback of the task."""
        if self.task is not None:
            self._lane.tasks.discard(self.task)

    def cut(self) -> None:
        """See ``Reply``."""
        self.gone = True
        self._lane.transport.abort()

    def lost(self) -> None:
        """The connection is gone."""
        self.gone = self.disconnected = True
        if self.on_gone is not None and not self.response_complete:
            self.on_gone()

    def _complete(self) -> None:
        self.response_complete = True
        if not self.keep_alive:
            self._lane.transport.close()
        self._lane.on_response_complete()


def _unusual(status: int) -> bytes:
    return b"%d Status" % status


class Lane(HttpToolsProtocol):
    """uvicorn's protocol with a short cut for hot requests."""

    marked: RawHeaders
    _hot: LaneReply | None = None
    idle_since = 0.0

    def __init__(self, gateway: App, **given: Any) -> None:
        super().__init__(**given)
        self.gateway = gateway

    def data_received(self, data: bytes) -> None:
        """As uvicorn's, which has a timer to cancel before each request."""
        try:
            self.parser.feed_data(data)
        except HttpParserError:
            self.logger.warning("Invalid HTTP request received.")
            self.send_400_response("Invalid HTTP request received.")
        except HttpParserUpgrade:
            self._unsupported_upgrade_warning()

    def on_url(self, url: bytes) -> None:
        """As uvicorn's."""
        known: bytes = self.url
        self.url = known + url  # mypyc has no += for what another class declares

    def on_message_begin(self) -> None:
        """The ASGI scope is made only for requests that need one."""
        self.url = b""
        self.headers = []
        self.marked = []
        self.expect_100_continue = False

    def on_header(self, name: bytes, value: bytes) -> None:
        """As uvicorn's, and what every request is searched for is put aside."""
        name = name.lower()
        self.headers.append((name, value))
        if name in _LOOKED_FOR:
            if name != b"expect":
                self.marked.append((name, value))
            elif value.lower() == b"100-continue":
                self.expect_100_continue = True

    def on_headers_complete(self) -> None:
        """Take a POST to a hot path; leave everything else, upgrades and strange versions included, to uvicorn."""
        surface = HOT.get(self.url.partition(b"?")[0]) if self.parser.get_method() == b"POST" else None
        if surface is None or self.parser.get_http_version() != "1.1" or self.parser.should_upgrade():
            self._hot = None
            url, headers, expects = self.url, self.headers, self.expect_100_continue
            super().on_message_begin()
            self.url, self.headers, self.expect_100_continue = url, headers, expects
            self.scope["headers"] = headers
            super().on_headers_complete()
            return
        if self.expect_100_continue:
            self.transport.write(b"HTTP/1.1 100 Continue\r\n\r\n")
        keep = self.parser.should_keep_alive() and not self.gateway.draining
        self._hot = LaneReply(self, surface, keep)
        self.headers, self.marked = [], []  # a trailer, which comes after the body, says nothing about who asks

    def on_body(self, body: bytes) -> None:
        """Collect the body of a hot request, up to the limit."""
        hot = self._hot
        if hot is None:
            super().on_body(body)
            return
        hot.size += len(body)
        if hot.size <= self.gateway.max_body:
            hot.chunks.append(body)

    def on_message_complete(self) -> None:
        """A hot request is whole: begin, or queue it behind the one before (pipelining)."""
        hot = self._hot
        if hot is None:
            super().on_message_complete()
            return
        self._hot = None
        hot.started_ns = time.monotonic_ns()
        before: Any = self.cycle
        if before is None or before.response_complete:
            self._begin(hot)
        else:
            self.flow.pause_reading()
            self.pipeline.appendleft((hot, None))  # type: ignore[arg-type]  # taken out again in _start_asgi_task

    def _start_asgi_task(self, cycle: Any, app: Any) -> None:
        """How uvicorn starts what was pipelined; ours are told apart by their type."""
        if isinstance(cycle, LaneReply):
            self._begin(cycle)
        else:
            super()._start_asgi_task(cycle, app)

    def _begin(self, hot: LaneReply) -> None:
        self.cycle = hot  # type: ignore[assignment]  # it has the attributes of a cycle that uvicorn touches
        if hot.size > self.gateway.max_body:
            hot.keep_alive = False
            refusal = Refusal(413, f"the body is over {self.gateway.max_body} bytes", code="body_too_large")
            hot.whole(413, b"content-type: application/json\r\n", refusal.body(hot.surface.dialect, ""))
            return
        chunks = hot.chunks
        body = chunks[0] if len(chunks) == 1 else b"".join(chunks)
        client = self.client[0] if self.client else ""
        request = Request(hot.surface, hot.headers, hot.marked, body, client=client, started_ns=hot.started_ns)
        # The task is not known inside itself before it runs, so the reply carries it.
        # Made here and with a name, since the loop makes up a new one each time, which costs as much as the task.
        hot.task = asyncio.Task(serve(self.gateway.site, request, hot), loop=self.loop, name="request")
        self.tasks.add(hot.task)

    def on_response_complete(self) -> None:
        """As uvicorn's, but without a timer for each answer: ``sweep`` closes what is idle for too long."""
        self.server_state.total_requests += 1
        if self.transport.is_closing():
            return
        if self.flow.read_paused:
            self.flow.resume_reading()
        if self.pipeline:
            cycle, app = self.pipeline.pop()
            self._start_asgi_task(cycle, app)
        else:
            self.idle_since = time.monotonic()

    def shutdown(self) -> None:
        """As uvicorn's; but a connection without an answer under way may still bring a request, which may be on its way."""
        cycle: Any = self.cycle
        if self._hot is not None or cycle is None or cycle.response_complete:
            self.loop.call_later(_LINGER_S, self._close_unless_asked)
        else:
            super().shutdown()

    def _close_unless_asked(self) -> None:
        cycle: Any = self.cycle
        if self.transport.is_closing() or self._hot is not None or not (cycle is None or cycle.response_complete):
            return
        raw = self.transport.get_extra_info("socket")
        if raw is not None and has_unread(raw.fileno()):  # a request came while the loop was busy: it is answered, too
            self.loop.call_later(_LOOK_AGAIN_S, self._close_unless_asked)
        else:
            self.transport.close()

    def close_if_idle(self, before: float) -> None:
        """Close a connection whose last answer was over before a time; one that never asked counts from its start."""
        cycle: Any = self.cycle
        if (cycle is None or cycle.response_complete) and self._hot is None and self.idle_since < before:
            self.transport.close()

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]  # as uvicorn's
        """Count idleness from here."""
        self.idle_since = time.monotonic()
        super().connection_made(transport)

    def connection_lost(self, exc: Exception | None) -> None:
        """Tell the request under way."""
        cycle: Any = self.cycle
        super().connection_lost(exc)
        if isinstance(cycle, LaneReply) and not cycle.response_complete:
            cycle.lost()
        waiting: list[Any] = [queued for queued, _ in self.pipeline]
        for queued in waiting:
            if isinstance(queued, LaneReply):
                queued.lost()
        if isinstance(cycle, LaneReply):
            self.cycle = None  # type: ignore[assignment]  # it holds this connection, as this holds it

    def pause_writing(self) -> None:
        """The caller reads slowly: stop reading from the upstream."""
        super().pause_writing()
        cycle: Any = self.cycle
        if isinstance(cycle, LaneReply) and cycle.on_pause is not None:
            cycle.on_pause()

    def resume_writing(self) -> None:
        """The caller has caught up."""
        super().resume_writing()
        cycle: Any = self.cycle
        if isinstance(cycle, LaneReply) and cycle.on_resume is not None:
            cycle.on_resume()
