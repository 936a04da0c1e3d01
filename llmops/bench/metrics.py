"""Percentiles with their intervals, rates, and the same by time."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, Final

from llmops.bench import stats
from llmops.bench.samples import Sample, Samples

SHARES: Final = {"p50": 0.50, "p90": 0.90, "p95": 0.95, "p99": 0.99}
DISTRIBUTIONS: Final = (
    "ttft_ms", "ttft_sent_ms", "ttft_visible_ms", "itl_ms", "chunk_gap_ms", "tpot_ms", "e2e_ms", "stream_end_ms",
)  # fmt: skip
_NS: Final = 1e9


@dataclass(frozen=True, slots=True)
class Distribution:
    """One measured quantity over all samples, in ms.

    Attributes:
        count: Samples: requests, or gaps.
        ci95: 95 % intervals of the percentiles, where the samples allow one.
        unsupported: Percentiles that too few samples carry, with what is missing (``needs 459, has 120``): at 99 %
            confidence, at least one sample must lie beyond the percentile.
    """

    count: int
    mean: float
    max: float
    percentiles: dict[str, float]
    ci95: dict[str, tuple[float, float]]
    unsupported: dict[str, str]

    def data(self) -> dict[str, Any]:
        """The JSON shape: percentiles beside mean and max."""
        shown: dict[str, Any] = {name: round(value, 4) for name, value in self.percentiles.items()}
        shown |= {"mean": round(self.mean, 4), "max": round(self.max, 4), "count": self.count}
        shown["ci95"] = {name: [round(low, 4), round(high, 4)] for name, (low, high) in self.ci95.items()}
        if self.unsupported:
            shown["n/a"] = self.unsupported
        return shown


def distribution(values: Iterable[float], *, independent: int | None = None) -> Distribution | None:
    """Summarise ``values``; None when there are none.

    ``independent`` is the number of independent samples where values come in clusters (the gaps of one answer are not
    independent of each other): percentiles need that many, and no interval is claimed.
    """
    ordered = sorted(values)
    if not ordered:
        return None
    count = len(ordered)
    enough = count if independent is None else independent
    intervals = {}
    if independent is None:
        found = ((name, stats.percentile_interval(ordered, share)) for name, share in SHARES.items())
        intervals = {name: interval for name, interval in found if interval is not None}
    return Distribution(
        count=count,
        mean=math.fsum(ordered) / count,
        max=ordered[-1],
        percentiles={name: stats.percentile(ordered, share) for name, share in SHARES.items()},
        ci95=intervals,
        unsupported={
            name: f"needs {needed}, has {enough}"
            for name, share in SHARES.items()
            if enough < (needed := stats.samples_needed(share)) and name != "p50"
        },
    )


@dataclass(frozen=True, slots=True)
class Metrics:
    """Everything measured at one level. Rates are over ``window_s``.

    Attributes:
        error_rate: Failed over all, None when nothing ended.
        goodput: Share of all requests that are whole and within every latency limit of the SLOs (see ``slo.py``).
        goodput_rate: Such requests a second, of those that ended within the window.
    """

    window_s: float
    ttft_ms: Distribution | None
    ttft_sent_ms: Distribution | None
    ttft_visible_ms: Distribution | None
    itl_ms: Distribution | None
    chunk_gap_ms: Distribution | None
    tpot_ms: Distribution | None
    e2e_ms: Distribution | None
    stream_end_ms: Distribution | None
    request_rate: float
    output_tokens_per_s: float
    input_tokens_per_s: float
    error_rate: float | None
    goodput: float | None
    goodput_rate: float

    def data(self) -> dict[str, Any]:
        """The JSON shape."""
        shown: dict[str, Any] = {}
        for name in DISTRIBUTIONS:
            found = getattr(self, name)
            shown[name] = found.data() if found else None
        for name in ("window_s", "request_rate", "output_tokens_per_s", "input_tokens_per_s", "goodput_rate"):
            shown[name] = round(getattr(self, name), 4)
        return shown | {"error_rate": self.error_rate, "goodput": self.goodput}


def measure(samples: Samples, window_ns: tuple[int, int], good: set[int]) -> Metrics:
    """Summarise one level. ``good`` holds the indexes of the rows that count into goodput."""
    measured, ok = samples.measured, samples.ok
    window_s = max(1e-9, (window_ns[1] - window_ns[0]) / _NS)

    def of(name: str) -> Distribution | None:
        return distribution(value for row in ok if (value := getattr(row, name)) is not None)

    within = [row for row in ok if row.end_ns <= window_ns[1]]
    tokens = sum(
        count
        for at_ns, count in zip(samples.token_at_ns, samples.token_counts, strict=True)
        if window_ns[0] <= at_ns <= window_ns[1]
    )
    return Metrics(
        window_s=window_s,
        ttft_ms=of("ttft_ms"),
        ttft_sent_ms=of("ttft_sent_ms"),
        ttft_visible_ms=of("ttft_visible_ms"),
        itl_ms=distribution(samples.gaps_ms, independent=len(ok)),
        chunk_gap_ms=distribution(samples.chunk_gaps_ms, independent=len(ok)),
        tpot_ms=of("tpot_ms"),
        e2e_ms=of("e2e_ms"),
        stream_end_ms=of("stream_end_ms"),
        request_rate=len(within) / window_s,
        output_tokens_per_s=tokens / window_s,
        input_tokens_per_s=sum(row.input_tokens or 0 for row in within) / window_s,
        error_rate=(len(measured) - len(ok)) / len(measured) if measured else None,
        goodput=len(good) / len(measured) if measured else None,
        goodput_rate=sum(samples.rows[index].end_ns <= window_ns[1] for index in good) / window_s,
    )


@dataclass(frozen=True, slots=True)
class Moment:
    """One bin of the timeline. Latencies belong to the bin in which the request was due."""

    at_s: float
    requests: int
    failed: int
    in_flight: int
    output_tokens_per_s: float
    ttft_p50_ms: float | None
    ttft_max_ms: float | None


def timeline(samples: Samples, start_ns: int, end_ns: int, bins: int = 60) -> tuple[Moment, ...]:
    """The run by time, at most ``bins`` moments and none shorter than a second unless the run is."""
    span = max(1, end_ns - start_ns)
    width = max(span / bins, min(1e9, span / 10))
    count = math.ceil(span / width)
    rows: list[list[Sample]] = [[] for _ in range(count)]
    flying = [0] * count
    tokens = [0.0] * count
    for row in samples.rows:
        first, last = (min(count - 1, max(0, int((at - start_ns) / width))) for at in (row.at_ns, row.end_ns))
        rows[first].append(row)
        for place in range(first, last + 1):
            flying[place] += 1
    for at_ns, number in zip(samples.token_at_ns, samples.token_counts, strict=True):
        tokens[min(count - 1, max(0, int((at_ns - start_ns) / width)))] += number
    return tuple(_moment(i * width / _NS, rows[i], flying[i], tokens[i] / (width / _NS)) for i in range(count))


def _moment(at_s: float, rows: list[Sample], flying: int, token_rate: float) -> Moment:
    first = sorted(row.ttft_ms for row in rows if row.ok and row.ttft_ms is not None)
    return Moment(
        at_s=round(at_s, 3),
        requests=len(rows),
        failed=sum(not row.ok for row in rows),
        in_flight=flying,
        output_tokens_per_s=round(token_rate, 2),
        ttft_p50_ms=round(stats.percentile(first, 0.5), 3) if first else None,
        ttft_max_ms=round(first[-1], 3) if first else None,
    )
