"""What the measured load costs: this machine by the hour, beside what cloud models ask for the same tokens."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from decimal import Decimal
from typing import TYPE_CHECKING

from llmops.pipeline.spec import PriceStep
from llmops.prices import Charge, Usage, local_price, price
from llmops.units import format_usd

if TYPE_CHECKING:
    from llmops.bench import BenchReport

MILLION = 1_000_000


@dataclass(frozen=True, slots=True)
class CostRow:
    """One way to serve the same tokens.

    Attributes:
        charge: For the tokens of the measured run.
        per_million: For a million output tokens with their share of input tokens; None where the price is unknown.
    """

    name: str
    charge: Charge
    per_million: Decimal | None


@dataclass(frozen=True, slots=True)
class Cost:
    """Costs of one measured load.

    Attributes:
        usage: Tokens of the load that is priced: the one with the highest throughput.
        output_tokens_per_s: Its throughput.
        concurrency: Requests in flight during it.
    """

    usage: Usage
    output_tokens_per_s: float
    concurrency: int
    machine_hour_usd: Decimal
    rows: tuple[CostRow, ...]


def price_load(benches: Sequence[BenchReport], step: PriceStep) -> Cost:
    """Price the load with the highest throughput on this machine and with each cloud model of the step."""
    from llmops.pipeline.pages import load_of

    loads = [load_of(report) for report in benches]
    best = max(loads, key=lambda load: load["metrics"]["output_tokens_per_s"] or 0)
    counts, speed = best["counts"], float(best["metrics"]["output_tokens_per_s"] or 0)
    usage = Usage(counts["input_tokens"], counts["output_tokens"])
    hourly = Decimal(step.machine_hour_usd)
    here = local_price(
        usage,
        usd_per_hour=hourly,
        output_tokens_per_s=speed,
        source=f"{format_usd(hourly)} an hour and {speed:.1f} measured tokens a second",
        measured=datetime.now(UTC).date(),
    )
    charges = [("this machine", here), *((model, price(model, usage)) for model in step.against)]
    rows = tuple(CostRow(name, charge, _per_million(charge, usage)) for name, charge in charges)
    return Cost(usage, speed, best.get("concurrency") or 1, hourly, rows)


def _per_million(charge: Charge, usage: Usage) -> Decimal | None:
    if charge.amount_usd is None or not usage.output_tokens:
        return None
    return charge.amount_usd * MILLION / usage.output_tokens
