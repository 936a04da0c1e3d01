"""Who takes an answer, and the sizes at which one is refused."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

from llmops.http1.errors import TransferError

Headers = list[tuple[bytes, bytes]]


class Receiver(Protocol):
    """Takes one answer. After ``head`` and any ``body`` exactly one of ``end`` and ``fail`` comes, once, as the last.

    ``at_ns`` is ``time.monotonic_ns()`` at the top of the read that brought the bytes. When ``end`` is called the
    connection is free again, so it may be used or handed on right there.
    """

    def head(self, status: int, headers: Headers, at_ns: int) -> None:
        """The final status and headers (names in lower case); informational answers are skipped."""

    def body(self, data: bytes, at_ns: int) -> None:
        """Decoded body bytes, as the reads and chunks cut them."""

    def end(self, at_ns: int) -> None:
        """The answer is whole."""

    def fail(self, error: TransferError) -> None:
        """The answer will not become whole; the connection is closed."""


@dataclass(frozen=True, slots=True)
class Limits:
    """Sizes at which an answer is refused. ``max_body_bytes`` None: no limit."""

    max_head_bytes: int = 64 * 1024
    max_body_bytes: int | None = None
