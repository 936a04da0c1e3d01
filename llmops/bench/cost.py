"""What the measured tokens cost: by the price library for a cloud model, or by the machine's hour."""

from __future__ import annotations

from decimal import Decimal
from typing import Any

from llmops.bench.energy import is_local
from llmops.bench.metrics import Metrics
from llmops.bench.report import Counts
from llmops.bench.spec import BenchSpec
from llmops.units import format_usd

_HOUR_S = Decimal(3600)
_MILLION = Decimal(1_000_000)


def cost(spec: BenchSpec, model: str, counts: Counts, metrics: Metrics) -> dict[str, Any] | None:
    """Dollars for the measured tokens and for a million output tokens, with where the price comes from; None if unknown."""
    if spec.gpu_hour_cost is not None:
        return _by_hour(spec.gpu_hour_cost, metrics)
    if not counts.output_tokens or (spec.provider is None and is_local(spec.url)):
        return None  # a server on this machine has no price but its own hour
    from llmops import prices

    used = prices.Usage(input_tokens=counts.input_tokens, output_tokens=counts.output_tokens, requests=counts.ok)
    charge = prices.price(model, used, spec.provider)
    if charge.amount_usd is None:
        return {"usd": None, "reason": charge.reason, "words": f"unknown: {charge.reason}"}
    per_million = charge.amount_usd / counts.output_tokens * _MILLION
    return {
        "usd": charge.amount_usd,
        "usd_per_million_output_tokens": per_million,
        "source": charge.source,
        "price_date": charge.price_date.isoformat() if charge.price_date else None,
        "words": f"{format_usd(charge.amount_usd)} for the measured tokens, {format_usd(per_million)} per million output "
        f"tokens with their prompts ({charge.source})",
    }


def _by_hour(usd_per_hour: Decimal, metrics: Metrics) -> dict[str, Any]:
    """The machine's hour over the tokens it made in it. A machine that could do more at a higher load costs less a token."""
    speed = Decimal(str(round(metrics.output_tokens_per_s, 6)))
    usd = usd_per_hour * Decimal(str(round(metrics.window_s, 6))) / _HOUR_S
    if speed <= 0:
        return {"usd": usd, "reason": "no throughput was measured", "words": "unknown: no throughput was measured"}
    per_million = usd_per_hour / (speed * _HOUR_S) * _MILLION
    return {
        "usd": usd,
        "usd_per_million_output_tokens": per_million,
        "source": f"{format_usd(usd_per_hour)} an hour over the measured {speed:.1f} output tokens/s",
        "price_date": None,
        "words": f"{format_usd(per_million)} per million output tokens at this load ({format_usd(usd_per_hour)} an hour)",
    }
