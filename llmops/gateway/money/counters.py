"""Counters of budgets in a file that every worker process maps: reserved and spent, changed under one lock.

Amounts are nanodollars, rounded up, in 64 bits: 9.2 billion dollars per counter. A change costs two system calls (lock,
unlock) and no disk access.

A process may be killed between any two instructions. The order of writes makes every such moment err on the safe side:
spent is raised before reserved is lowered, and a reservation is entered before its request is sent. What a killed worker
had reserved is moved to spent from its spool; counters are made anew from the ledger when no worker is alive.
"""

from __future__ import annotations

import fcntl
import mmap
import os
import struct
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from hashlib import blake2b
from pathlib import Path
from typing import Final

from llmops.errors import MachineError

CAPACITY: Final = 1 << 16
SLOT: Final = 64
_KEY: Final = 16
_FIELDS: Final = struct.Struct("=qqqq")  # period, spent, reserved, notified
_SPENT: Final = struct.Struct("=q")
_AT: Final = _KEY
# The same fields as 64-bit numbers of the mapped file: a slot is eight, of which the name takes two.
_NUMBERS: Final = SLOT // 8
_SPENT_AT, _NOTIFIED = 3, 5  # the period at 2, what is reserved at 4
_LOCK_WAIT_S: Final = 2.0
_EMPTY: Final = b"\0" * _KEY


@dataclass(frozen=True)
class Claim:
    """A counter that a request is charged to.

    Attributes:
        slot: Number of the counter in the file.
        period: Start of its period, epoch seconds.
        limit: Nanodollars.
        hard: Whether what does not fit is refused.
        marks: Spent amounts, rising, each of which notifies once a period.
        rule: Index of the budget, for messages.
        name: The counter's own name, for messages.
    """

    slot: int
    period: int
    limit: int
    hard: bool
    marks: tuple[int, ...]
    rule: int
    name: str
    place: int = field(init=False)  # of what is spent, among the file's numbers; its period stands before it
    held_at: tuple[int, int] = field(init=False)  # slot and period, as the ledger keeps them

    def __post_init__(self) -> None:
        object.__setattr__(self, "place", self.slot * _NUMBERS + _SPENT_AT)
        object.__setattr__(self, "held_at", (self.slot, self.period))


@dataclass(frozen=True)
class Counter:
    """The state of one counter."""

    spent: int
    reserved: int


class FileLock:
    """Exclusion between processes by a lock on the file, and between threads of this one by a mutex.

    ``keep`` holds the lock on the file until ``give_up``: a process that is alone saves two system calls a change.
    """

    def __init__(self, descriptor: int) -> None:
        self._descriptor = descriptor
        self.mutex = threading.Lock()
        self.kept = False  # whether the file's lock is held all the time

    def keep(self) -> None:
        """Hold the file's lock from now on."""
        with self:
            self.kept = True

    def give_up(self) -> None:
        """Lock for each change again, as others need."""
        with self.mutex:
            if self.kept:
                self.kept = False
                fcntl.flock(self._descriptor, fcntl.LOCK_UN)

    def __enter__(self) -> None:
        self.mutex.acquire()
        if self.kept:
            return
        try:
            fcntl.flock(self._descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            try:
                self._wait()
            except BaseException:
                self.mutex.release()
                raise

    def __exit__(self, *_: object) -> None:
        if not self.kept:
            fcntl.flock(self._descriptor, fcntl.LOCK_UN)
        self.mutex.release()

    def _wait(self) -> None:
        """The lock is held for microseconds; a holder that was stopped must not stop everyone."""
        deadline = time.monotonic() + _LOCK_WAIT_S
        while True:
            time.sleep(0.0001)
            try:
                fcntl.flock(self._descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
                return
            except BlockingIOError:
                if time.monotonic() > deadline:
                    raise MachineError("the file of budgets has been locked by another process for 2 s") from None


class Counters:
    """The mapped file. Open it in each worker, after the fork."""

    def __init__(self, path: Path, capacity: int = CAPACITY) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        self._descriptor = os.open(path, os.O_CREAT | os.O_RDWR | os.O_CLOEXEC, 0o600)
        size = (capacity + 1) * SLOT  # the last slot says whether another process has come
        try:
            if os.fstat(self._descriptor).st_size < size:
                os.posix_fallocate(self._descriptor, 0, size)
            self._map = mmap.mmap(self._descriptor, size)
        except OSError as error:
            os.close(self._descriptor)
            raise MachineError(f"cannot make the file of budgets {path}: {error.strerror}") from error
        self._capacity = capacity
        self._shared_at = capacity * SLOT
        self._numbers = memoryview(self._map).cast("q")  # read and written four times as fast as through struct
        self._lock = FileLock(self._descriptor)

    def alone(self) -> None:
        """No other process uses the file: hold its lock until one says that it comes. Then call ``look`` now and then."""
        self._map[self._shared_at] = 0
        self._lock.keep()

    def come(self) -> None:
        """Say that another process uses the file from now on, and wait until the one that was alone has seen it."""
        self._map[self._shared_at] = 1
        with self._lock:
            pass

    def look(self) -> None:
        """Let others in where any has come."""
        if self._lock.kept and self._map[self._shared_at]:
            self._lock.give_up()

    def slot(self, name: str) -> int:
        """The number of the counter called ``name``; made where there is none.

        Raises:
            MachineError: The file is full.
        """
        key = blake2b(name.encode(), digest_size=_KEY).digest()
        with self._lock:
            index = int.from_bytes(key[:8], "little") % self._capacity
            for _ in range(self._capacity):
                at = index * SLOT
                held = self._map[at : at + _KEY]
                if held == key:
                    return index
                if held == _EMPTY:
                    _FIELDS.pack_into(self._map, at + _AT, 0, 0, 0, 0)
                    self._map[at : at + _KEY] = key
                    return index
                index = (index + 1) % self._capacity
        raise MachineError("there are more budget counters than the file holds", "use fewer names in `each`")

    def reserve(self, claims: Sequence[Claim], nano: int) -> Claim | None:
        """Enter ``nano`` as reserved in all counters, or in none: then the first that it does not fit is returned."""
        with self._lock.mutex:
            if self._lock.kept:
                return self._reserve(claims, nano)
        with self._lock:
            return self._reserve(claims, nano)

    def _reserve(self, claims: Sequence[Claim], nano: int) -> Claim | None:
        numbers = self._numbers
        held = []
        for claim in claims:
            at = claim.place
            if numbers[at - 1] != claim.period and self._current(claim) is None:
                continue
            reserved = at + 1
            if claim.hard and numbers[at] + numbers[reserved] + nano > claim.limit:
                return claim
            held.append(reserved)
        for at in held:
            numbers[at] += nano
        return None

    def settle(self, claims: Sequence[Claim], reserved_nano: int, spent_nano: int) -> list[tuple[Claim, int, int]]:
        """Turn a reservation into spending. Returns (claim, index of a mark, spent) for each mark reached just now."""
        with self._lock.mutex:
            if self._lock.kept:
                return self._settle(claims, reserved_nano, spent_nano)
        with self._lock:
            return self._settle(claims, reserved_nano, spent_nano)

    def _settle(self, claims: Sequence[Claim], reserved_nano: int, spent_nano: int) -> list[tuple[Claim, int, int]]:
        reached: list[tuple[Claim, int, int]] = []
        numbers = self._numbers
        for claim in claims:
            at = claim.place
            if numbers[at - 1] != claim.period:
                continue  # a new period has begun: it starts without this request
            spent = numbers[at] + spent_nano
            numbers[at] = spent  # raised before what is reserved is lowered: see above
            left = numbers[at + 1] - reserved_nano
            numbers[at + 1] = max(0, left)
            if claim.marks and spent >= claim.marks[0]:
                reached += self._reached(claim, spent)
        return reached

    def _reached(self, claim: Claim, spent: int) -> list[tuple[Claim, int, int]]:
        """Marks that were not told in this period."""
        at, found = claim.slot * _NUMBERS + _NOTIFIED, []
        for index, mark in enumerate(claim.marks):
            if spent >= mark and not self._numbers[at] >> index & 1:
                self._numbers[at] |= 1 << index
                found.append((claim, index, spent))
        return found

    def notify_once(self, claim: Claim, index: int) -> bool:
        """Set the flag of a mark; False when it was set in this period."""
        with self._lock:
            if self._current(claim) is None:
                return False
            at = claim.slot * SLOT + _AT + 24
            notified = _SPENT.unpack_from(self._map, at)[0]
            _SPENT.pack_into(self._map, at, notified | 1 << index)
            return not notified >> index & 1

    def read(self, claim: Claim) -> Counter:
        """The counter in its claim's period."""
        with self._lock:
            return Counter(*(self._current(claim) or (0, 0)))

    def clear(self) -> None:
        """Forget everything; only while no other process uses the file."""
        with self._lock:
            self._map[: self._shared_at] = bytes(self._shared_at)

    def add(self, claim: Claim, spent_nano: int) -> None:
        """Raise spent, when counters are made anew from the ledger; marks that it passes count as told."""
        with self._lock:
            current = self._current(claim)
            if current is not None:
                at = claim.slot * SLOT + _AT
                spent = current[0] + spent_nano
                told = sum(1 << index for index, mark in enumerate(claim.marks) if spent >= mark)
                _SPENT.pack_into(self._map, at + 8, spent)
                _SPENT.pack_into(self._map, at + 24, told)

    def begin(self, claim: Claim, spent_nano: int) -> None:
        """Let a counter that nobody uses yet begin with an amount; one that is in use stays."""
        at = claim.slot * SLOT + _AT
        with self._lock:
            period, spent, reserved, _ = _FIELDS.unpack_from(self._map, at)
            if period == claim.period and (spent or reserved):
                return
            told = sum(1 << index for index, mark in enumerate(claim.marks) if spent_nano >= mark)
            _FIELDS.pack_into(self._map, at, claim.period, spent_nano, 0, told)

    def close(self) -> None:
        """Unmap the file."""
        self._numbers.release()
        self._map.close()
        os.close(self._descriptor)

    def _current(self, claim: Claim) -> tuple[int, int] | None:
        """Spent and reserved; a counter of an earlier period begins anew. None where the claim's period is over."""
        at = claim.slot * SLOT + _AT
        period, spent, reserved, _ = _FIELDS.unpack_from(self._map, at)
        if period < claim.period:
            _FIELDS.pack_into(self._map, at, claim.period, 0, 0, 0)
            return 0, 0
        return (spent, reserved) if period == claim.period else None
