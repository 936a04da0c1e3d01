"""``llmops cost reconcile``: the ledger against what a provider says was used and billed, by day and model."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from pathlib import Path
from typing import Final
from zoneinfo import ZoneInfo

from llmops.errors import InconclusiveError
from llmops.findings import Finding
from llmops.gateway.money.books import Group, grouped, open_books
from llmops.gateway.money.exports import BilledRow, read_export
from llmops.report.document import Document, Table, Text
from llmops.units import format_usd

_DATED: Final = re.compile(r"[-@](?:\d{8}|\d{4}-\d{2}-\d{2}|\d{4})$")
_SHOWN: Final = 60


@dataclass(frozen=True, slots=True)
class Line:
    """A day and a model in both books; None where one of them says nothing."""

    day: str
    model: str
    ours: Group | None
    theirs: BilledRow | None
    differences: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Reconciliation:
    """Every line, and whether the books agree."""

    lines: tuple[Line, ...]
    tolerance: float
    our_usd: Decimal
    their_usd: Decimal | None
    findings: tuple[Finding, ...]

    @property
    def ok(self) -> bool:
        """Whether every line agrees within the tolerance."""
        return not any(finding.severity == "error" for finding in self.findings)


def reconcile(export: Path, books: str | None, provider: str | None, tolerance: float) -> Reconciliation:
    """Compare the ledger with an export over the days of the export.

    Args:
        export: The provider's file.
        books: Where the ledger is.
        provider: Only rows of this provider of the ledger; None compares all.
        tolerance: Share by which tokens or cost may differ, 0.005 is half a percent.

    Raises:
        UsageError: The export cannot be read, or there is no ledger.
        InconclusiveError: The ledger has nothing in the days of the export.
    """
    rows = read_export(export)
    days = sorted({row.day for row in rows})
    since = datetime.fromisoformat(days[0]).replace(tzinfo=UTC)
    until = datetime.fromisoformat(days[-1]).replace(tzinfo=UTC) + timedelta(days=1)
    store = open_books(books)
    try:
        groups = grouped(
            store,
            since.timestamp(),
            until.timestamp(),
            ("day", "target"),
            ZoneInfo("UTC"),
            keep=lambda n: not n["cache"] and n["state"] == "settled" and provider in (None, n["provider"]),
            also=("cache", "state", "provider"),
        )
    finally:
        store.close()
    if not groups:
        raise InconclusiveError(
            f"the ledger has nothing between {days[0]} and {days[-1]} to compare with", "--books DIR, --provider NAME"
        )
    lines = match(groups, rows, tolerance)
    known = [row.cost_usd for row in rows if row.cost_usd is not None]
    return Reconciliation(
        lines,
        tolerance,
        sum((group.cost_usd for group in groups), Decimal(0)),
        sum(known, Decimal(0)) if known else None,
        tuple(_finding(line) for line in lines if line.differences),
    )


def match(groups: Iterable[Group], rows: Iterable[BilledRow], tolerance: float) -> tuple[Line, ...]:
    """Pair both books by day and by model without its date. Pure."""
    ours: dict[tuple[str, str], Group] = {}
    for group in groups:
        key = (group.names[0], plain_name(group.names[1]))
        ours[key] = _add(ours[key], group) if key in ours else group
    theirs: dict[tuple[str, str], BilledRow] = {}
    for row in rows:
        key = (row.day, plain_name(row.model))
        theirs[key] = _plus(theirs[key], row) if key in theirs else row
    return tuple(
        Line(*key, ours.get(key), theirs.get(key), tuple(_differences(ours.get(key), theirs.get(key), tolerance)))
        for key in sorted({*ours, *theirs})
    )


def plain_name(model: str) -> str:
    """A model's name without vendor prefix, date and case: exports name the dated snapshot, callers often the alias."""
    name = model.strip().lower().rpartition("/")[2]
    return _DATED.sub("", name)


def view(report: Reconciliation) -> Document:
    """Lines that differ first."""
    ordered = sorted(report.lines, key=lambda line: not line.differences)
    rows = tuple(
        (
            line.day,
            line.model,
            _pair(line, "input_tokens"),
            _pair(line, "output_tokens"),
            _cost(line),
            "; ".join(line.differences) or "agrees",
        )
        for line in ordered[:_SHOWN]
    )
    table = Table(("day", "model", "input ours/theirs", "output ours/theirs", "cost ours/theirs", "verdict"), rows)
    different = sum(bool(line.differences) for line in report.lines)
    if different:
        verdict = Text(f"{different} of {len(report.lines)} lines differ by more than {report.tolerance:.1%}", "bad")
    else:
        verdict = Text(f"all {len(report.lines)} lines agree within {report.tolerance:.1%}", "good")
    total = f"ours {format_usd(report.our_usd)}" + (
        f", theirs {format_usd(report.their_usd)}" if report.their_usd is not None else ""
    )
    return Document("Reconciliation", (table, Text(total)), verdict)


def _differences(ours: Group | None, theirs: BilledRow | None, tolerance: float) -> Iterable[str]:
    if ours is None:
        yield "not in the ledger: used past the gateway, or by another one"
        return
    if theirs is None:
        yield "not in the export"
        return
    pairs = (
        ("requests", ours.requests - ours.errors, theirs.requests),
        ("input", ours.input_tokens, theirs.input_tokens),
        ("output", ours.output_tokens, theirs.output_tokens),
        ("cost", ours.cost_usd, theirs.cost_usd),
    )
    for name, mine, other in pairs:
        if other is None or mine == other:
            continue
        share = float(abs(Decimal(mine) - Decimal(other)) / max(abs(Decimal(mine)), abs(Decimal(other))))
        if share > tolerance:
            yield f"{name} {'over' if mine > other else 'under'} by {share:.1%}"


def _finding(line: Line) -> Finding:
    return Finding("books-differ", "error", f"{line.day} {line.model}: {'; '.join(line.differences)}.")


def _add(one: Group, other: Group) -> Group:
    return Group(
        one.names,
        one.requests + other.requests,
        one.errors + other.errors,
        one.unknown + other.unknown,
        one.estimated + other.estimated,
        one.cost_usd + other.cost_usd,
        one.saved_usd + other.saved_usd,
        one.input_tokens + other.input_tokens,
        one.output_tokens + other.output_tokens,
        one.cache_read_tokens + other.cache_read_tokens,
        one.cache_write_tokens + other.cache_write_tokens,
    )


def _plus(one: BilledRow, other: BilledRow) -> BilledRow:
    def both(a: int | None, b: int | None) -> int | None:
        return b if a is None else a if b is None else a + b

    cost = one.cost_usd if other.cost_usd is None else other.cost_usd + (one.cost_usd or 0)
    return BilledRow(
        one.day,
        one.model,
        both(one.requests, other.requests),
        both(one.input_tokens, other.input_tokens),
        both(one.output_tokens, other.output_tokens),
        cost,
    )


def _pair(line: Line, name: str) -> str:
    values = (None if side is None else getattr(side, name) for side in (line.ours, line.theirs))
    return " / ".join("-" if value is None else f"{value:,}" for value in values)


def _cost(line: Line) -> str:
    ours = "-" if line.ours is None else format_usd(line.ours.cost_usd)
    theirs = "-" if line.theirs is None or line.theirs.cost_usd is None else format_usd(line.theirs.cost_usd)
    return f"{ours} / {theirs}"
