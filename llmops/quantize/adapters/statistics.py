"""From per-token figures to the metrics of the gate. Standard library only."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Any


@dataclass
class Scores:
    """Per scored token: negative log-likelihood of the true next token in both models, KL divergence, same top token."""

    group: str = ""
    nll_base: list[float] = field(default_factory=list)
    nll: list[float] = field(default_factory=list)
    kl: list[float] = field(default_factory=list)
    same_top: list[bool] = field(default_factory=list)


def summarise(scores: list[Scores]) -> dict[str, Any]:
    """Perplexities, their ratio, KL divergence and top-1 agreement over all tokens, with standard errors.

    The ratio is exp of the mean difference of the log-likelihoods, so its error is that of paired differences, much
    smaller than the error of either perplexity.
    """
    base = [value for s in scores for value in s.nll_base]
    model = [value for s in scores for value in s.nll]
    kl = [value for s in scores for value in s.kl]
    same = [float(value) for s in scores for value in s.same_top]
    delta, delta_se = mean_and_error([m - b for m, b in zip(model, base, strict=True)])
    kl_mean, kl_se = mean_and_error(kl)
    top, top_se = mean_and_error(same)
    ratio = safe_exp(delta)
    return {
        "ppl_base": safe_exp(mean_and_error(base)[0]),
        "ppl": safe_exp(mean_and_error(model)[0]),
        "ppl_ratio": ratio,
        "ppl_ratio_se": ratio * delta_se,
        # Rounding can make the divergence of equal distributions a hair negative.
        "kl_mean": max(0.0, kl_mean) if math.isfinite(kl_mean) else kl_mean,
        "kl_se": kl_se,
        "kl_median": quantile(kl, 0.5),
        "kl_p99": quantile(kl, 0.99),
        "kl_max": max(kl),
        "top1_agreement": top,
        "top1_se": top_se,
        "tokens": len(kl),
    }


def mean_and_error(values: list[float]) -> tuple[float, float]:
    """Mean and its standard error."""
    count = len(values)
    mean = math.fsum(values) / count if all(map(math.isfinite, values)) else math.nan
    if count < 2 or not math.isfinite(mean):
        return mean, math.nan
    variance = math.fsum((value - mean) ** 2 for value in values) / (count - 1)
    return mean, math.sqrt(variance / count)


def quantile(values: list[float], share: float) -> float:
    """Quantile with linear interpolation; NaN when any value is not finite."""
    if not all(map(math.isfinite, values)):
        return math.nan
    ordered = sorted(values)
    place = (len(ordered) - 1) * share
    low = math.floor(place)
    high = min(low + 1, len(ordered) - 1)
    return max(0.0, ordered[low] + (ordered[high] - ordered[low]) * (place - low))


def safe_exp(value: float) -> float:
    """Exponential that gives infinity where it overflows."""
    try:
        return math.exp(value)
    except OverflowError:
        return math.inf
