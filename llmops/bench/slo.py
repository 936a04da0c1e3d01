"""Service-level objectives: ``ttft.p99<500ms``, ``error_rate<1%``, ``goodput>=0.95``, judged as tests, not by eye.

A percentile objective ``p99 < L`` says that fewer than 1 % of requests may be slower than L. The requests over L are
counted, failed ones among them, and an exact one-sided binomial test decides: PASS when so few are unlikely (1 % by
default) if the objective did not hold, FAIL when so many are unlikely if it did, INCONCLUSIVE between.
"""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final, Literal

from llmops.bench import stats
from llmops.bench.metrics import Metrics
from llmops.bench.samples import Samples
from llmops.errors import UsageError, did_you_mean

Verdict = Literal["PASS", "FAIL", "INCONCLUSIVE"]
_SYNTAX: Final = re.compile(r"^\s*([a-z0-9_]+)(?:\.([a-z0-9_.]+))?\s*(<=|>=|<|>)\s*([0-9.]+)\s*([a-z%/]*)\s*$")
_LATENCIES: Final = {
    "ttft": "ttft_ms", "ttft_sent": "ttft_sent_ms", "ttft_visible": "ttft_visible_ms", "itl": "itl_ms",
    "tpot": "tpot_ms", "e2e": "e2e_ms",
}  # fmt: skip
_RATES: Final = ("request_rate", "output_tokens_per_s", "goodput_rate")
_SHARES: Final = ("error_rate", "goodput")
_STATISTICS: Final = ("p50", "p90", "p95", "p99", "p99.9", "mean", "max")
_TO_MS: Final = {"ms": 1.0, "s": 1000.0, "us": 0.001}
_BLOCKS: Final = 10


@dataclass(frozen=True, slots=True)
class Slo:
    """One objective. ``limit`` is in ms, a share, or a rate."""

    text: str
    metric: str
    statistic: str | None
    upper: bool
    limit: float

    @property
    def share(self) -> float | None:
        """0.99 for p99; None when the statistic is no percentile."""
        return float(self.statistic[1:]) / 100 if self.statistic and self.statistic[0] == "p" else None


@dataclass(frozen=True, slots=True)
class SloResult:
    """How an objective came out.

    Attributes:
        value: What was measured, None when nothing was.
        needed: Requests after which a verdict can be expected at the rate seen; None when there is a verdict.
    """

    slo: str
    verdict: Verdict
    value: float | None
    why: str
    needed: int | None = None


def parse(text: str) -> Slo:
    """Read one objective.

    Raises:
        UsageError: Unknown metric, statistic or unit, or no objective at all.
    """
    match = _SYNTAX.match(text)
    if match is None:
        raise UsageError(f"{text!r} is not an SLO", "write it as 'ttft.p99<500ms', 'error_rate<1%' or 'goodput>=0.95'")
    metric, statistic, sign, number, unit = match.groups()
    metric = metric.removesuffix("_ms")
    known = (*_LATENCIES, *_RATES, *_SHARES)
    if metric not in known:
        raise UsageError(f"{text!r}: there is no metric {metric!r}", did_you_mean(metric, known))
    value = _number(text, number)
    if metric in _LATENCIES:
        if statistic not in _STATISTICS:
            raise UsageError(f"{text!r}: {metric} needs one of {', '.join(_STATISTICS)}", f"{metric}.p99<…")
        if unit not in _TO_MS:
            raise UsageError(f"{text!r}: a time needs the unit ms or s", f"{metric}.{statistic}{sign}{number}ms")
        if ">" in sign:
            raise UsageError(f"{text!r}: a latency objective is an upper limit", "write it with <")
        return Slo(text, metric, statistic, True, value * _TO_MS[unit])
    if statistic is not None:
        raise UsageError(f"{text!r}: {metric} has no {statistic}", f"{metric}{sign}{number}{unit}")
    if metric in _SHARES:
        return Slo(text, metric, None, "<" in sign, _share(text, value, unit))
    if unit not in ("", "/s", "rps", "tok/s"):
        raise UsageError(
            f"{text!r}: {metric} is a number a second and takes no unit {unit!r}", f"{metric}{sign}{number}"
        )
    return Slo(text, metric, None, "<" in sign, value)


def _number(text: str, number: str) -> float:
    try:
        return float(number)
    except ValueError:
        raise UsageError(f"{text!r}: {number!r} is not a number", "write it as 'ttft.p99<500ms'") from None


def _share(text: str, value: float, unit: str) -> float:
    share = value / 100 if unit == "%" else value
    if unit not in ("", "%") or not 0 <= share <= 1:
        raise UsageError(f"{text!r}: a share is written as 1% or 0.01", "error_rate<1%")
    return share


def good_requests(samples: Samples, slos: Sequence[Slo]) -> set[int]:
    """Indexes of the measured requests that are whole and within every latency limit named by an SLO.

    ``ttft.p99<500ms`` and ``ttft.mean<500ms`` both ask of a single request that its TTFT be under 500 ms; the limit of
    gaps is met by a request whose mean gap (TPOT) meets it.
    """
    limits = [
        ("tpot_ms" if s.metric == "itl" else _LATENCIES[s.metric], s.limit) for s in slos if s.metric in _LATENCIES
    ]
    return {
        index
        for index, row in enumerate(samples.rows)
        if row.measured and row.ok and all((getattr(row, name) or 0.0) < limit for name, limit in limits)
    }


def judge(slo: Slo, samples: Samples, metrics: Metrics, confidence: float) -> SloResult:
    """Test one objective."""
    if not samples.measured:
        return SloResult(slo.text, "INCONCLUSIVE", None, "no request was measured")
    if slo.metric in _SHARES:
        return _judge_share(slo, samples, metrics, confidence)
    if slo.metric in _RATES:
        return _judge_rate(slo, samples, metrics, confidence)
    return _judge_latency(slo, samples, metrics, confidence)


def _judge_latency(slo: Slo, samples: Samples, metrics: Metrics, confidence: float) -> SloResult:
    found = getattr(metrics, _LATENCIES[slo.metric])
    if found is None:
        failed = bool(samples.errors())
        why = "every request failed" if failed else f"the answers have no {slo.metric}"
        return SloResult(slo.text, "FAIL" if failed else "INCONCLUSIVE", None, why)
    if slo.statistic == "max":
        over = found.max >= slo.limit
        return SloResult(
            slo.text, "FAIL" if over else "PASS", found.max, f"the largest of {found.count} is {found.max:.1f} ms"
        )
    if slo.statistic == "mean":
        return _judge_mean(slo, samples, found.mean, confidence)
    share = slo.share
    assert share is not None
    value = found.percentiles.get(slo.statistic or "")
    if slo.metric == "itl":
        return _binomial(slo, _gap_violations(samples, slo.limit, 1 - share), 1 - share, value, confidence)
    name = _LATENCIES[slo.metric]
    rows = [row for row in samples.measured if not row.ok or getattr(row, name) is not None]
    over = sum(not row.ok or getattr(row, name) >= slo.limit for row in rows)
    return _binomial(slo, _Violations(over, len(rows), len(rows), "requests"), 1 - share, value, confidence)


@dataclass(frozen=True, slots=True)
class _Violations:
    """``over`` of ``count`` things are over a limit; they are worth ``effective`` independent ones."""

    over: int
    count: int
    effective: int
    unit: str


def _binomial(slo: Slo, seen: _Violations, allowed: float, value: float | None, confidence: float) -> SloResult:
    """The test itself."""
    effective = seen.effective
    scaled = round(seen.over * effective / seen.count) if seen.count else 0
    why = f"{seen.over} of {seen.count} {seen.unit} against it, {allowed * 100:.3g} % allowed"
    if stats.binomial_cdf(scaled, effective, allowed) <= 1 - confidence:
        return SloResult(slo.text, "PASS", value, why)
    if stats.binomial_sf(scaled, effective, allowed) <= 1 - confidence:
        return SloResult(slo.text, "FAIL", value, why)
    needed = _needed(scaled / effective if effective else 0.0, allowed, confidence)
    wanted = f"needs about {needed} requests, has {effective}" if needed else "too close to the limit to tell"
    return SloResult(slo.text, "INCONCLUSIVE", value, f"{why}; {wanted}", needed)


def _needed(rate: float, allowed: float, confidence: float) -> int | None:
    """Requests after which the test would decide if the rate seen went on; None when that is over ten million."""
    if rate == 0.0:
        return stats.samples_needed(1 - allowed, confidence)
    n = 32
    while n < 10_000_000:
        k = round(rate * n)
        if min(stats.binomial_cdf(k, n, allowed), stats.binomial_sf(k, n, allowed)) <= 1 - confidence:
            return n
        n = math.ceil(n * 1.1)
    return None


def _gap_violations(samples: Samples, limit: float, allowed: float) -> _Violations:
    """Gaps over the limit, all gaps, and how many independent ones they are worth.

    Gaps of one answer hang together, so their count overstates the evidence: the variance of the share is estimated
    over requests (a ratio estimator), and divides the binomial variance.
    """
    over: dict[int, int] = {}
    total: dict[int, int] = {}
    for owner, gap in zip(samples.gap_owner, samples.gaps_ms, strict=True):
        total[owner] = total.get(owner, 0) + 1
        if gap >= limit:
            over[owner] = over.get(owner, 0) + 1
    count, wrong = sum(total.values()), sum(over.values())
    rate = wrong / count if count else 0.0
    variance = sum((over.get(owner, 0) - rate * number) ** 2 for owner, number in total.items()) / max(1, count) ** 2
    worth = allowed * (1 - allowed) / variance if variance else 0.0
    return _Violations(wrong, count, int(min(count, max(len(total), worth))), "gaps")


def _judge_mean(slo: Slo, samples: Samples, value: float, confidence: float) -> SloResult:
    name = "tpot_ms" if slo.metric == "itl" else _LATENCIES[slo.metric]
    values = [found for row in samples.ok if (found := getattr(row, name)) is not None]
    return _interval(slo, values, value, confidence, "ms")


def _judge_share(slo: Slo, samples: Samples, metrics: Metrics, confidence: float) -> SloResult:
    count = len(samples.measured)
    value = getattr(metrics, slo.metric)
    hits = round((value or 0.0) * count)
    # An upper limit on hits is a lower limit on misses, so that one test serves both.
    bad, allowed = (hits, slo.limit) if slo.upper else (count - hits, 1 - slo.limit)
    if allowed <= 0 or allowed >= 1:
        passed = bad == 0 if allowed <= 0 else True
        return SloResult(slo.text, "PASS" if passed else "FAIL", value, f"{bad} of {count} against it")
    return _binomial(slo, _Violations(bad, count, count, "requests"), allowed, value, confidence)


def _judge_rate(slo: Slo, samples: Samples, metrics: Metrics, confidence: float) -> SloResult:
    """A rate by its mean over ten blocks of time."""
    value = getattr(metrics, slo.metric)
    start = min(row.at_ns for row in samples.measured)
    width = metrics.window_s * 1e9 / _BLOCKS
    blocks = [0.0] * _BLOCKS
    if slo.metric == "output_tokens_per_s":
        points = list(zip(samples.token_at_ns, samples.token_counts, strict=True))
    else:
        points = [(row.end_ns, 1.0) for row in samples.ok]
    for at_ns, weight in points:
        place = int((at_ns - start) / width)
        if 0 <= place < _BLOCKS:
            blocks[place] += weight / (width / 1e9)
    return _interval(slo, blocks, value, confidence, "a second")


def _interval(slo: Slo, values: Sequence[float], value: float, confidence: float, unit: str) -> SloResult:
    interval = stats.mean_interval(values, confidence)
    if interval is None:
        return SloResult(slo.text, "INCONCLUSIVE", value, "fewer than two samples", 2)
    low, high = interval
    why = f"mean between {low:.4g} and {high:.4g} {unit}"
    good, bad = (high < slo.limit, low >= slo.limit) if slo.upper else (low >= slo.limit, high < slo.limit)
    if good or bad:
        return SloResult(slo.text, "PASS" if good else "FAIL", value, why)
    return SloResult(slo.text, "INCONCLUSIVE", value, why + "; run longer")
