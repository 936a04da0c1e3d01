"""Budgets: which counters a request is charged to, and whether it fits."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from decimal import ROUND_FLOOR, Decimal
from fnmatch import fnmatchcase
from typing import Final, Protocol
from zoneinfo import ZoneInfo

from llmops.gateway.money.config import BudgetConfig
from llmops.gateway.money.counters import Claim, Counter, Counters
from llmops.gateway.money.periods import FOREVER, period_of
from llmops.units import format_usd

NANO: Final = Decimal(10) ** 9
_REMEMBERED: Final = 10_000
_WILD: Final = "*"


class BudgetExceeded(Exception):  # noqa: N818 - the answer "no", not a failure of the program
    """A request does not fit a hard budget.

    Attributes:
        status: 429 where the budget begins anew some day, else 402.
        code: Stable word for the error body.
        message: What is exceeded and when it begins anew.
        retry_after_s: Seconds until then, or None.
    """

    def __init__(self, status: int, code: str, message: str, retry_after_s: float | None = None) -> None:
        super().__init__(message)
        self.status = status
        self.code = code
        self.message = message
        self.retry_after_s = retry_after_s


class Who(Protocol):
    """What budgets look at."""

    @property
    def tenant(self) -> str: ...
    @property
    def team(self) -> str: ...
    @property
    def key(self) -> str: ...


@dataclass(frozen=True)
class Notice:
    """A mark that was reached, or a refusal: what a webhook is told."""

    budget: str
    counter: str
    percent: int
    spent_usd: Decimal
    limit_usd: Decimal
    period: str
    resets_at: str | None
    refused: bool


@dataclass(frozen=True)
class BudgetState:
    """A counter as it stands, for the admin page and metrics."""

    budget: str
    counter: str
    spent_usd: Decimal
    reserved_usd: Decimal
    limit_usd: Decimal


class Budgets:
    """The site's budgets over the counters that all workers share.

    Args:
        rules: As configured.
        counters: The shared file.
        now: Wall clock, epoch seconds.
    """

    def __init__(self, rules: Iterable[BudgetConfig], counters: Counters, now: Callable[[], float] = time.time) -> None:
        self.rules = tuple(rules)
        self.counters = counters
        self._now = now
        self._zones = tuple(ZoneInfo(rule.time_zone) for rule in self.rules)
        self._periods: list[tuple[int, int]] = [(0, 0)] * len(self.rules)
        self._claims: dict[tuple[str, str, str, str], tuple[int, tuple[Claim, ...]]] = {}

    def claims(self, who: Who, model: str, now: float | None = None) -> tuple[Claim, ...]:
        """The counters of a request now; remembered until a period ends."""
        if not self.rules:
            return ()
        now = self._now() if now is None else now
        key = (who.tenant, who.team, who.key, model)
        found = self._claims.get(key)
        if found is not None and now < found[0]:
            return found[1]
        if len(self._claims) >= _REMEMBERED:
            self._claims.clear()
        made = tuple(
            self._claim(index, dict(zip(("tenant", "team", "key", "model"), key, strict=True)), now)
            for index, rule in enumerate(self.rules)
            if _covers(rule, *key)
        )
        until = min((self._period(claim.rule, now)[1] for claim in made), default=FOREVER)
        self._claims[key] = (until, made)
        return made

    def reserve(self, claims: Sequence[Claim], nano: int) -> Claim | None:
        """Reserve in all or none; returns the claim that it does not fit."""
        return self.counters.reserve(claims, nano)

    def settle(self, claims: Sequence[Claim], reserved_nano: int, spent_nano: int) -> list[Notice]:
        """Turn a reservation into spending; returns what must be notified."""
        reached = self.counters.settle(claims, reserved_nano, spent_nano)
        return [self.notice(claim, index, spent) for claim, index, spent in reached] if reached else []

    def refusal(self, claim: Claim, nano: int) -> tuple[BudgetExceeded, Notice | None]:
        """The error for a request that did not fit, and what must be notified: the last mark, once a period."""
        state = self.counters.read(claim)
        rule = self.rules[claim.rule]
        left = max(0, claim.limit - state.spent - state.reserved)
        _, end = self._period(claim.rule, self._now())
        when = f"; it begins anew at {_iso(end)}" if end != FOREVER else ""
        message = (
            f"the budget {rule.name!r} of {format_usd(rule.usd)} per {rule.period} has {_dollars(left)} left, "
            f"and this request may cost up to {_dollars(nano)}{when}"
        )
        if rule.period == "total":
            message = message.replace(" per total", " in total")
        error = BudgetExceeded(
            402 if end == FOREVER else 429,
            "budget_exceeded",
            message,
            None if end == FOREVER else max(1.0, end - self._now()),
        )
        last = len(claim.marks) - 1
        told = last >= 0 and claim.marks[last] >= claim.limit and self.counters.notify_once(claim, last)
        return error, self.notice(claim, last, state.spent, refused=True) if told else None

    def notice(self, claim: Claim, index: int, spent: int, *, refused: bool = False) -> Notice:
        """A mark as something to tell."""
        rule = self.rules[claim.rule]
        _, end = self._period(claim.rule, self._now())
        return Notice(
            rule.name,
            claim.name,
            sorted(rule.notify_at)[index],
            _usd(spent),
            rule.usd,
            rule.period,
            None if end == FOREVER else _iso(end),
            refused,
        )

    def states(self, claims: Iterable[Claim]) -> tuple[BudgetState, ...]:
        """The counters as they stand."""
        return tuple(self._state(claim, self.counters.read(claim)) for claim in claims)

    def known(self) -> tuple[BudgetState, ...]:
        """The counters that requests were charged to lately, and those that all share."""
        now = self._now()
        claims = {claim.slot: claim for _, made in tuple(self._claims.values()) for claim in made}
        for index, rule in enumerate(self.rules):
            if not rule.each:
                claim = self._claim(index, {}, now)
                claims[claim.slot] = claim
        current = {slot: claim for slot, claim in claims.items() if self._period(claim.rule, now)[0] == claim.period}
        return self.states(current.values())

    def added_to(self, older: Budgets) -> tuple[int, ...]:
        """Indexes of the rules whose counters do not hold yet what they should, after ``older``."""
        before = {_meaning(rule) for rule in older.rules}
        return tuple(index for index, rule in enumerate(self.rules) if _meaning(rule) not in before)

    def fill(
        self, indexes: Iterable[int], spent_since: Callable[[int], Iterable[tuple[str, str, str, str, int]]]
    ) -> None:
        """Begin counters of some rules with what the ledger says; those that are in use already stay."""
        now = self._now()
        for index in indexes:
            sums: dict[Claim, int] = {}
            for tenant, team, key, model, pico in spent_since(self._period(index, now)[0]):
                if _covers(self.rules[index], tenant, team, key, model):
                    names = {"tenant": tenant, "team": team, "key": key, "model": model}
                    claim = self._claim(index, names, now)
                    sums[claim] = sums.get(claim, 0) - (-pico // 1000)
            for claim, nano in sums.items():
                self.counters.begin(claim, nano)

    def rebuild(self, spent_since: Callable[[int], Iterable[tuple[str, str, str, str, int]]]) -> None:
        """Make all counters anew from the ledger. Only while no other process uses them.

        Args:
            spent_since: Rows (tenant, team, key, model, picodollars) of everything admitted since an epoch second.
        """
        self.counters.clear()
        self._claims.clear()
        now = self._now()
        by_start: dict[int, list[int]] = {}
        for index in range(len(self.rules)):
            by_start.setdefault(self._period(index, now)[0], []).append(index)
        for start, indexes in by_start.items():
            for tenant, team, key, model, pico in spent_since(start):
                names = {"tenant": tenant, "team": team, "key": key, "model": model}
                for index in indexes:
                    if _covers(self.rules[index], tenant, team, key, model):
                        self.counters.add(self._claim(index, names, now), -(-pico // 1000))

    def _claim(self, index: int, names: dict[str, str], now: float) -> Claim:
        rule = self.rules[index]
        name = ", ".join(f"{dimension} {names[dimension]}" for dimension in rule.each) or "all"
        # The counter's identity holds what it counts: a rule that changes from day to month has another one.
        slot = self.counters.slot("\0".join((*_meaning(rule), name)))
        limit = int((rule.usd * NANO).to_integral_value(ROUND_FLOOR))
        marks = tuple(limit * percent // 100 for percent in sorted(rule.notify_at))
        return Claim(slot, self._period(index, now)[0], limit, rule.hard, marks, index, name)

    def _period(self, index: int, now: float) -> tuple[int, int]:
        start, end = self._periods[index]
        if not start <= now < end:
            start, end = self._periods[index] = period_of(now, self.rules[index].period, self._zones[index])
        return start, end

    def _state(self, claim: Claim, counter: Counter) -> BudgetState:
        rule = self.rules[claim.rule]
        return BudgetState(rule.name, claim.name, _usd(counter.spent), _usd(counter.reserved), rule.usd)


def _meaning(rule: BudgetConfig) -> tuple[str, ...]:
    """What a rule counts. Its limit, and what happens at it, may change without a new counter."""
    match = rule.match
    return (
        rule.name,
        rule.period,
        rule.time_zone,
        ",".join(rule.each),
        match.tenant,
        match.team,
        match.key,
        match.model,
    )


def _covers(rule: BudgetConfig, tenant: str, team: str, key: str, model: str) -> bool:
    match = rule.match
    pairs = ((tenant, match.tenant), (team, match.team), (key, match.key), (model, match.model))
    return all(pattern == _WILD or fnmatchcase(value, pattern) for value, pattern in pairs)


def _usd(nano: int) -> Decimal:
    return Decimal(nano).scaleb(-9)


def _dollars(nano: int) -> str:
    """Dollars to the nanodollar: what does not fit may miss by a millionth."""
    whole, _, rest = f"{_usd(nano):.9f}".partition(".")
    return f"${int(whole):,}.{rest.rstrip('0').ljust(2, '0')}"


def _iso(at: float) -> str:
    return datetime.fromtimestamp(at, UTC).isoformat().replace("+00:00", "Z")
