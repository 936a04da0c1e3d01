"""Opening the books for a report: where they are, and sums by any dimension."""

from __future__ import annotations

import os
import re
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from decimal import Decimal
from pathlib import Path
from typing import Final
from zoneinfo import ZoneInfo

from llmops.errors import AccessError, UsageError, did_you_mean
from llmops.gateway.money.opening import LEDGER_FILE
from llmops.gateway.money.rates import usd
from llmops.gateway.money.store import BUCKET_S, DIMENSIONS, TOKENS, SqliteStore, Store
from llmops.settings import settings

TIME_DIMENSIONS: Final = ("hour", "day", "month")
ALL_DIMENSIONS: Final = (*TIME_DIMENSIONS, *DIMENSIONS)
_AGO: Final = re.compile(r"(\d+)\s*([hdw])")
_HOURS: Final = {"h": 1, "d": 24, "w": 168}
FOREVER_S: Final = float(1 << 40)


@dataclass(frozen=True, slots=True)
class Group:
    """Sums of the requests that share ``names``.

    Attributes:
        names: Values of the dimensions asked for, in their order.
        unknown: Requests whose price is unknown; their cost is not in ``cost_usd``.
        saved_usd: What answers from the cache would have cost.
    """

    names: tuple[str, ...]
    requests: int
    errors: int
    unknown: int
    estimated: int
    cost_usd: Decimal
    saved_usd: Decimal
    input_tokens: int
    output_tokens: int
    cache_read_tokens: int
    cache_write_tokens: int


def open_books(where: str | None) -> Store:
    """The ledger to read: a directory, ``env:NAME`` with a PostgreSQL URL, or None for the default directory.

    Raises:
        UsageError: There is no ledger.
        AccessError: The variable is not set.
    """
    if where is not None and where.startswith("env:"):
        url = os.environ.get(where[4:], "")
        if not url:
            raise AccessError(f"there is no environment variable {where[4:]} with the ledger's URL")
        from llmops.gateway.money.store_postgres import PostgresStore

        return PostgresStore(url)
    directory = default_directory() if where is None else Path(where)
    path = directory if directory.is_file() else directory / LEDGER_FILE
    if not path.is_file():
        raise UsageError(
            f"there is no ledger in {directory}", "a gateway with `money:` in its config writes one; name it by --books"
        )
    return SqliteStore(path, create=False)


def default_directory() -> Path:
    """Where a gateway keeps its books unless its config says otherwise."""
    return settings().state_dir / "gateway" / "books"


def parse_moment(text: str, zone: ZoneInfo, now: float | None = None) -> float:
    """``7d``, ``24h``, ``2w`` ago, or a date or time in ``zone``, as epoch seconds.

    Raises:
        UsageError: It is none of those.
    """
    at = time.time() if now is None else now
    ago = _AGO.fullmatch(text.strip())
    if ago:
        return at - int(ago[1]) * _HOURS[ago[2]] * 3600.0
    try:
        moment = datetime.fromisoformat(text)
    except ValueError:
        raise UsageError(f"{text!r} is no time", "write it as 7d, 24h, 2w or 2026-11-01") from None
    return (moment if moment.tzinfo else moment.replace(tzinfo=zone)).timestamp()


def parse_zone(name: str) -> ZoneInfo:
    """A time zone by name.

    Raises:
        UsageError: There is none of that name.
    """
    try:
        return ZoneInfo(name)
    except (KeyError, ValueError, OSError) as error:
        raise UsageError(f"there is no time zone {name!r}", "for example UTC or Asia/Tokyo") from error


def parse_dimensions(text: str) -> tuple[str, ...]:
    """``model,key,day`` as a tuple.

    Raises:
        UsageError: One is unknown or stands twice.
    """
    listed = tuple(word.strip() for word in text.split(",") if word.strip())
    for word in listed:
        if word not in ALL_DIMENSIONS:
            raise UsageError(f"cannot group by {word!r}", did_you_mean(word, ALL_DIMENSIONS))
    if not listed or len(set(listed)) < len(listed):
        raise UsageError("name at least one thing to group by, each once", "--by model,day")
    return listed


def grouped(
    store: Store,
    since: float,
    until: float,
    by: Sequence[str],
    zone: ZoneInfo,
    *,
    keep: Callable[[dict[str, str]], bool] = lambda _names: True,
    also: Sequence[str] = (),
) -> tuple[Group, ...]:
    """Sums by ``by``, dearest first (in order of time where that is the first dimension).

    ``keep`` chooses rows by their dimensions, those in ``also`` included.
    """
    columns = tuple(dict.fromkeys((*(name for name in by if name not in TIME_DIMENSIONS), *also)))
    found: dict[tuple[str, ...], list[int]] = {}
    for row in store.sums(since, until, columns):
        names = dict(zip(columns, row.values, strict=True))
        if not keep(names):
            continue
        for dimension in TIME_DIMENSIONS:
            if dimension in by:
                names[dimension] = _moment(row.bucket, dimension, zone)
        numbers = (row.requests, row.errors, row.unknown, row.estimated, row.amount_pico, row.saved_pico, *row.tokens)
        key = tuple(names[name] for name in by)
        known = found.setdefault(key, [0] * len(numbers))
        for index, number in enumerate(numbers):
            known[index] += number
    groups = [_group(key, numbers) for key, numbers in found.items()]
    if by and by[0] in TIME_DIMENSIONS:
        return tuple(sorted(groups, key=lambda group: group.names))
    return tuple(sorted(groups, key=lambda group: (-group.cost_usd, group.names)))


def _group(key: tuple[str, ...], n: list[int]) -> Group:
    tokens = dict(zip(TOKENS, n[6:], strict=True))
    return Group(
        key,
        n[0],
        n[1],
        n[2],
        n[3],
        usd(n[4]),
        usd(n[5]),
        tokens["input_tokens"],
        tokens["output_tokens"],
        tokens["cache_read_tokens"],
        tokens["cache_write_tokens"],
    )


def _moment(bucket: int, dimension: str, zone: ZoneInfo) -> str:
    local = datetime.fromtimestamp(bucket * BUCKET_S, UTC).astimezone(zone)
    return local.strftime({"hour": "%Y-%m-%d %H:00", "day": "%Y-%m-%d", "month": "%Y-%m"}[dimension])
