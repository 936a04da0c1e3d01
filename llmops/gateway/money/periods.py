"""Days and months in a time zone, as pairs of epoch seconds. Pure."""

from __future__ import annotations

from datetime import datetime, timedelta
from typing import Final
from zoneinfo import ZoneInfo

from llmops.gateway.money.config import Period

FOREVER: Final = 1 << 62


def period_of(at: float, period: Period, zone: ZoneInfo) -> tuple[int, int]:
    """Start and end of the period that contains ``at``; the end belongs to the next. ``total`` never ends."""
    if period == "total":
        return 0, FOREVER
    local = datetime.fromtimestamp(at, zone)
    day = local.replace(hour=0, minute=0, second=0, microsecond=0, fold=0)
    if period == "day":
        # Noon of the next day, then its midnight: a day of 23 or 25 hours comes out right.
        after = (day.replace(hour=12) + timedelta(days=1)).replace(hour=0)
        return _epoch(day, zone), _epoch(after, zone)
    first = day.replace(day=1)
    after = (first + timedelta(days=32)).replace(day=1)
    return _epoch(first, zone), _epoch(after, zone)


def _epoch(local: datetime, zone: ZoneInfo) -> int:
    return int(local.replace(tzinfo=zone).timestamp())
