"""``llmops cost compare``: the same workload on several models."""

from __future__ import annotations

from dataclasses import dataclass
from decimal import Decimal
from pathlib import Path

from llmops.errors import UsageError
from llmops.findings import Finding
from llmops.gateway.money.books import grouped, open_books, parse_moment, parse_zone
from llmops.gateway.money.report import flat_cost
from llmops.prices import Usage, price_book
from llmops.report.document import Chart, Document, Series, Table, Text
from llmops.units import format_count, format_usd


@dataclass(frozen=True, slots=True)
class Workload:
    """Requests of one kind. ``cached_share`` of the input is read from the provider's prompt cache."""

    requests: int
    input_tokens: int
    output_tokens: int
    cached_share: float = 0.0

    @classmethod
    def of(cls, requests: int, input_tokens: int | None, output_tokens: int, cached: float) -> Workload | None:
        """The workload as typed; None where no input was given: then the ledger's own load is meant."""
        return None if input_tokens is None else cls(requests, input_tokens, output_tokens, cached)


@dataclass(frozen=True, slots=True)
class CompareSpec:
    """What was asked: a workload, or the one that the ledger has since ``since``."""

    models: tuple[str, ...]
    workload: Workload | None
    books: str | None = None
    since: str = "7d"
    prices: Path | None = None


@dataclass(frozen=True, slots=True)
class Offer:
    """What a model would take for the workload; ``cost_usd`` is None where its price is unknown, for ``reason``."""

    model: str
    cost_usd: Decimal | None
    per_request_usd: Decimal | None
    source: str
    price_date: str
    reason: str = ""


@dataclass(frozen=True, slots=True)
class CompareReport:
    """Offers, cheapest first."""

    workload: Workload
    offers: tuple[Offer, ...]
    findings: tuple[Finding, ...] = ()

    @property
    def ok(self) -> bool:
        """Whether any price is known."""
        return any(offer.cost_usd is not None for offer in self.offers)


def compare_models(spec: CompareSpec) -> CompareReport:
    """Price a workload on each model.

    Raises:
        UsageError: The workload is empty, or there is no ledger to take it from.
    """
    workload = spec.workload or _recorded(spec.books, spec.since)
    if workload.requests < 1:
        raise UsageError("the workload has no requests", "--requests 10000 --input-tokens 1000 --output-tokens 300")
    if not 0 <= workload.cached_share <= 1:
        raise UsageError("--cached is a share of the input, between 0 and 1")
    book = price_book(spec.prices)
    offers = [_offer(model, book.sheet(model), workload, spec.workload is None) for model in spec.models]
    ordered = sorted(offers, key=lambda offer: (offer.cost_usd is None, offer.cost_usd or 0))
    findings = tuple(
        Finding("unknown-price", "warning", f"{offer.model}: {offer.reason}.") for offer in ordered if offer.reason
    )
    return CompareReport(workload, tuple(ordered), findings)


def view(report: CompareReport) -> Document:
    """A table and bars."""
    load = report.workload
    cheapest = next((offer.cost_usd for offer in report.offers if offer.cost_usd), None)
    rows = tuple(
        (
            offer.model,
            "unknown" if offer.cost_usd is None else format_usd(offer.cost_usd),
            "-" if offer.per_request_usd is None else format_usd(offer.per_request_usd),
            "-" if offer.cost_usd is None or not cheapest else f"{offer.cost_usd / cheapest:.2f}x",
            f"{offer.source} {offer.price_date}".strip() or offer.reason,
        )
        for offer in report.offers
    )
    table = Table(
        ("model", "cost", "a request", "ratio", "price from"), rows, right=frozenset(("cost", "a request", "ratio"))
    )
    bars = tuple((offer.model, float(offer.cost_usd)) for offer in report.offers if offer.cost_usd is not None)
    what = (
        f"{load.requests:,} requests of {format_count(load.input_tokens)} input tokens "
        f"({load.cached_share:.0%} cached) and {format_count(load.output_tokens)} output tokens"
    )
    blocks = (Text(what), table, Chart("Cost", "bar", "model", "$", (Series("", bars),)))
    best = report.offers[0]
    verdict = f"{best.model}: {format_usd(best.cost_usd)}" if best.cost_usd is not None else "no price is known"
    return Document("Cost of a workload", blocks, Text(verdict, "good" if best.cost_usd is not None else "bad"))


def _offer(model: str, sheet: object, load: Workload, averaged: bool) -> Offer:
    from llmops.prices import PriceSheet

    if not isinstance(sheet, PriceSheet):
        return Offer(model, None, None, "", "", str(sheet))
    cached = round(load.input_tokens * load.cached_share)
    if averaged:  # the mean of a ledger says nothing about which requests were long enough for a tier
        one = flat_cost(sheet, load.input_tokens, load.output_tokens, cached)
    else:
        charge = sheet.charge(Usage(load.input_tokens, load.output_tokens, cache_read_tokens=cached))
        if charge.amount_usd is None:
            return Offer(model, None, None, "", "", charge.reason)
        one = charge.amount_usd
    since = sheet.price_date.isoformat() if sheet.price_date else ""
    return Offer(model, one * load.requests, one, sheet.source, since)


def _recorded(books: str | None, since: str) -> Workload:
    zone = parse_zone("UTC")
    store = open_books(books)
    try:
        groups = grouped(
            store, parse_moment(since, zone), float(1 << 40), ("state",), zone, keep=lambda n: n["state"] == "settled"
        )
    finally:
        store.close()
    if not groups or not groups[0].requests:
        raise UsageError(
            f"the ledger has no requests since {since}", "give a workload: --requests --input-tokens --output-tokens"
        )
    total = groups[0]
    share = total.cache_read_tokens / total.input_tokens if total.input_tokens else 0.0
    return Workload(
        total.requests, round(total.input_tokens / total.requests), round(total.output_tokens / total.requests), share
    )
