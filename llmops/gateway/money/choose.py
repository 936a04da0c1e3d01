"""The cheapest target that is good enough and fits what is left. Pure; the gateway and ``llmops cost choose`` share it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from decimal import Decimal
from pathlib import Path
from typing import Final

from llmops.errors import UsageError
from llmops.findings import Finding
from llmops.gateway.money.rates import Rates, usd
from llmops.prices import price_book
from llmops.report.document import Document, Table, Text
from llmops.units import format_usd

DEFAULT_TIER: Final = 1


@dataclass(frozen=True, slots=True)
class Candidate:
    """A target that could answer.

    Attributes:
        tier: How good it is, as the site says; larger is better.
        worst_pico: The most that this request can cost there; None where the price is unknown.
        local: Whether it runs on the site's own machines.
        available: Whether its breaker is closed and it is healthy.
    """

    name: str
    tier: int
    worst_pico: int | None
    local: bool = False
    available: bool = True


@dataclass(frozen=True, slots=True)
class Verdict:
    """What was said of one candidate. ``reason`` is empty for those that may serve."""

    candidate: Candidate
    reason: str


@dataclass(frozen=True, slots=True)
class Decision:
    """The candidates in the order in which they are tried, and why the others are not.

    ``fell_back`` says that nothing met the tier within the money that is left, and the cheapest local model stands in.
    """

    order: tuple[Candidate, ...]
    verdicts: tuple[Verdict, ...]
    fell_back: bool

    @property
    def chosen(self) -> Candidate | None:
        """The one that is tried first."""
        return self.order[0] if self.order else None


def choose(candidates: Sequence[Candidate], tier: int, left_pico: int | None) -> Decision:
    """Order the targets that meet ``tier`` and fit ``left_pico`` (None: no budget) by price.

    A target without a known price is tried last, and not at all while money is short: it cannot be shown to fit. Where
    none is left over, the cheapest available local target answers, whatever its tier, as long as it fits.
    """
    verdicts = tuple(Verdict(each, _objection(each, tier, left_pico)) for each in candidates)
    fitting = sorted((verdict.candidate for verdict in verdicts if not verdict.reason), key=_price)
    if fitting:
        return Decision(tuple(fitting), verdicts, fell_back=False)
    local = [each for each in candidates if each.local and each.available and _fits(each, left_pico)]
    return Decision(tuple(sorted(local, key=_price)), verdicts, fell_back=bool(local))


def _objection(candidate: Candidate, tier: int, left_pico: int | None) -> str:
    if not candidate.available:
        return "is not available now"
    if candidate.tier < tier:
        return f"is of tier {candidate.tier}, below {tier}"
    if not _fits(candidate, left_pico):
        if candidate.worst_pico is None:
            return "has no known price, so it cannot be shown to fit the budget"
        return f"may cost {format_usd(usd(candidate.worst_pico))}, more than is left"
    return ""


def _fits(candidate: Candidate, left_pico: int | None) -> bool:
    if left_pico is None:
        return True
    return candidate.worst_pico is not None and candidate.worst_pico <= left_pico


def _price(candidate: Candidate) -> tuple[bool, int, bool, int]:
    """Cheapest first; at the same price the local one, then the better one."""
    return (candidate.worst_pico is None, candidate.worst_pico or 0, not candidate.local, -candidate.tier)


# ---- the command ----


@dataclass(frozen=True, slots=True)
class ChooseSpec:
    """What was asked: ``models`` are ``NAME[:TIER][:local]``."""

    models: tuple[str, ...]
    tier: int
    input_tokens: int
    output_tokens: int
    left_usd: Decimal | None
    prices: Path | None = None


@dataclass(frozen=True, slots=True)
class ChooseReport:
    """A decision, explained."""

    chosen: str | None
    fell_back: bool
    decision: Decision
    findings: tuple[Finding, ...] = ()

    @property
    def ok(self) -> bool:
        """Whether anything may answer."""
        return self.chosen is not None


def explain_choice(spec: ChooseSpec) -> ChooseReport:
    """Decide offline as the gateway would.

    Raises:
        UsageError: A model is written wrongly.
    """
    book = price_book(spec.prices)
    candidates = []
    for text in spec.models:
        name, tier, local = parse_model(text)
        sheet = book.sheet(name)
        worst = None if isinstance(sheet, str) else Rates.of(sheet).bound_pico(spec.input_tokens, spec.output_tokens)
        candidates.append(Candidate(name, tier, worst, local))
    left = None if spec.left_usd is None else int(spec.left_usd.scaleb(12))
    decision = choose(candidates, spec.tier, left)
    findings = tuple(
        Finding("not-chosen", "note", f"{verdict.candidate.name} {verdict.reason}.")
        for verdict in decision.verdicts
        if verdict.reason
    )
    chosen = decision.chosen.name if decision.chosen else None
    if chosen is None:
        findings += (
            Finding("nothing-fits", "error", "No model meets the tier within what is left, and no local one fits."),
        )
    return ChooseReport(chosen, decision.fell_back, decision, findings)


def parse_model(text: str) -> tuple[str, int, bool]:
    """``NAME[:TIER][:local]`` as (name, tier, local). Names may contain colons themselves.

    Raises:
        UsageError: The name is missing.
    """
    name, local, tier = text, False, DEFAULT_TIER
    if name.endswith(":local"):
        name, local = name.removesuffix(":local"), True
    head, _, last = name.rpartition(":")
    if head and last.isdecimal():
        name, tier = head, int(last)
    if not name:
        raise UsageError(f"{text!r} names no model", "write it as gpt-4o:3 or llama-3.1-8b:1:local")
    return name, tier, local


def view(report: ChooseReport) -> Document:
    """Every candidate with its price and what was said of it."""
    rows = tuple(
        (
            verdict.candidate.name + (" (local)" if verdict.candidate.local else ""),
            str(verdict.candidate.tier),
            "unknown" if verdict.candidate.worst_pico is None else format_usd(usd(verdict.candidate.worst_pico)),
            "chosen" if verdict.candidate.name == report.chosen else verdict.reason or "fits, dearer",
        )
        for verdict in report.decision.verdicts
    )
    table = Table(("model", "tier", "costs at most", "verdict"), rows, right=frozenset(("tier", "costs at most")))
    if report.chosen is None:
        verdict = Text("nothing fits", "bad")
    elif report.fell_back:
        verdict = Text(f"{report.chosen}: the cheapest local model, because nothing of the tier fits", "warn")
    else:
        verdict = Text(report.chosen, "good")
    return Document("Choice within the budget", (table,), verdict)
