"""Rate limits that hold over all workers: each limiter's levels live in a mapped file, changed under a file lock.

A change costs two system calls and no disk access. What runs at once is counted for each worker by itself, and a worker
clears its own count when it starts, so that one that was killed leaves nothing behind.
"""

from __future__ import annotations

import mmap
import os
import struct
from hashlib import blake2b
from pathlib import Path
from typing import Final

from llmops.errors import MachineError
from llmops.gateway.config import Limits
from llmops.gateway.limits import Bucket, Exceeded, Limiter
from llmops.gateway.money.counters import FileLock

MAX_WORKERS: Final = 256
_KEY: Final = 16
_LEVELS: Final = struct.Struct("<dddd")  # level and time of the requests' and of the tokens' bucket
_COUNTS: Final = struct.Struct(f"<{MAX_WORKERS}H")
_COUNT: Final = struct.Struct("<H")
_SLOT: Final = _KEY + _LEVELS.size + _COUNTS.size
_CAPACITY: Final = 4096
_EMPTY: Final = b"\0" * _KEY


class SharedState:
    """The mapped file, as one worker sees it."""

    def __init__(self, path: Path, worker: int) -> None:
        descriptor = os.open(path, os.O_CREAT | os.O_RDWR | os.O_CLOEXEC, 0o600)
        if os.fstat(descriptor).st_size < _CAPACITY * _SLOT:
            os.ftruncate(descriptor, _CAPACITY * _SLOT)
        self.map = mmap.mmap(descriptor, _CAPACITY * _SLOT)
        self.lock = FileLock(descriptor)
        self.worker = worker

    def limiter(self, form: Limits, name: str) -> SharedLimiter:
        """The limiter called ``name``: the same one in every worker, and after a reload."""
        key = blake2b(
            repr((name, form.requests_per_minute, form.tokens_per_minute)).encode(), digest_size=_KEY
        ).digest()
        with self.lock:
            index = int.from_bytes(key[:8], "little") % _CAPACITY
            for _ in range(_CAPACITY):
                at = index * _SLOT
                held = self.map[at : at + _KEY]
                if held == _EMPTY:
                    full = (float(form.requests_per_minute or 0), 0.0, float(form.tokens_per_minute or 0), 0.0)
                    _LEVELS.pack_into(self.map, at + _KEY, *full)
                    self.map[at : at + _KEY] = key
                if held in (_EMPTY, key):
                    _COUNT.pack_into(self.map, at + _KEY + _LEVELS.size + 2 * self.worker, 0)
                    return SharedLimiter(self, at + _KEY, form)
                index = (index + 1) % _CAPACITY
        raise MachineError("there are more limits than the workers' shared file holds")


class SharedLimiter(Limiter):
    """A limiter whose buckets are read from the shared file before each use and written back after it."""

    __slots__ = ("_at", "_state")

    def __init__(self, state: SharedState, at: int, form: Limits) -> None:
        super().__init__(form, 0.0)
        self._state = state
        self._at = at

    def enter(self, tokens: int, now: float) -> Exceeded | None:
        """See ``Limiter``."""
        with self._state.lock:
            self._load()
            exceeded = super().enter(tokens, now)
            self._save(0 if exceeded is not None else 1)
        return exceeded

    def leave(self, reserved: int, used: int | None) -> None:
        """See ``Limiter``."""
        with self._state.lock:
            self._load()
            super().leave(reserved, used)
            self._save(-1)

    def headers(self, dialect: str, now: float) -> str:
        """See ``Limiter``; read without the lock, for information only."""
        self._load()
        return super().headers(dialect, now)

    def _load(self) -> None:
        values = _LEVELS.unpack_from(self._state.map, self._at)
        for bucket, level, when in ((self._requests, *values[:2]), (self._tokens, *values[2:])):
            if bucket is not None:
                bucket.set(level, when)
        if self._concurrent is not None:
            self.running = sum(_COUNTS.unpack_from(self._state.map, self._at + _LEVELS.size))

    def _save(self, change: int) -> None:
        requests, tokens = _state_of(self._requests), _state_of(self._tokens)
        _LEVELS.pack_into(self._state.map, self._at, *requests, *tokens)
        at = self._at + _LEVELS.size + 2 * self._state.worker
        own = _COUNT.unpack_from(self._state.map, at)[0]
        _COUNT.pack_into(self._state.map, at, max(0, own + change))


def _state_of(bucket: Bucket | None) -> tuple[float, float]:
    return (0.0, 0.0) if bucket is None else bucket.state()
