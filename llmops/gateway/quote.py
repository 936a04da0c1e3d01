"""``llmops cost price``: what so many tokens of a model cost, line by line, with the price's source and date."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from llmops.errors import ExitCode, UsageError
from llmops.findings import Finding
from llmops.prices import Charge, Usage, price_book
from llmops.report.document import Document, Facts, Table, Text


@dataclass(frozen=True, slots=True)
class QuoteSpec:
    """What is asked."""

    model: str
    provider: str | None
    usage: Usage
    prices: Path | None = None
    batch: bool = False


@dataclass(frozen=True, slots=True)
class QuoteReport:
    """The bill, or why there is none."""

    model: str
    charge: Charge
    findings: tuple[Finding, ...] = ()

    @property
    def ok(self) -> bool:
        """Whether the price is known."""
        return self.charge.known

    @property
    def exit_code(self) -> ExitCode:
        """An unknown price is no verdict."""
        return ExitCode.OK if self.ok else ExitCode.INCONCLUSIVE

    def data(self) -> dict[str, Any]:
        """For the JSON document; amounts are decimal strings."""
        charge = self.charge
        return {
            "model": self.model,
            "amount_usd": None if charge.amount_usd is None else f"{charge.amount_usd:f}",
            "parts": [
                {
                    "name": part.name,
                    "tokens": part.tokens,
                    "usd_per_million": f"{part.usd_per_million:f}",
                    "amount_usd": f"{part.amount_usd:f}",
                }
                for part in charge.parts
            ],
            "source": charge.source,
            "price_date": charge.price_date.isoformat() if charge.price_date else None,
            "reason": charge.reason,
        }


def quote(spec: QuoteSpec) -> QuoteReport:
    """Price a request.

    Raises:
        UsageError: The prices file is wrong, or no tokens were given.
    """
    if not spec.usage.total_tokens:
        raise UsageError("no tokens to price", "add --input-tokens N --output-tokens M")
    context = {"processing": "batch"} if spec.batch else None
    charge = price_book(spec.prices).price(spec.model, spec.usage, spec.provider, context=context)
    findings = () if charge.known else (Finding("price-unknown", "warning", charge.reason, "llmops cost price --help"),)
    return QuoteReport(spec.model, charge, findings)


def view(report: QuoteReport) -> Document:
    """The bill as a table."""
    charge = report.charge
    if charge.amount_usd is None:
        return Document(f"Price of {report.model}", (), Text(f"unknown: {charge.reason}", "warn"))
    rows = tuple(
        (part.name, f"{part.tokens:,}", f"${part.usd_per_million:f}", f"${part.amount_usd:f}") for part in charge.parts
    )
    table = Table(("Part", "Tokens", "$ / million", "Amount"), rows, frozenset({"Tokens", "$ / million", "Amount"}))
    date = charge.price_date.isoformat() if charge.price_date else "not stated"
    facts = Facts((("Source", charge.source), ("Price date", date)))
    return Document(f"Price of {report.model}", (table, facts), Text(f"${charge.amount_usd:f} in all", "good"))
