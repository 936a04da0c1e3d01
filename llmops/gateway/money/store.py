"""The ledger's database: SQLite in WAL mode. Rows for a while, then sums by the quarter of an hour.

A quarter of an hour is the largest unit into which the midnights of all time zones fall.
"""

# ruff: noqa: S608 - every statement is built from the constants of this file; values are always bound

from __future__ import annotations

import itertools
import sqlite3
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Protocol

import msgspec

from llmops.errors import MachineError
from llmops.gateway.money.entry import COLUMNS, LedgerEntry

BUCKET_S: Final = 900
DIMENSIONS: Final = ("tenant", "team", "key", "model", "provider", "target", "state", "cache", "local")
TOKENS: Final = (
    "input_tokens",
    "output_tokens",
    "cache_read_tokens",
    "cache_write_tokens",
    "reasoning_tokens",
    "audio_tokens",
    "image_tokens",
)
# Picodollars of one row fit 64 bits up to 9.2 million dollars; sums are kept as millionths of a dollar and a rest.
_SUMMED: Final = (
    "count(*)",
    "sum(amount_pico is null)",
    "sum(estimated)",
    "sum(status >= 400)",
    "coalesce(sum(amount_pico / 1000000), 0)",
    "coalesce(sum(amount_pico % 1000000), 0)",
    "coalesce(sum(saved_pico / 1000000), 0)",
    "coalesce(sum(saved_pico % 1000000), 0)",
    *(f"sum({name})" for name in TOKENS),
)
SUMS: Final = ("requests", "unknown", "estimated", "errors", "amount", "amount_rest", "saved", "saved_rest", *TOKENS)
_SCHEMA: Final = f"""
create table if not exists entries (
  request_id text primary key, at real not null, tenant text not null, team text not null, key text not null,
  model text not null, provider text not null, target text not null, status integer not null, state text not null,
  input_tokens integer not null, output_tokens integer not null, cache_read_tokens integer not null,
  cache_write_tokens integer not null, reasoning_tokens integer not null, audio_tokens integer not null,
  image_tokens integer not null, estimated integer not null, amount_pico integer, saved_pico integer,
  price_source text not null, price_date text not null, cache text not null, local integer not null,
  duration_ms integer not null, ttft_ms integer
) strict, without rowid;
create index if not exists entries_at on entries (at);
create table if not exists sums (
  bucket integer not null, {", ".join(f"{name} {'integer' if name == 'local' else 'text'} not null" for name in DIMENSIONS)},
  {", ".join(f"{name} integer not null" for name in SUMS)},
  primary key (bucket, {", ".join(DIMENSIONS)})
) strict, without rowid;
"""
# So many rows in a statement: between two statements this thread and the event loop's hand the interpreter to each other.
_AT_ONCE: Final = 100


def _insert(rows: int) -> str:
    return (
        f"insert into entries ({', '.join(COLUMNS)}) values "
        + ", ".join([f"({', '.join('?' * len(COLUMNS))})"] * rows)
        + " on conflict (request_id) do update set "
        + ", ".join(f"{name} = excluded.{name}" for name in COLUMNS if name != "request_id")
        # Only a bill replaces the mark of a request that was thought lost; a bill is never replaced.
        + " where entries.state = 'in_flight' and excluded.state = 'settled'"
    )


_INSERT: Final = _insert(1)
_INSERT_MANY: Final = _insert(_AT_ONCE)
_ROLL_UP: Final = (
    f"insert into sums select cast(at / {BUCKET_S} as integer), {', '.join(DIMENSIONS)}, {', '.join(_SUMMED)} "
    f"from entries where at >= ?1 and at < ?2 group by 1, {', '.join(DIMENSIONS)} "
    f"on conflict (bucket, {', '.join(DIMENSIONS)}) do update set "
    + ", ".join(f"{name} = {name} + excluded.{name}" for name in SUMS)
)


@dataclass(frozen=True, slots=True)
class SumRow:
    """Sums of one group. ``values`` holds the dimensions that were asked for, in their order."""

    bucket: int
    values: tuple[str, ...]
    requests: int
    unknown: int
    estimated: int
    errors: int
    amount_pico: int
    saved_pico: int
    tokens: tuple[int, ...]


class Store(Protocol):
    """What the ledger needs of a database."""

    def insert(self, entries: Sequence[LedgerEntry]) -> None: ...
    def roll_up(self, before: float) -> bool: ...
    def sums(self, since: float, until: float, by: Sequence[str]) -> list[SumRow]: ...
    def rows(self, since: float, until: float) -> Iterable[LedgerEntry]: ...
    def count(self) -> int: ...
    def close(self) -> None: ...


class SqliteStore:
    """The embedded default. One connection; used by one thread at a time."""

    def __init__(self, path: Path, *, create: bool = True) -> None:
        try:
            if create:
                path.parent.mkdir(parents=True, exist_ok=True)
            self._db = sqlite3.connect(
                f"{path.absolute().as_uri()}?mode={'rwc' if create else 'ro'}",
                uri=True,
                timeout=30,
                isolation_level=None,
                check_same_thread=False,
            )
            if create:
                path.chmod(0o600)
                self._db.execute("pragma journal_mode = wal")
                self._db.execute("pragma synchronous = normal")
                self._db.executescript(_SCHEMA)
        except sqlite3.DatabaseError as error:
            raise MachineError(f"the ledger {path} cannot be opened: {error}") from error

    def insert(self, entries: Sequence[LedgerEntry]) -> None:
        """Add rows in one transaction; those that are there already are left as they are."""
        self._db.execute("begin immediate")
        try:
            many = len(entries) // _AT_ONCE * _AT_ONCE
            for start in range(0, many, _AT_ONCE):
                values = map(msgspec.structs.astuple, entries[start : start + _AT_ONCE])
                self._db.execute(_INSERT_MANY, list(itertools.chain.from_iterable(values)))
            self._db.executemany(_INSERT, map(msgspec.structs.astuple, entries[many:]))
        except BaseException:
            self._db.execute("rollback")
            raise
        self._db.execute("commit")

    def roll_up(self, before: float) -> bool:
        """Turn the oldest quarter of an hour before ``before`` into sums; False when there is none. Short transactions."""
        self._db.execute("begin immediate")
        try:
            oldest = self._db.execute("select min(at) from entries").fetchone()[0]
            if oldest is None or (start := int(oldest // BUCKET_S) * BUCKET_S) + BUCKET_S > before:
                self._db.execute("rollback")
                return False
            self._db.execute(_ROLL_UP, (start, start + BUCKET_S))
            self._db.execute("delete from entries where at >= ? and at < ?", (start, start + BUCKET_S))
        except BaseException:
            if self._db.in_transaction:
                self._db.execute("rollback")
            raise
        self._db.execute("commit")
        return True

    def sums(self, since: float, until: float, by: Sequence[str]) -> list[SumRow]:
        """Sums over [since, until) by quarter of an hour and ``by``; ``since`` is taken down to a whole quarter."""
        assert set(by) <= set(DIMENSIONS), by
        groups = "".join(f", {name}" for name in by)
        start = int(since // BUCKET_S)
        text = (
            f"select cast(at / {BUCKET_S} as integer) as b{groups}, {', '.join(_SUMMED)} from entries "
            f"where at >= ?1 and at < ?2 group by b{groups} union all "
            f"select bucket{groups}, {', '.join(f'sum({name})' for name in SUMS)} from sums "
            f"where bucket >= ?3 and bucket * {BUCKET_S} < ?2 group by bucket{groups}"
        )
        rows = self._db.execute(text, (start * BUCKET_S, until, start))
        return [sum_row(row, len(by)) for row in rows]

    def rows(self, since: float, until: float) -> Iterable[LedgerEntry]:
        """The rows still kept in [since, until), by time."""
        found = self._db.execute(
            f"select {', '.join(COLUMNS)} from entries where at >= ? and at < ? order by at", (since, until)
        )
        return (entry_of(row) for row in found)

    def count(self) -> int:
        """Rows that are kept."""
        return int(self._db.execute("select count(*) from entries").fetchone()[0])

    def close(self) -> None:
        """Give the file back."""
        self._db.close()


def sum_row(row: Sequence[Any], dimensions: int) -> SumRow:
    """A row of ``sums`` as a value."""
    values = tuple(str(value) for value in row[1 : 1 + dimensions])
    n = [int(value) for value in row[1 + dimensions :]]
    return SumRow(
        int(row[0]), values, n[0], n[1], n[2], n[3], n[4] * 1_000_000 + n[5], n[6] * 1_000_000 + n[7], tuple(n[8:])
    )


def entry_of(row: Sequence[Any]) -> LedgerEntry:
    """A row of ``entries`` as a value; SQLite keeps booleans as integers."""
    named = dict(zip(COLUMNS, row, strict=True))
    return LedgerEntry(**{**named, "estimated": bool(named["estimated"]), "local": bool(named["local"])})
