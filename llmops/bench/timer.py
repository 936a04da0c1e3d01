"""A timer that fires on the microsecond: a timerfd, because event loops round their timers to whole milliseconds."""

from __future__ import annotations

import asyncio
import contextlib
import ctypes
import os
import sys
import time
from collections.abc import Callable
from typing import Final

_NS: Final = 1_000_000_000
_NONBLOCK_CLOEXEC: Final = os.O_NONBLOCK | os.O_CLOEXEC
_ABSTIME: Final = 1


class _Itimerspec(ctypes.Structure):
    _fields_ = (
        ("interval_s", ctypes.c_long),
        ("interval_ns", ctypes.c_long),
        ("value_s", ctypes.c_long),
        ("value_ns", ctypes.c_long),
    )


class Timer:
    """Calls ``callback`` at a time of ``time.monotonic_ns()``; one pending time at once."""

    def __init__(self, callback: Callable[[], None]) -> None:
        self._loop = asyncio.get_running_loop()
        self._callback = callback
        self._handle: asyncio.TimerHandle | None = None
        self._fd = -1
        if sys.platform == "linux":
            self._libc = ctypes.CDLL(None, use_errno=True)
            self._fd = self._libc.timerfd_create(time.CLOCK_MONOTONIC, _NONBLOCK_CLOEXEC)
        if self._fd >= 0:
            self._loop.add_reader(self._fd, self._fired)

    def at(self, when_ns: int) -> None:
        """Fire at ``when_ns``, or at once when that is past."""
        if self._fd < 0:
            self._handle = self._loop.call_later(max(0, when_ns - time.monotonic_ns()) / _NS, self._callback)
            return
        seconds, nanos = divmod(max(1, when_ns), _NS)
        spec = _Itimerspec(0, 0, seconds, nanos)
        self._libc.timerfd_settime(self._fd, _ABSTIME, ctypes.byref(spec), None)

    def close(self) -> None:
        """Never fire again."""
        if self._handle is not None:
            self._handle.cancel()
        if self._fd >= 0:
            self._loop.remove_reader(self._fd)
            os.close(self._fd)
            self._fd = -1

    def _fired(self) -> None:
        with contextlib.suppress(BlockingIOError):
            os.read(self._fd, 8)
        self._callback()
