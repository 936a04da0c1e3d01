"""Exact small-sample statistics without numpy: order-statistic intervals, binomial tails, Student's t.

Everything rests on the regularised incomplete beta function (continued fraction, Numerical Recipes section 6.4, by the
modified Lentz method).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Final

CONFIDENCE: Final = 0.99


def percentile(ordered: Sequence[float], share: float) -> float:
    """The smallest value at or below which at least ``share`` of the values lie; ``ordered`` is sorted and not empty."""
    return ordered[max(0, math.ceil(share * len(ordered) - 1e-9) - 1)]


def samples_needed(share: float, confidence: float = CONFIDENCE) -> int:
    """How many samples it takes before the largest is, with ``confidence``, at or over the percentile: 459 for p99."""
    return math.ceil(math.log(1 - confidence) / math.log(share) - 1e-9)


def percentile_interval(ordered: Sequence[float], share: float, confidence: float = 0.95) -> tuple[float, float] | None:
    """Distribution-free interval for a percentile from two order statistics; None when the samples are too few."""
    n, tail = len(ordered), (1 - confidence) / 2
    if n == 0:
        return None
    low = _largest_rank(n, share, tail)
    high = n + 1 - _largest_rank(n, 1 - share, tail)
    if low < 1 or high > n:
        return None
    return ordered[low - 1], ordered[high - 1]


def _largest_rank(n: int, share: float, tail: float) -> int:
    """The largest r with P(Binomial(n, share) < r) <= tail; 0 when there is none."""
    low, high = 0, n
    while low < high:
        middle = (low + high + 1) // 2
        if binomial_cdf(middle - 1, n, share) <= tail:
            low = middle
        else:
            high = middle - 1
    return low


def binomial_cdf(k: int, n: int, p: float) -> float:
    """P(X <= k) for X ~ Binomial(n, p)."""
    if k < 0:
        return 0.0
    if k >= n:
        return 1.0
    return beta_cdf(1 - p, n - k, k + 1)


def binomial_sf(k: int, n: int, p: float) -> float:
    """P(X >= k)."""
    return 1.0 if k <= 0 else beta_cdf(p, k, n - k + 1) if k <= n else 0.0


def rate_interval(k: int, n: int, confidence: float = 0.95) -> tuple[float, float]:
    """Clopper-Pearson interval of a rate of ``k`` in ``n``."""
    tail = (1 - confidence) / 2
    low = 0.0 if k == 0 else _solve(lambda p: binomial_sf(k, n, p) - tail, 0.0, 1.0)
    high = 1.0 if k == n else _solve(lambda p: tail - binomial_cdf(k, n, p), 0.0, 1.0)
    return low, high


def t_quantile(share: float, freedom: int) -> float:
    """Quantile of Student's t, for share >= 0.5."""
    return _solve(lambda t: t_cdf(t, freedom) - share, 0.0, 1e4)


def t_cdf(t: float, freedom: int) -> float:
    """P(T <= t)."""
    tail = 0.5 * beta_cdf(freedom / (freedom + t * t), freedom / 2, 0.5)
    return 1 - tail if t >= 0 else tail


def mean_interval(values: Sequence[float], confidence: float = 0.95) -> tuple[float, float] | None:
    """Student's interval of the mean of independent values; None for fewer than two."""
    n = len(values)
    if n < 2:
        return None
    mean = math.fsum(values) / n
    variance = math.fsum((value - mean) ** 2 for value in values) / (n - 1)
    half = t_quantile(0.5 + confidence / 2, n - 1) * math.sqrt(variance / n)
    return mean - half, mean + half


def dispersion(counts: Sequence[int]) -> float:
    """Variance over mean of counts in equal intervals: 1 for a Poisson process, 0 for a constant one."""
    n = len(counts)
    mean = sum(counts) / n
    return math.fsum((count - mean) ** 2 for count in counts) / (n - 1) / mean


def beta_cdf(x: float, a: float, b: float) -> float:
    """The regularised incomplete beta function I_x(a, b)."""
    if x <= 0:
        return 0.0
    if x >= 1:
        return 1.0
    front = math.exp(math.lgamma(a + b) - math.lgamma(a) - math.lgamma(b) + a * math.log(x) + b * math.log1p(-x))
    if x < (a + 1) / (a + b + 2):
        return front * _fraction(x, a, b) / a
    return 1 - front * _fraction(1 - x, b, a) / b


def _fraction(x: float, a: float, b: float) -> float:
    tiny = 1e-300
    c, d = 1.0, 1 / _away(1 - (a + b) * x / (a + 1), tiny)
    result = d
    for m in range(1, 100_000):
        for numerator in (
            m * (b - m) * x / ((a + 2 * m - 1) * (a + 2 * m)),
            -(a + m) * (a + b + m) * x / ((a + 2 * m) * (a + 2 * m + 1)),
        ):
            d = 1 / _away(1 + numerator * d, tiny)
            c = _away(1 + numerator / c, tiny)
            result *= d * c
        if abs(d * c - 1) < 1e-13:
            break
    return result


def _away(value: float, tiny: float) -> float:
    return tiny if abs(value) < tiny else value


def _solve(rising: object, low: float, high: float) -> float:
    """The root of a rising function by bisection."""
    assert callable(rising)
    for _ in range(200):
        middle = (low + high) / 2
        if middle in (low, high):
            break
        if rising(middle) < 0:
            low = middle
        else:
            high = middle
    return (low + high) / 2
