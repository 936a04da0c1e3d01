"""Timeouts of many exchanges by one timer, because a timer for each request costs more than the request."""

from __future__ import annotations

import asyncio
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from llmops.http1.errors import TransferError, TransferKind

if TYPE_CHECKING:
    from llmops.http1.connection import Connection

_NS: Final = 1_000_000_000


@dataclass(frozen=True, slots=True)
class Timeouts:
    """Seconds; None switches a limit off. Each fires up to one tick of the sweep late.

    Attributes:
        first_byte_s: From the request's write to the first byte of the answer.
        idle_s: Between two reads of one answer; time in which reading is paused does not count.
        total_s: From the request's write to the answer's end.
    """

    first_byte_s: float | None = 600.0
    idle_s: float | None = 120.0
    total_s: float | None = None


class Sweep:
    """Looks at every watched connection each ``tick_s`` and fails the exchanges whose time is up."""

    __slots__ = ("_handle", "_loop", "_tick_s", "_watched")

    def __init__(self, tick_s: float = 0.25) -> None:
        self._loop = asyncio.get_running_loop()
        self._tick_s = tick_s
        self._watched: dict[Connection, Timeouts] = {}
        self._handle: asyncio.TimerHandle | None = None

    def watch(self, connection: Connection, timeouts: Timeouts) -> None:
        """Apply ``timeouts`` to each exchange of ``connection`` until it closes."""
        self._watched[connection] = timeouts
        if self._handle is None:
            self._handle = self._loop.call_later(self._tick_s, self._look)

    def close(self) -> None:
        """Stop looking."""
        if self._handle is not None:
            self._handle.cancel()
            self._handle = None
        self._watched.clear()

    def _look(self) -> None:
        now = time.monotonic_ns()
        for connection, timeouts in list(self._watched.items()):
            if connection.closed:
                del self._watched[connection]
            elif connection.busy and (found := _expired(connection, timeouts, now)):
                kind, limit_s = found
                connection.fail(TransferError(kind, f"{kind.replace('-', ' ')} after {limit_s:g} s"))
        self._handle = self._loop.call_later(self._tick_s, self._look) if self._watched else None


def _expired(connection: Connection, timeouts: Timeouts, now: int) -> tuple[TransferKind, float] | None:
    waited = now - connection.sent_ns
    begun = connection.answer_begun
    if not begun and timeouts.first_byte_s is not None and waited > timeouts.first_byte_s * _NS:
        return "first-byte-timeout", timeouts.first_byte_s
    if timeouts.total_s is not None and waited > timeouts.total_s * _NS:
        return "total-timeout", timeouts.total_s
    if not begun:
        return None
    if timeouts.idle_s is not None and not connection.paused and now - connection.last_ns > timeouts.idle_s * _NS:
        return "idle-timeout", timeouts.idle_s
    return None
