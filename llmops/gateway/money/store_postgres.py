"""The ledger's database for several replicas: PostgreSQL, the same tables and statements as the embedded one."""

# ruff: noqa: S608 - every statement is built from constants; values are always bound

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any, Final

import msgspec

from llmops.errors import MachineError
from llmops.extras import require
from llmops.gateway.money.entry import COLUMNS, LedgerEntry
from llmops.gateway.money.store import BUCKET_S, DIMENSIONS, SUMS, TOKENS, SumRow, entry_of, sum_row
from llmops.masking import mask

_BOOLEAN: Final = ("estimated", "local")
_TEXT: Final = ("tenant", "team", "key", "model", "provider", "target", "state", "price_source", "price_date", "cache")
_WIDE: Final = ("amount_pico", "saved_pico")
_SUMMED: Final = (
    "count(*)",
    "count(*) filter (where amount_pico is null)",
    "count(*) filter (where estimated <> 0)",
    "count(*) filter (where status >= 400)",
    "coalesce(sum(amount_pico / 1000000), 0)",
    "coalesce(sum(mod(amount_pico, 1000000)), 0)",
    "coalesce(sum(saved_pico / 1000000), 0)",
    "coalesce(sum(mod(saved_pico, 1000000)), 0)",
    *(f"sum({name})" for name in TOKENS),
)
_BUCKET: Final = f"cast(floor(at / {BUCKET_S}) as bigint)"
_NAMED: Final = ", ".join(DIMENSIONS)
_LOCK: Final = 0x6C6C6D6F  # the advisory lock that keeps two replicas from rolling up at once


def _column(name: str) -> str:
    if name == "request_id":
        return "request_id text primary key"
    if name == "at":
        return "at double precision not null"
    if name in _WIDE or name == "ttft_ms":
        return f"{name} bigint"
    return f"{name} {'text' if name in _TEXT else 'bigint'} not null"


_SCHEMA: Final = (
    f"create table if not exists llmops_entries ({', '.join(map(_column, COLUMNS))})",
    "create index if not exists llmops_entries_at on llmops_entries (at)",
    (
        f"create table if not exists llmops_sums (bucket bigint not null, {', '.join(map(_column, DIMENSIONS))}, "
        f"{', '.join(f'{name} bigint not null' for name in SUMS)}, primary key (bucket, {_NAMED}))"
    ),
)
_INSERT: Final = (
    f"insert into llmops_entries ({', '.join(COLUMNS)}) values ({', '.join(['%s'] * len(COLUMNS))}) "
    "on conflict (request_id) do update set "
    + ", ".join(f"{name} = excluded.{name}" for name in COLUMNS if name != "request_id")
    + " where llmops_entries.state = 'in_flight' and excluded.state = 'settled'"
)
# One statement: what is deleted is what is summed, whatever other replicas insert meanwhile.
_ROLL_UP: Final = (
    "with gone as (delete from llmops_entries where at >= %s and at < %s returning *) "
    f"insert into llmops_sums select {_BUCKET}, {_NAMED}, {', '.join(_SUMMED)} from gone "
    f"group by {_BUCKET}, {_NAMED} on conflict (bucket, {_NAMED}) do update set "
    + ", ".join(f"{name} = llmops_sums.{name} + excluded.{name}" for name in SUMS)
)


class PostgresStore:
    """One connection; used by one thread at a time; made anew after it broke."""

    def __init__(self, url: str) -> None:
        self._psycopg = require("psycopg", "a ledger in PostgreSQL")
        self._url = url
        self._db: Any = None
        self._connect()

    def insert(self, entries: Sequence[LedgerEntry]) -> None:
        """Add rows in one transaction; those that are there already are left as they are."""
        rows = [_plain(entry) for entry in entries]
        with self._cursor() as cursor:
            cursor.executemany(_INSERT, rows)

    def roll_up(self, before: float) -> bool:
        """Turn the oldest quarter of an hour before ``before`` into sums; False when there is none."""
        with self._cursor() as cursor:
            cursor.execute("select pg_try_advisory_xact_lock(%s)", (_LOCK,))
            if not cursor.fetchone()[0]:
                return False
            cursor.execute("select min(at) from llmops_entries")
            oldest = cursor.fetchone()[0]
            if oldest is None or (start := int(oldest // BUCKET_S) * BUCKET_S) + BUCKET_S > before:
                return False
            cursor.execute(_ROLL_UP, (start, start + BUCKET_S))
            return True

    def count(self) -> int:
        """Rows that are kept, as the server's statistics have it: counting millions would take it seconds."""
        with self._cursor() as cursor:
            cursor.execute("select reltuples::bigint from pg_class where oid = 'llmops_entries'::regclass")
            return max(0, int(cursor.fetchone()[0]))

    def sums(self, since: float, until: float, by: Sequence[str]) -> list[SumRow]:
        """Sums over [since, until) by quarter of an hour and ``by``."""
        assert set(by) <= set(DIMENSIONS), by
        groups = "".join(f", {name}" for name in by)
        start = int(since // BUCKET_S)
        with self._cursor() as cursor:
            cursor.execute(
                f"select {_BUCKET}{groups}, {', '.join(_SUMMED)} from llmops_entries where at >= %s and at < %s "
                f"group by {_BUCKET}{groups} union all "
                f"select bucket{groups}, {', '.join(f'sum({name})' for name in SUMS)} from llmops_sums "
                f"where bucket >= %s and bucket * {BUCKET_S} < %s group by bucket{groups}",
                (start * BUCKET_S, until, start, until),
            )
            return [sum_row(row, len(by)) for row in cursor.fetchall()]

    def rows(self, since: float, until: float) -> Iterable[LedgerEntry]:
        """The rows still kept in [since, until), by time."""
        with self._cursor() as cursor:
            cursor.execute(
                f"select {', '.join(COLUMNS)} from llmops_entries where at >= %s and at < %s order by at",
                (since, until),
            )
            return [entry_of(row) for row in cursor.fetchall()]

    def close(self) -> None:
        """End the connection."""
        self._db.close()

    def _connect(self) -> None:
        try:
            self._db = self._psycopg.connect(self._url, connect_timeout=10, autocommit=False)
            with self._cursor() as cursor:
                # Two replicas that start at once must not both create the tables.
                cursor.execute("select pg_advisory_xact_lock(%s)", (_LOCK,))
                for statement in _SCHEMA:
                    cursor.execute(statement)
        except self._psycopg.Error as error:
            first = (str(error).splitlines() or ["no connection"])[0]
            raise MachineError(f"the ledger's PostgreSQL cannot be used: {mask(first)}") from error

    def _cursor(self) -> _Transaction:
        if self._db.closed or self._db.broken:
            self._db = self._psycopg.connect(self._url, connect_timeout=10, autocommit=False)
        return _Transaction(self._db)


class _Transaction:
    """A cursor that commits at the end of its block, or rolls back."""

    def __init__(self, connection: Any) -> None:
        self._connection = connection
        self._cursor: Any = None

    def __enter__(self) -> Any:
        self._cursor = self._connection.cursor()
        return self._cursor

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        self._cursor.close()
        if kind is None:
            self._connection.commit()
        elif not self._connection.closed:
            self._connection.rollback()


def _plain(entry: LedgerEntry) -> tuple[Any, ...]:
    """The row with its booleans as numbers, as SQLite keeps them."""
    values = dict(zip(COLUMNS, msgspec.structs.astuple(entry), strict=True))
    return tuple(int(value) if name in _BOOLEAN else value for name, value in values.items())
