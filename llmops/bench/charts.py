"""Plots of a measurement: latency against load, distributions, the run by time."""

from __future__ import annotations

from llmops.bench.report import BenchReport, Level
from llmops.report.document import Chart, Series


def charts(report: BenchReport) -> list[Chart]:
    """What there is to draw; empty for a run without answers."""
    drawn = []
    if len(report.levels) > 1:
        drawn += _against_load(report)
    return drawn + _distributions(report) + _timelines(report.level)


def _x(level: Level, *, by_rate: bool) -> float:
    return float((level.rate if by_rate else level.concurrency) or 0)


def _against_load(report: BenchReport) -> list[Chart]:
    by_rate = report.levels[0].rate is not None
    label = "requests a second" if by_rate else "users"
    levels = sorted(report.levels, key=lambda level: _x(level, by_rate=by_rate))
    latency = []
    for name, words in (("ttft_ms", "TTFT"), ("e2e_ms", "end to end")):
        for share in ("p50", "p95"):
            points = tuple(
                (_x(level, by_rate=by_rate), found.percentiles[share])
                for level in levels
                if (found := getattr(level.metrics, name)) is not None and share not in found.unsupported
            )
            latency += [Series(f"{words} {share}", points)] if len(points) > 1 else []
    speed = tuple((_x(level, by_rate=by_rate), level.metrics.output_tokens_per_s) for level in levels)
    drawn = [Chart("Throughput against load", "line", label, "output tokens/s", (Series("tokens/s", speed),))]
    return ([Chart("Latency against load", "line", label, "ms", tuple(latency))] if latency else []) + drawn


def _distributions(report: BenchReport) -> list[Chart]:
    drawn = []
    for name, words in (("ttft_values_ms", "Time to first token"), ("gap_values_ms", "Gap between tokens")):
        series = tuple(
            # The last percent is left to the tables: one stall would flatten everything else.
            Series(level.load, tuple((float(rank), value) for rank, value in enumerate(getattr(level, name)[:100])))
            for level in report.levels[:5]
            if getattr(level, name)
        )
        if series:
            drawn.append(Chart(f"{words}, by percentile", "line", "percentile", "ms", series))
    return drawn


def _timelines(level: Level) -> list[Chart]:
    moments = level.timeline
    if len(moments) < 2:
        return []
    drawn = []
    for name, words in (("ttft_p50_ms", "p50"), ("ttft_max_ms", "max")):
        points = tuple((m.at_s, value) for m in moments if (value := getattr(m, name)) is not None)
        drawn += [Series(words, points)] if len(points) > 1 else []
    charts = [Chart("TTFT by time of sending", "line", "seconds", "ms", tuple(drawn))] if drawn else []
    flying = Series("in flight", tuple((m.at_s, float(m.in_flight)) for m in moments))
    speed = Series("tokens/s", tuple((m.at_s, m.output_tokens_per_s) for m in moments))
    return [
        *charts,
        Chart("Requests in flight", "line", "seconds", "requests", (flying,)),
        Chart("Output by time", "line", "seconds", "tokens/s", (speed,)),
    ]
