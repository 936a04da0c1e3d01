"""The site's prices over the library's: ``configs/prices.yaml``, and the two questions that the rest of llmops asks."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, date, datetime
from decimal import Decimal
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any, Final

from llmops.prices import library
from llmops.prices.money import Charge, LocalRate, PriceSheet, Usage

_MAX_RESOLVED: Final = 4096


@dataclass(frozen=True, slots=True)
class Override:
    """One row of the prices file: which models, and their rates."""

    match: str
    sheet: PriceSheet
    provider: str | None = None

    def covers(self, model: str, provider: str | None) -> bool:
        """Whether this row prices ``model`` of ``provider``. ``match`` is a name or a shell pattern, without case."""
        if self.provider is not None and provider is not None and self.provider != provider:
            return False
        return fnmatchcase(model.lower(), self.match.lower())


@dataclass(frozen=True, slots=True)
class PriceBook:
    """The site's rows over the library. Rows are tried in order; the first that covers a model is its price."""

    overrides: tuple[Override, ...] = ()
    _resolved: dict[Any, PriceSheet | str] = field(default_factory=dict, compare=False, repr=False)

    def sheet(
        self,
        model: str,
        provider: str | None = None,
        at: datetime | None = None,
        context: Mapping[str, str] | None = None,
    ) -> PriceSheet | str:
        """The rates of a model, or why they are unknown. Looked up once a minute: some prices depend on the hour."""
        when = at or datetime.now(UTC)
        conditions = tuple(sorted(context.items())) if context else ()
        key = (model, provider, int(when.timestamp()) // 60, conditions)
        found = self._resolved.get(key)
        if found is None:
            if len(self._resolved) >= _MAX_RESOLVED:
                self._resolved.clear()
            found = self.site_sheet(model, provider) or library.sheet(model, provider, when, conditions)
            self._resolved[key] = found
        return found

    def site_sheet(self, model: str, provider: str | None = None) -> PriceSheet | None:
        """The site's own row for a model, without asking the library."""
        return next((row.sheet for row in self.overrides if row.covers(model, provider)), None)

    def price(
        self,
        model: str,
        usage: Usage,
        provider: str | None = None,
        at: datetime | None = None,
        context: Mapping[str, str] | None = None,
    ) -> Charge:
        """See ``price``."""
        sheet = self.sheet(model, provider, at, context)
        if isinstance(sheet, str):
            return Charge(None, reason=sheet, estimated=usage.estimated)
        return sheet.charge(usage, at)


_LIBRARY_ONLY: Final = PriceBook()


def price(
    model: str,
    usage: Usage,
    provider: str | None = None,
    at: datetime | None = None,
    overrides: PriceBook | Iterable[Override] = _LIBRARY_ONLY,
    *,
    context: Mapping[str, str] | None = None,
) -> Charge:
    """What ``usage`` of ``model`` costs.

    Args:
        model: The provider's name of the model.
        usage: Tokens.
        provider: ``openai``, ``anthropic``, ``google``, …; guessed from the model's name when None.
        at: When the request was made; prices change. Now when None.
        overrides: The site's own prices, from ``price_book``.
        context: How it was processed, in the library's words: ``{"processing": "batch"}``, ``{"service_tier": "flex"}``.
    """
    book = overrides if isinstance(overrides, PriceBook) else PriceBook(tuple(overrides))
    return book.price(model, usage, provider, at, context)


def local_price(
    usage: Usage,
    *,
    usd_per_hour: Decimal,
    output_tokens_per_s: Decimal | float,
    input_tokens_per_s: Decimal | float | None = None,
    units: int = 1,
    source: str = "machine price and measured throughput",
    measured: date | None = None,
) -> Charge:
    """Price of a request on a machine paid by the hour, from its measured throughput (see ``LocalRate``).

    Unknown, with the reason, where a throughput is not positive.
    """
    speeds = (output_tokens_per_s, 1 if input_tokens_per_s is None else input_tokens_per_s)
    if any(speed <= 0 for speed in speeds):
        return Charge(None, reason="no throughput was measured", estimated=usage.estimated)
    into = None if input_tokens_per_s is None else Decimal(str(input_tokens_per_s))
    rate = LocalRate(usd_per_hour, Decimal(str(output_tokens_per_s)), into, units)
    return rate.sheet(source, measured).charge(usage)


def price_book(path: Path | None = None) -> PriceBook:
    """The site's prices from a file, over the library's; the library's alone when ``path`` is None.

    Raises:
        UsageError: The file is missing or wrong, with file:line.
    """
    if path is None:
        return _LIBRARY_ONLY
    from llmops.prices.file import read

    return PriceBook(tuple(Override(row.match, row.sheet(path), row.provider) for row in read(path)))
