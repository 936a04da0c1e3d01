"""One client connection: a request is one write, its answer comes as callbacks stamped when the bytes were read."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from typing import Any, Final

import httptools

from llmops.http1.errors import TransferError
from llmops.http1.receiver import Headers, Limits, Receiver
from llmops.http1.request import Origin
from llmops.http1.writing import plain_fd, write_now

# A server that lets a kept connection go does so before it has seen the request, so its end comes within a round trip.
# One that closes later had the request, and may have worked on it.
_RACE_NS: Final = 1_000_000_000
_FRAMING: Final = frozenset({b"content-length", b"transfer-encoding"})


class Connection:
    """A connection to one origin, carrying one exchange at a time (no pipelining).

    It has the methods of ``asyncio.Protocol``, but is not derived from it: compiled, its fields are then a struct's.

    Attributes:
        origin: Where it goes.
        served: Whole answers so far; more than 0 means that a request on it rides a reused connection.
        sent_ns: When the latest request was given to the transport.
        last_ns: When the latest bytes were read.
        answer_begun: Whether any byte of the present answer, an informational one included, has been read.
        paused: Whether reading is paused.
        on_close: Called once when the connection is gone, after the receiver's last callback.
    """

    __slots__ = (
        "_body_bytes", "_close_delimited", "_complete", "_extra", "_fd", "_framed", "_head_bytes", "_head_done", "_head_only",
        "_headers", "_keep", "_lengths", "_most_body", "_most_head", "_parser", "_receiver", "_transport", "answer_begun", "closed", "last_ns",
        "on_close", "origin", "paused", "sent_ns", "served",
    )  # fmt: skip

    def __init__(self, origin: Origin, limits: Limits | None = None) -> None:
        self.origin = origin
        self.served = 0
        self.sent_ns = self.last_ns = 0
        self.answer_begun = self.paused = self.closed = False
        self.on_close: Callable[[Connection], None] | None = None
        limits = limits or Limits()
        self._most_head, self._most_body = limits.max_head_bytes, limits.max_body_bytes
        self._parser: Any = httptools.HttpResponseParser(self)  # let go of at the end
        self._receiver: Receiver | None = None
        self._transport: asyncio.Transport | None = None
        self._fd = -1
        self._headers: Headers = []
        self._lengths = self._head_bytes = self._body_bytes = 0
        self._framed = self._head_done = self._complete = self._extra = self._keep = False
        self._close_delimited = self._head_only = False

    # What the owner calls.

    @property
    def busy(self) -> bool:
        """Whether an exchange is under way."""
        return self._receiver is not None

    @property
    def reusable(self) -> bool:
        """Whether another request may be sent on it now."""
        return self._receiver is None and not self.closed

    def send(self, request: bytes, receiver: Receiver, *, head_only: bool = False) -> None:
        """Start an exchange. ``head_only``: the request is HEAD, so its answer has no body whatever its headers say.

        Raises:
            TransferError: The connection is closed (nothing was sent), as ``closed-before-response``.
        """
        transport = self._transport
        if self.closed or transport is None or transport.is_closing():
            raise TransferError("closed-before-response", "the connection is closed", safe_to_retry=True)
        if self._receiver is not None:
            raise RuntimeError("the connection is busy")
        self._reset()
        self._receiver = receiver
        self._head_only = head_only
        self.sent_ns = self.last_ns = time.monotonic_ns()
        write_now(transport, self._fd, request)

    def pause(self) -> None:
        """Stop reading, so that the server's window fills: for a receiver whose own reader is slow."""
        if not self.paused and not self.closed and self._transport is not None:
            self.paused = True
            self._transport.pause_reading()

    def resume(self) -> None:
        """Read again."""
        if self.paused:
            self.paused = False
            self.last_ns = time.monotonic_ns()
            if not self.closed and self._transport is not None:
                self._transport.resume_reading()

    def abort(self) -> None:
        """Drop the connection at once, so that the server stops its work; the receiver hears nothing more."""
        self._receiver = None
        self._drop()

    def fail(self, error: TransferError) -> None:
        """Drop the connection and tell the receiver why."""
        receiver, self._receiver = self._receiver, None
        self._drop()
        if receiver is not None:
            receiver.fail(error)

    def close(self) -> None:
        """Close an idle connection in good order; a busy one is dropped."""
        if self._receiver is not None:
            self.abort()
        elif not self.closed and self._transport is not None:
            self.closed = True
            self._transport.close()

    # asyncio.Protocol

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = transport  # type: ignore[assignment]  # a stream transport, by create_connection's contract
        self._fd = plain_fd(transport)

    def data_received(self, data: bytes) -> None:
        self.last_ns = time.monotonic_ns()
        if self._receiver is None:  # nobody asked: never let it become the answer to the next request
            self._drop()
            return
        self.answer_begun = True
        if not self._head_done:
            self._head_bytes += len(data)
        try:
            self._parser.feed_data(data)
        except httptools.HttpParserCallbackError as error:
            self._receiver_broke(error)
            return
        except (httptools.HttpParserError, httptools.HttpParserUpgrade) as error:
            if not self._complete:
                self.fail(TransferError("protocol", f"not an HTTP/1.1 answer: {error or type(error).__name__}"))
                return
            self._extra = True
        if self._complete:
            self._finish()
        elif not self._head_done and self._head_bytes > self._most_head:
            self._head_too_large()

    def connection_lost(self, exc: Exception | None) -> None:
        self.closed = True
        self._transport = None  # asyncio's transports raise when they are aborted after their end
        receiver, self._receiver = self._receiver, None
        self._parser = None  # it holds this connection, as this holds it
        if receiver is not None:
            if self._close_delimited and self._head_done and exc is None:
                self.served += 1
                receiver.end(time.monotonic_ns())
            else:
                receiver.fail(self._loss(exc))
        if self.on_close is not None:
            callback, self.on_close = self.on_close, None
            callback(self)

    def eof_received(self) -> None:
        """The transport closes, and says so in ``connection_lost``."""

    def pause_writing(self) -> None:
        """A request is one write; whoever streams one waits for nothing here."""

    def resume_writing(self) -> None:
        """See ``pause_writing``."""

    # httptools callbacks

    def on_message_begin(self) -> None:
        if self._complete:
            self._extra = True
        else:
            self._headers = []
            self._lengths = 0
            self._framed = False

    def on_header(self, name: bytes, value: bytes) -> None:
        if self._head_done:  # a trailer
            return
        lower = name.lower()
        self._headers.append((lower, value))
        if lower in _FRAMING:
            if lower == b"content-length":
                self._lengths += 1
            else:
                self._framed = True

    def on_headers_complete(self) -> None:
        receiver = self._receiver
        if receiver is None or self._complete:
            return
        status = self._parser.get_status_code()
        if status == 101:
            raise httptools.HttpParserError("it switches to another protocol")
        if 100 <= status < 200:
            return
        if (self._framed and self._lengths) or self._lengths > 1:
            raise httptools.HttpParserError("it has more than one length")
        most = self._most_head  # the packets so far may hold body, too, so only then is it added up
        if self._head_bytes > most and sum(len(name) + len(value) + 4 for name, value in self._headers) > most:
            self._head_too_large()
            return
        self._head_done = True
        empty = self._head_only or status in (204, 304)
        self._close_delimited = not (empty or self._framed or self._lengths)
        receiver.head(status, self._headers, self.last_ns)
        if self._head_only:
            self._complete = True
            self._keep = self._parser.should_keep_alive()

    def on_body(self, data: bytes) -> None:
        receiver = self._receiver
        if receiver is None or self._complete:
            return
        limit = self._most_body
        if limit is not None:
            self._body_bytes += len(data)
            if self._body_bytes > limit:
                self.fail(TransferError("body-too-large", f"the answer is over {limit} bytes"))
                return
        receiver.body(data, self.last_ns)

    def on_message_complete(self) -> None:
        if self._head_done:  # else an informational answer, after which the real one comes
            self._complete = True
            self._keep = self._parser.should_keep_alive()  # the parser forgets it right after this callback

    # The rest

    def _reset(self) -> None:
        self._headers = []
        self._lengths = self._head_bytes = self._body_bytes = 0
        self._framed = self._head_done = self._complete = self._extra = self._keep = self._close_delimited = False
        self.answer_begun = False

    def _finish(self) -> None:
        receiver, self._receiver = self._receiver, None
        if receiver is None:
            return
        self.served += 1
        transport = self._transport
        keep = self._keep and not self._extra
        # An answer before the request was read to its end: the rest of that request would be taken for the next one.
        if not keep or transport is None or transport.get_write_buffer_size():
            self._drop()
        elif self._head_only:
            self._parser = httptools.HttpResponseParser(self)  # the old one still waits for a body
        receiver.end(self.last_ns)

    def _drop(self) -> None:
        self.closed = True
        if self._transport is not None:
            self._transport.abort()

    def _head_too_large(self) -> None:
        self.fail(TransferError("head-too-large", f"the headers are over {self._most_head} bytes"))

    def _receiver_broke(self, error: httptools.HttpParserCallbackError) -> None:
        cause = error.__context__
        if isinstance(cause, httptools.HttpParserError):
            self.fail(TransferError("protocol", f"not an HTTP/1.1 answer: {cause}"))
            return
        self.fail(TransferError("receiver", f"the receiver raised {type(cause).__name__}"))
        asyncio.get_running_loop().call_exception_handler(
            {"message": "a receiver raised", "exception": cause, "protocol": self}
        )

    def _loss(self, exc: Exception | None) -> TransferError:
        if not self.answer_begun:
            how = "reset" if isinstance(exc, ConnectionError) else "closed"
            return TransferError(
                "closed-before-response",
                f"the server {how} the connection before answering",
                safe_to_retry=self.served > 0 and time.monotonic_ns() - self.sent_ns < _RACE_NS,
            )
        if exc is not None:
            return TransferError("reset", f"the connection broke inside the answer: {exc}")
        return TransferError("cut", "the server closed the connection inside the answer")
