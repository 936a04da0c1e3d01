"""The short cut: hot requests answered inside uvicorn's own protocol class, without scope, receive and send.

A subclass of uvicorn's ``HttpToolsProtocol`` that keeps its connection handling, keep-alive and shutdown, and takes the
hot paths of ``surfaces.HOT`` for itself; everything else goes the ordinary ASGI road. It leans on these attributes of
uvicorn's class, which ``fits`` checks and a test pins: ``parser``, ``transport``, ``flow``, ``cycle``, ``pipeline``,
``tasks``, ``on_response_complete``. Where they are missing the gateway runs on plain ASGI, slower but right.
"""

from __future__ import annotations

import asyncio
import time
from typing import TYPE_CHECKING, Any, Final

from httptools import HttpParserError, HttpParserUpgrade
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from llmops.gateway.line import LaneReply, Line
from llmops.gateway.refusal import Refusal
from llmops.gateway.reply import MARKED, RawHeaders, Request
from llmops.gateway.request import serve
from llmops.gateway.sockets import has_unread
from llmops.gateway.surfaces import HOT

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


def fits() -> bool:
    """Whether the installed uvicorn has what this class leans on."""
    return all(hasattr(HttpToolsProtocol, name) for name in _NEEDED)


class Lane(HttpToolsProtocol):
    """uvicorn's protocol with a short cut for hot requests."""

    marked: RawHeaders
    _hot: LaneReply | None = None
    # Whether the parser stands between two requests, so that the next may go round it.
    _between = True
    line: Line

    def __init__(self, gateway: App, **given: Any) -> None:
        super().__init__(**given)
        self.gateway = gateway

    def data_received(self, data: bytes) -> None:
        """A plain request is taken as it is; the rest as uvicorn does it, which has a timer to cancel before each."""
        if self._between:
            before: Any = self.cycle
            line: Line = self.line
            body = line.reader.body(data) if before is None or before.response_complete else None
            if body is not None:
                self._take(line, body)
                return
        try:
            self.parser.feed_data(data)
        except HttpParserError:
            self.logger.warning("Invalid HTTP request received.")
            self.send_400_response("Invalid HTTP request received.")
        except HttpParserUpgrade:
            self._unsupported_upgrade_warning()

    def _take(self, line: Line, body: bytes) -> None:
        head = line.reader.head
        assert head is not None  # it had this body
        hot = LaneReply(line, head.surface, head.headers, head.marked, not line.gateway.draining)
        hot.started_ns = time.monotonic_ns()
        hot.size = len(body)
        hot.chunks.append(body)
        self._begin(hot)

    def on_url(self, url: bytes) -> None:
        """As uvicorn's."""
        known: bytes = self.url
        self.url = known + url  # mypyc has no += for what another class declares

    def on_message_begin(self) -> None:
        """The ASGI scope is made only for requests that need one."""
        self._between = False
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
        self._hot = LaneReply(self.line, surface, self.headers, self.marked, keep)
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
        self._between = self.parser.should_keep_alive()
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
        line: Line = self.line
        gateway = line.gateway
        if hot.size > gateway.max_body:
            hot.keep_alive = False
            refusal = Refusal(413, f"the body is over {gateway.max_body} bytes", code="body_too_large")
            hot.whole(413, b"content-type: application/json\r\n", refusal.body(hot.surface.dialect, ""))
            return
        chunks = hot.chunks
        body = chunks[0] if len(chunks) == 1 else b"".join(chunks)
        request = Request(
            hot.surface,
            hot.headers,
            hot.marked,
            body,
            digester=line.digester,
            client=line.client,
            started_ns=hot.started_ns,
        )
        # The task is not known inside itself before it runs, so the reply carries it.
        # Made here and with a name, since the loop makes up a new one each time, which costs as much as the task.
        hot.task = asyncio.Task(serve(gateway.site, request, hot), loop=line.loop, name="request")
        line.tasks.add(hot.task)

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
            self.line.idle_since = time.monotonic()

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
        if (cycle is None or cycle.response_complete) and self._hot is None and self.line.idle_since < before:
            self.transport.close()

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]  # as uvicorn's
        """As uvicorn's."""
        super().connection_made(transport)
        self.line = Line(self, transport)

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
