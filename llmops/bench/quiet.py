"""Keeps the client's own noise out of the measured window, and measures what is left of it."""

from __future__ import annotations

import contextlib
import gc
import sys
import time
from collections.abc import Callable, Iterator
from typing import Final

from llmops.bench.timer import Timer

LAG_TICK_NS: Final = 20_000_000


class LagClock:
    """How late the loop runs its timers: what a stamp can be late by. ``tick`` is called after each look."""

    def __init__(self, lag_ns: list[int], tick: Callable[[], None]) -> None:
        self._lag_ns, self._tick = lag_ns, tick
        self._due = time.monotonic_ns() + LAG_TICK_NS
        self._timer = Timer(self._look)
        self._timer.at(self._due)

    def close(self) -> None:
        """Stop looking."""
        self._timer.close()

    def _look(self) -> None:
        now = time.monotonic_ns()
        self._lag_ns.append(now - self._due)
        self._tick()
        self._due = now + LAG_TICK_NS
        self._timer.at(self._due)


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """No garbage collection, and no other thread (the one that draws progress) keeps the interpreter for long."""
    interval = sys.getswitchinterval()
    sys.setswitchinterval(0.0005)
    gc.collect()
    gc.freeze()
    gc.disable()
    try:
        yield
    finally:
        gc.enable()
        gc.unfreeze()
        sys.setswitchinterval(interval)
