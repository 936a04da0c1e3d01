"""``llmops cost forecast``: what the rest of the month will cost, with the range that the days so far support."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from decimal import Decimal
from statistics import mean
from typing import Final
from zoneinfo import ZoneInfo

from llmops.errors import InconclusiveError
from llmops.findings import Finding
from llmops.gateway.money.books import grouped, open_books, parse_zone
from llmops.gateway.money.periods import period_of
from llmops.report.document import Chart, Document, Facts, Series, Text
from llmops.units import format_usd

MIN_DAYS: Final = 4
WINDOW_DAYS: Final = 28
_RUNS: Final = 2000


@dataclass(frozen=True, slots=True)
class Forecast:
    """The month's cost.

    Attributes:
        low_usd: One month in ten ends below, if days go on as they went.
        high_usd: One month in ten ends above.
        exhausted_on: The day on which the expected cost reaches ``budget_usd``, or None.
    """

    spent_usd: Decimal
    expected_usd: Decimal
    low_usd: Decimal
    high_usd: Decimal
    days_left: int
    days_seen: int
    daily: tuple[tuple[str, Decimal], ...]
    budget_usd: Decimal | None
    exhausted_on: str | None
    findings: tuple[Finding, ...] = ()

    @property
    def ok(self) -> bool:
        """Whether the expected cost stays within the budget."""
        return self.budget_usd is None or self.expected_usd <= self.budget_usd


def forecast_cost(
    books: str | None, time_zone: str = "UTC", budget: Decimal | None = None, now: float | None = None
) -> Forecast:
    """Forecast the present month from up to four weeks of whole days.

    Raises:
        UsageError: There is no ledger.
        InconclusiveError: There are fewer than four whole days with requests.
    """
    zone = parse_zone(time_zone)
    at = datetime.now(zone) if now is None else datetime.fromtimestamp(now, zone)
    today = at.replace(hour=0, minute=0, second=0, microsecond=0)
    start, end = period_of(at.timestamp(), "month", zone)
    since = min((today - timedelta(days=WINDOW_DAYS)).timestamp(), float(start))
    store = open_books(books)
    try:
        days = {group.names[0]: group.cost_usd for group in grouped(store, since, at.timestamp(), ("day",), zone)}
    finally:
        store.close()
    whole = _whole_days(days, today, zone)
    if len(whole) < MIN_DAYS:
        raise InconclusiveError(
            f"the ledger has {len(whole)} whole days with requests, too few to forecast from",
            f"come back when it has {MIN_DAYS}",
        )
    spent = sum((cost for day, cost in days.items() if day >= f"{at:%Y-%m}-01"), Decimal(0))
    last = datetime.fromtimestamp(end, zone)
    coming = [today + timedelta(days=n) for n in range((last.date() - today.date()).days)]
    left = 1 - (at - today) / timedelta(days=1)
    expected, low, high = project(whole, [day.weekday() for day in coming], left)
    return Forecast(
        spent,
        spent + expected,
        spent + low,
        spent + high,
        len(coming),
        len(whole),
        tuple(sorted(days.items())),
        budget,
        _exhausted(budget, spent, whole, coming, left),
        _findings(budget, spent + expected, spent + high),
    )


def project(
    history: Sequence[tuple[int, Decimal]], coming: Sequence[int], first_share: float
) -> tuple[Decimal, Decimal, Decimal]:
    """Expected cost of the coming days and the range that holds four months of five. Pure; seeded.

    A day costs what days of its kind (working day or weekend) cost on average, where both kinds were seen. The range
    comes from drawing past days of the kind with replacement.

    Args:
        history: (weekday, cost) of each whole day.
        coming: Weekdays of the days to come, today first.
        first_share: How much of today is left, 0 to 1.
    """
    pools = _pools(history, coming)
    shares = [first_share if index == 0 else 1.0 for index in range(len(coming))]
    expected = sum(mean(pool) * share for pool, share in zip(pools, shares, strict=True))
    draw = random.Random(0)
    runs = sorted(
        sum(draw.choice(pool) * share for pool, share in zip(pools, shares, strict=True)) for _ in range(_RUNS)
    )
    return _money(expected), _money(runs[_RUNS // 10]), _money(runs[_RUNS * 9 // 10])


def _pools(history: Sequence[tuple[int, Decimal]], coming: Sequence[int]) -> list[list[float]]:
    """For each coming day the costs of past days of its kind, or of all where that kind was seen less than twice."""
    kinds = {kind: [float(cost) for day, cost in history if (day >= 5) == kind] for kind in (False, True)}
    everything = [float(cost) for _, cost in history]
    return [kinds[day >= 5] if len(kinds[day >= 5]) >= 2 else everything for day in coming]


def view(forecast: Forecast) -> Document:
    """The figures, and the days they come from."""
    rows = (
        ("spent this month", format_usd(forecast.spent_usd)),
        ("expected at its end", format_usd(forecast.expected_usd)),
        ("four months of five", f"{format_usd(forecast.low_usd)} to {format_usd(forecast.high_usd)}"),
        ("days left, today included", str(forecast.days_left)),
        ("whole days it rests on", str(forecast.days_seen)),
        *((("budget", format_usd(forecast.budget_usd)),) if forecast.budget_usd is not None else ()),
        *((("budget is used up on", forecast.exhausted_on),) if forecast.exhausted_on else ()),
    )
    points = tuple((day, float(cost)) for day, cost in forecast.daily)
    chart = Chart("Cost by day", "bar", "day", "$", (Series("", points),))
    notes = tuple(Text(finding.message, "warn") for finding in forecast.findings)
    verdict = Text(f"{format_usd(forecast.expected_usd)} expected", "good" if forecast.ok else "bad")
    return Document("Cost forecast", (Facts(rows), chart, *notes), verdict)


def _whole_days(days: dict[str, Decimal], today: datetime, zone: ZoneInfo) -> list[tuple[int, Decimal]]:
    """Weekday and cost of each day before today, from the first with requests on; days without any count as zero."""
    past = sorted(day for day in days if day < f"{today:%Y-%m-%d}")
    if not past:
        return []
    first = datetime.fromisoformat(past[0]).replace(tzinfo=zone)
    count = (today.date() - first.date()).days
    each = [first + timedelta(days=n) for n in range(count)]
    return [(day.weekday(), days.get(f"{day:%Y-%m-%d}", Decimal(0))) for day in each][-WINDOW_DAYS:]


def _exhausted(
    budget: Decimal | None,
    spent: Decimal,
    history: Sequence[tuple[int, Decimal]],
    coming: Sequence[datetime],
    first_share: float,
) -> str | None:
    if budget is None:
        return None
    pools = _pools(history, [day.weekday() for day in coming])
    cost = float(spent)
    for index, (day, pool) in enumerate(zip(coming, pools, strict=True)):
        cost += mean(pool) * (first_share if index == 0 else 1.0)
        if cost > float(budget):
            return f"{day:%Y-%m-%d}"
    return None


def _findings(budget: Decimal | None, expected: Decimal, high: Decimal) -> tuple[Finding, ...]:
    if budget is None or high <= budget:
        return ()
    if expected > budget:
        message = f"The month is expected to cost {format_usd(expected)}, more than {format_usd(budget)}."
        return (Finding("over-budget", "error", message),)
    message = f"The budget of {format_usd(budget)} may not suffice: one month in ten would cost {format_usd(high)}."
    return (Finding("budget-at-risk", "warning", message),)


def _money(value: float) -> Decimal:
    return Decimal(repr(value)).quantize(Decimal("0.000001"))
