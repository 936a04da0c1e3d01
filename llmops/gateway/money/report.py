"""``llmops cost report``: what was spent, on what, and what caching and local serving saved."""

from __future__ import annotations

import csv
import io
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime
from decimal import Decimal
from pathlib import Path
from typing import Any, Final

from llmops.errors import UsageError
from llmops.findings import Finding
from llmops.gateway.money.books import Group, grouped, open_books, parse_dimensions, parse_moment, parse_zone
from llmops.gateway.money.store import Store
from llmops.prices import PriceSheet, price_book
from llmops.report import html, markdown
from llmops.report.document import Chart, Document, Series, Table, Text
from llmops.report.files import write_whole
from llmops.units import format_count, format_usd

_SHOWN: Final = 40
_BARS: Final = 20
_MILLION: Final = Decimal(1_000_000)


@dataclass(frozen=True, slots=True)
class CostReportSpec:
    """What was asked. ``against`` is a cloud model whose price local serving is compared with."""

    books: str | None = None
    since: str = "7d"
    until: str | None = None
    by: str = "model"
    time_zone: str = "UTC"
    against: str | None = None
    prices: Path | None = None
    csv: Path | None = None


@dataclass(frozen=True, slots=True)
class CostReport:
    """Sums by group, and the whole."""

    since: str
    until: str
    by: tuple[str, ...]
    groups: tuple[Group, ...]
    total: Group
    in_flight_usd: Decimal
    in_flight: int
    against: str | None
    local_saved_usd: Decimal | None
    findings: tuple[Finding, ...] = ()
    ok: bool = True

    def data(self) -> dict[str, Any]:
        """The JSON data; amounts are decimal text in dollars."""
        return {
            "since": self.since,
            "until": self.until,
            "by": self.by,
            "groups": [_row(group, self.by) for group in self.groups],
            "total": _row(self.total, ()),
            "in_flight": {"requests": self.in_flight, "at_most_usd": str(self.in_flight_usd)},
            "saved": {
                "cache_usd": str(self.total.saved_usd),
                "local_usd": None if self.local_saved_usd is None else str(self.local_saved_usd),
                "against": self.against,
            },
        }


def cost_report(spec: CostReportSpec) -> CostReport:
    """Read the ledger.

    Raises:
        UsageError: There is no ledger, or an option is malformed.
    """
    zone = parse_zone(spec.time_zone)
    by = parse_dimensions(spec.by)
    since = parse_moment(spec.since, zone)
    until = parse_moment(spec.until, zone) if spec.until else datetime.now(zone).timestamp() + 1
    if until <= since:
        raise UsageError("--until lies before --since", "for example --since 7d --until 1d")
    sheet = _named_price(spec.against, spec.prices)
    store = open_books(spec.books)
    try:
        # Amounts of requests in flight are bounds and not bills: they stand apart.
        groups = grouped(store, since, until, by, zone, keep=lambda names: names["state"] == "settled", also=("state",))
        total = _whole(grouped(store, since, until, ("state",), zone), "settled")
        flying = _whole(grouped(store, since, until, ("state",), zone), "in_flight")
        saved = None if sheet is None else _saved_by_local(store, since, until, sheet)
    finally:
        store.close()
    report = CostReport(
        datetime.fromtimestamp(since, zone).isoformat(timespec="minutes"),
        datetime.fromtimestamp(until, zone).isoformat(timespec="minutes"),
        by,
        groups,
        total,
        flying.cost_usd,
        flying.requests,
        spec.against,
        saved,
        tuple(_findings(total, flying)),
    )
    if spec.csv is not None:
        write_whole(spec.csv, as_csv(report))
    return report


def as_csv(report: CostReport) -> str:
    """The groups as CSV, amounts in dollars with all their digits."""
    stream = io.StringIO()
    writer = csv.writer(stream, lineterminator="\n")
    writer.writerow((*report.by, *_NUMBERS))
    for group in report.groups:
        # A name that a spreadsheet would take for a formula is put in quotes of its own.
        names = (f"'{name}" if name[:1] in ("=", "+", "-", "@", "\t") else name for name in group.names)
        writer.writerow((*names, *(str(getattr(group, name)) for name in _NUMBERS)))
    return stream.getvalue()


def view(report: CostReport) -> Document:
    """A table, bars, and the savings."""
    columns = (*report.by, "requests", "input", "output", "cost", "share", "cache saved", "unknown")
    rows = tuple(_shown(group, report.total) for group in report.groups[:_SHOWN])
    blocks: list[Table | Text | Chart] = [Table(columns, rows, right=frozenset(columns[len(report.by) :]))]
    if len(report.groups) > _SHOWN:
        blocks.append(Text(f"and {len(report.groups) - _SHOWN} more; --csv FILE or --json has all of them", "dim"))
    bars = tuple((" / ".join(group.names), float(group.cost_usd)) for group in report.groups[:_BARS] if group.cost_usd)
    if bars:
        blocks.append(Chart(f"Cost by {', '.join(report.by)}", "bar", ", ".join(report.by), "$", (Series("", bars),)))
    if report.total.saved_usd:
        blocks.append(Text(f"Answers from the cache saved {format_usd(report.total.saved_usd)}.", "good"))
    if report.local_saved_usd is not None:
        word = "saved" if report.local_saved_usd >= 0 else "cost more by"
        amount = format_usd(abs(report.local_saved_usd))
        blocks.append(Text(f"Local serving {word} {amount} against {report.against} for the same tokens.", "good"))
    blocks += [Text(f.message, "warn") for f in report.findings]
    verdict = f"{format_usd(report.total.cost_usd)} for {report.total.requests:,} requests"
    return Document("Cost", tuple(blocks), Text(verdict), (("from", report.since), ("to", report.until)))


# Forms of the report on stdout, beside the terminal's table and the JSON document.
PRINTED: Final[dict[str, Callable[[CostReport], str]]] = {
    "csv": as_csv,
    "md": lambda report: markdown.render(view(report)),
    "html": lambda report: html.render(view(report)),
}
_NUMBERS: Final = (
    "requests",
    "errors",
    "unknown",
    "estimated",
    "cost_usd",
    "saved_usd",
    "input_tokens",
    "output_tokens",
    "cache_read_tokens",
    "cache_write_tokens",
)


def flat_cost(sheet: PriceSheet, input_tokens: int, output_tokens: int, cache_read_tokens: int) -> Decimal:
    """What tokens of many requests cost at the rates of short prompts: sums have no tier of their own."""
    read = sheet.cache_read or sheet.input
    plain = input_tokens - cache_read_tokens
    return (sheet.input.base * plain + read.base * cache_read_tokens + sheet.output.base * output_tokens) / _MILLION


def _saved_by_local(store: Store, since: float, until: float, sheet: PriceSheet) -> Decimal:
    zone = parse_zone("UTC")
    [*groups] = grouped(
        store,
        since,
        until,
        ("local",),
        zone,
        keep=lambda names: names["local"] in ("1", "True") and not names["cache"] and names["state"] == "settled",
        also=("cache", "state"),
    )
    # Prompt caching is the cloud's feature too; without knowing its hits, all input counts as not cached there.
    cloud = sum((flat_cost(sheet, group.input_tokens, group.output_tokens, 0) for group in groups), Decimal(0))
    return cloud - sum((group.cost_usd for group in groups), Decimal(0))


def _named_price(model: str | None, prices: Path | None) -> PriceSheet | None:
    if model is None:
        return None
    sheet = price_book(prices).sheet(model)
    if isinstance(sheet, str):
        raise UsageError(f"--against {model}: {sheet}")
    return sheet


def _whole(groups: tuple[Group, ...], state: str) -> Group:
    for group in groups:
        if group.names == (state,):
            return group
    return Group((state,), 0, 0, 0, 0, Decimal(0), Decimal(0), 0, 0, 0, 0)


def _findings(total: Group, flying: Group) -> list[Finding]:
    found = []
    if total.unknown:
        found.append(
            Finding(
                "unknown-price",
                "warning",
                f"{total.unknown:,} requests have no known price and are not in the sums.",
                "add their models to the prices file",
            )
        )
    if flying.requests:
        found.append(
            Finding(
                "in-flight",
                "warning",
                f"{flying.requests:,} requests were in flight when a worker was killed; "
                f"their bills are unknown and at most {format_usd(flying.cost_usd)}.",
                "llmops cost reconcile FILE compares with the provider's own export",
            )
        )
    if total.estimated:
        found.append(
            Finding("estimated", "note", f"{total.estimated:,} requests are charged by our own count of their tokens.")
        )
    return found


def _row(group: Group, by: tuple[str, ...]) -> dict[str, Any]:
    return {**dict(zip(by, group.names, strict=False)), **{name: getattr(group, name) for name in _NUMBERS}}


def _shown(group: Group, total: Group) -> tuple[str, ...]:
    share = f"{group.cost_usd / total.cost_usd:.1%}" if total.cost_usd else "-"
    cost = format_usd(group.cost_usd) if group.unknown < group.requests else "unknown"
    return (
        *(name or "-" for name in group.names),
        f"{group.requests:,}",
        format_count(group.input_tokens),
        format_count(group.output_tokens),
        cost,
        share,
        format_usd(group.saved_usd) if group.saved_usd else "-",
        f"{group.unknown:,}" if group.unknown else "-",
    )
