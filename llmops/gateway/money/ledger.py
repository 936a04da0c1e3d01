"""The ledger of one worker: a spool that the hot path writes, and a thread that moves its rows into the database.

Every request leaves two records in the spool: that it was admitted (with what was reserved), before it is sent, and its
row, when it is settled. After a ``kill -9`` whoever finds the spool moves the rows and marks what was admitted but not
settled as in flight. The request id is the key of a row, so replaying twice changes nothing.
"""

from __future__ import annotations

import contextlib
import fcntl
import itertools
import logging
import os
import secrets
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

import msgspec

from llmops.errors import LlmopsError, MachineError
from llmops.gateway.money.entry import Admission, LedgerEntry
from llmops.gateway.money.spool import HEADER, Segment, is_segment
from llmops.gateway.money.store import Store
from llmops.units import MIB

BATCH: Final = 2000
RECOVER_EVERY_S: Final = 5.0
ROLL_UP_EVERY_S: Final = 60.0
_TICK_S: Final = 0.25
# A spool that is found later than that could bring a row twice.
_NEVER_ROLLED_S: Final = 3600.0
_ADMITTED: Final = b"A"
_SETTLED: Final = b"S"
_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Recovered:
    """What was found in the spool of a worker that is gone."""

    rows: int
    in_flight: tuple[Admission, ...]


@dataclass
class LedgerHealth:
    """For metrics: whether rows reach the database."""

    rows_written: int = 0
    failures: int = 0
    last_error: str = ""
    lag_bytes: int = 0
    rotations: int = field(default=0)


class LedgerFullError(LlmopsError):
    """The database has not taken rows for so long that the spool reached its bound."""


class Ledger:
    """Open it in each worker, after the fork.

    Args:
        directory: Holds the spools.
        store: The database; used by the thread only, once started.
        flush_s: How often rows are moved.
        segment_bytes: Size of one spool file.
        max_bytes: Bound of all spool files of this worker; at it, ``admit`` raises.
        keep_days: How long rows are kept before they become sums.
        keep_rows: How many at most, but for those of the last hour.
        on_lost: Called with each request that a killed worker left in flight.
    """

    def __init__(
        self,
        directory: Path,
        store: Store,
        *,
        flush_s: float = 1.0,
        segment_bytes: int = 8 * MIB,
        max_bytes: int = 1024 * MIB,
        keep_days: float = 30,
        keep_rows: int = 1_000_000,
        on_lost: Callable[[Admission], None] = lambda _lost: None,
        now: Callable[[], float] = time.time,
    ) -> None:
        directory.mkdir(parents=True, exist_ok=True)
        self.health = LedgerHealth()
        self._directory = directory
        self._store = store
        self._flush_s = flush_s
        self._segment_bytes = segment_bytes
        self._max_segments = max(2, max_bytes // segment_bytes)
        self._keep_s = keep_days * 86_400
        self._keep_rows = keep_rows
        self._on_lost = on_lost
        self._now = now
        self._encode = msgspec.msgpack.Encoder().encode
        self._decode = msgspec.msgpack.Decoder(LedgerEntry).decode
        self._owner = f"{os.getpid()}-{secrets.token_hex(4)}"
        self._lock_path = directory / f"spool-{self._owner}.lock"
        self._lock = os.open(self._lock_path, os.O_CREAT | os.O_RDWR | os.O_CLOEXEC, 0o600)
        fcntl.flock(self._lock, fcntl.LOCK_EX)
        self._numbers = itertools.count(1)
        self._full: list[Segment] = []
        self._segment = self._new_segment(segment_bytes)
        self._segment.touch()
        self._spare: Segment | None = None
        self._open: dict[str, bytes] = {}
        self._held: list[LedgerEntry] = []
        self._stop = threading.Event()
        self._mover: threading.Thread | None = None
        self._flushing = threading.Lock()
        self._recovered_at = self._rolled_at = 0.0

    @property
    def full(self) -> bool:
        """Whether the database has been failing for too long."""
        return len(self._full) >= self._max_segments

    # ---- the hot path ----

    def admit(self, admission: Admission) -> None:
        """Record that a request is about to be sent.

        Raises:
            LedgerFullError: The database has been failing for too long.
        """
        if len(self._full) >= self._max_segments:
            raise LedgerFullError("the ledger cannot take more rows: its database has been failing")
        record = _ADMITTED + self._encode(admission)
        self._open[admission.entry.request_id] = record
        if not self._segment.append(record):
            self._append(record)

    def settle(self, entry: LedgerEntry) -> None:
        """Record the row of a request. It reaches the database within the flush interval."""
        record = _SETTLED + self._encode(entry)
        try:
            if not self._segment.append(record):
                self._append(record)
        except MachineError as error:  # the disk is full: the answer was given, so its row must not be lost
            self._held.append(entry)
            self.health.failures += 1
            _log.error("the ledger holds a row in memory: %s", error)
        self._open.pop(entry.request_id, None)

    def _append(self, record: bytes) -> None:
        if not self._segment.append(record):
            self._next_segment(len(record))
            self._segment.append(record)

    def _next_segment(self, room: int) -> None:
        """Go on in a new file. What is still in flight moves with it, so that the old file can go."""
        needed = sum(len(record) + 8 for record in self._open.values()) + room + 8
        fresh, self._spare = self._spare, None
        if fresh is None or needed > fresh.size // 2:
            if fresh is not None:
                fresh.close(remove=True)
            fresh = self._new_segment(max(self._segment_bytes, 4 * needed))
        for record in self._open.values():
            fresh.append(record)
        self._full.append(self._segment)
        self._segment = fresh
        self.health.rotations += 1

    def _new_segment(self, size: int) -> Segment:
        return Segment(self._directory / f"spool-{self._owner}-{next(self._numbers):06d}.log", size)

    # ---- the thread ----

    def start(self, beside: Callable[[], None] = lambda: None) -> None:
        """Begin moving rows; ``beside`` is called in each round, several times a second."""
        self._beside = beside
        self._mover = threading.Thread(target=self._run, name="ledger", daemon=True)
        self._mover.start()

    def flush(self) -> None:
        """Move every row that was settled until now. Raises what the database raises."""
        with self._flushing:
            while self._full:
                self._drain(self._full[0], self._full[0].end)
                done = self._full.pop(0)
                if self._spare is None and done.size == self._segment_bytes:
                    done.renew()
                    self._spare = done
                else:
                    done.close(remove=True)
            held = self._held[:]
            self._store.insert(held)
            del self._held[: len(held)]
            current = self._segment  # the hot path may change it meanwhile
            self._drain(current, current.end)
            if self._spare is None and self._segment.end > self._segment.size // 2:
                spare = self._new_segment(self._segment_bytes)
                spare.touch()
                self._spare = spare

    def close(self) -> None:
        """Move the rest and remove the spool; what is in flight now stays in it and is found at the next start."""
        self._stop.set()
        if self._mover is not None:
            self._mover.join()
        with contextlib.suppress(Exception):
            self.flush()
        whole = not self._open and self._segment.flushed >= self._segment.end and not self._full
        for segment in (*self._full, self._segment, *([self._spare] if self._spare else [])):
            segment.close(remove=whole or segment is self._spare)
        if whole:
            self._lock_path.unlink(missing_ok=True)
        os.close(self._lock)
        self._store.close()

    def recover(self) -> Recovered:
        """Take over the spools of workers that are gone: rows into the database, the rest marked in flight."""
        rows = 0
        lost: list[Admission] = []
        for lock_path in sorted(self._directory.glob("spool-*.lock")):
            if lock_path == self._lock_path:
                continue
            found = self._recover_one(lock_path)
            if found is not None:
                rows += found.rows
                lost += found.in_flight
        self._recovered_at = time.monotonic()
        return Recovered(rows, tuple(lost))

    def _recover_one(self, lock_path: Path) -> Recovered | None:
        with contextlib.ExitStack() as stack:
            try:
                lock = os.open(lock_path, os.O_RDWR | os.O_CLOEXEC)
            except FileNotFoundError:
                return None
            stack.callback(os.close, lock)
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                return None  # its owner lives
            if not lock_path.exists():  # another worker was faster
                return None
            paths = sorted(self._directory.glob(f"{lock_path.stem}-*.log"))
            segments = [Segment(path) for path in paths if is_segment(path)]
            settled, open_ = _read(segments, self._decode)
            lost = tuple(open_.values())
            for start in range(0, len(settled), BATCH):
                self._store.insert(settled[start : start + BATCH])
            self._store.insert([each.entry for each in lost])
            for each in lost:
                self._on_lost(each)
            for segment in segments:
                segment.close()
            for path in paths:
                path.unlink(missing_ok=True)
            lock_path.unlink(missing_ok=True)
            if lost:
                _log.warning("a worker was killed with %d requests in flight; they are marked in the ledger", len(lost))
            return Recovered(len(settled), lost)

    def _drain(self, segment: Segment, end: int) -> None:
        """Rows from the flushed position on, in batches; the position moves after each commit."""
        batch: list[LedgerEntry] = []
        for reached, payload in segment.own(_SETTLED, segment.flushed, end):
            batch.append(self._decode(payload))
            if len(batch) >= BATCH:
                self._commit(segment, batch, reached)
                batch = []
        self._commit(segment, batch, end)

    def _commit(self, segment: Segment, batch: list[LedgerEntry], position: int) -> None:
        if batch:
            self._store.insert(batch)
            self.health.rows_written += len(batch)
        segment.flushed = position

    def _run(self) -> None:
        while not self._wait():
            try:
                self.flush()
                self._maintain()
            except Exception as error:  # noqa: BLE001 - rows stay in the spool; the next round tries again
                known, self.health.last_error = self.health.last_error, str(error)
                self.health.failures += 1
                if str(error) != known:
                    _log.error("the ledger cannot write to its database: %s", error)
            else:
                self.health.last_error = ""
            self.health.lag_bytes = self._segment.end - self._segment.flushed + len(self._full) * self._segment_bytes

    def _wait(self) -> bool:
        """Until it is time to move rows; True when there is an end."""
        until = time.monotonic() + self._flush_s
        while (left := until - time.monotonic()) > 0:
            if self._stop.wait(min(left, _TICK_S)):
                return True
            self._beside()
        return self._stop.is_set()

    def _maintain(self) -> None:
        with self._flushing:  # who reads the ledger for a reload flushes too
            self._maintain_now(time.monotonic())

    def _maintain_now(self, now: float) -> None:
        if now - self._recovered_at >= RECOVER_EVERY_S:
            self.recover()
        if now - self._rolled_at >= ROLL_UP_EVERY_S:
            # Each turn does a little: a large backlog must not hold up the rows of the moment.
            more = self._store.roll_up(self._now() - self._keep_s)
            if not more and self._store.count() > self._keep_rows:
                more = self._store.roll_up(self._now() - _NEVER_ROLLED_S)
            self._rolled_at = now if not more else self._rolled_at


def _read(
    segments: list[Segment], decode: Callable[[bytes], LedgerEntry]
) -> tuple[list[LedgerEntry], dict[str, Admission]]:
    """Settled rows that are not in the database yet, and admissions without a row."""
    admission = msgspec.msgpack.Decoder(Admission).decode
    settled: list[LedgerEntry] = []
    done: set[str] = set()
    open_: dict[str, Admission] = {}
    for segment in segments:
        flushed = segment.flushed
        for position, payload in segment.records(HEADER):
            if payload[:1] == _SETTLED:
                entry = decode(payload[1:])
                done.add(entry.request_id)
                if position > flushed:
                    settled.append(entry)
            else:
                found = admission(payload[1:])
                open_[found.entry.request_id] = found
    return settled, {name: each for name, each in open_.items() if name not in done}
