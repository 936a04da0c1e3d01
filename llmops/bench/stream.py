"""One request under way. Nothing is parsed here: its receiver keeps bytes and the time at which they came."""

from __future__ import annotations

import time
from array import array
from collections.abc import Callable

from llmops.bench.spool import Record
from llmops.bench.wire import Message
from llmops.http1 import Connection, TransferError

Finished = Callable[["Stream", int, TransferError | None], None]


class Stream:
    """One request and the receiver of its answer.

    Attributes:
        due_ns: When it should be sent; 0 before it is admitted.
        start_ns: When its clock starts (see ``Record``); 0 before.
        sent_ns: When it was written; 0 before.
        measured: Whether it belongs to the measured window.
        stamps, parts: The pieces of the answer and when each came.
        messages: What it says, for the next turn to quote.
        request: Its bytes.
        connection: Which carries it, None before and after.
    """

    __slots__ = (
        "_finished", "connection", "conversation", "due_ns", "measured", "messages", "number", "output_tokens", "parts",
        "request", "retries", "sent_ns", "stamps", "start_ns", "status", "turn", "words",
    )  # fmt: skip

    def __init__(self, finished: Finished, conversation: int, turn: int) -> None:
        self._finished = finished
        self.conversation, self.turn = conversation, turn
        self.number = self.due_ns = self.start_ns = self.sent_ns = self.status = self.retries = 0
        self.words = self.output_tokens = 0
        self.measured = True
        self.stamps: array[int] = array("q")
        self.parts: list[bytes] = []
        self.messages: list[Message] = []
        self.request = b""
        self.connection: Connection | None = None

    def head(self, status: int, _headers: list[tuple[bytes, bytes]], _at_ns: int) -> None:
        """The answer begins."""
        self.status = status

    def body(self, data: bytes, at_ns: int) -> None:
        """A piece of the answer."""
        self.stamps.append(at_ns)
        self.parts.append(data)

    def end(self, at_ns: int) -> None:
        """The answer is whole."""
        self._finished(self, at_ns, None)

    def fail(self, error: TransferError) -> None:
        """The answer will not become whole."""
        self._finished(self, time.monotonic_ns(), error)

    def record(self, at_ns: int, error: TransferError | None, *, open_loop: bool) -> Record:
        """What is kept of it, ended at ``at_ns``."""
        start_ns = self.start_ns or self.due_ns
        return Record(
            number=self.number,
            conversation=self.conversation,
            turn=self.turn,
            due_ns=self.due_ns if open_loop else start_ns,
            start_ns=start_ns,
            sent_ns=self.sent_ns,
            end_ns=at_ns,
            status=self.status,
            error=error.kind if error else "",
            detail=str(error) if error else "",
            words=self.words,
            asked_tokens=self.output_tokens,
            measured=self.measured,
            retries=self.retries,
            stamps=self.stamps.tobytes(),
            sizes=array("I", [len(part) for part in self.parts]).tobytes(),
            body=b"".join(self.parts),
        )
