"""Counters of one worker, and their rendering for Prometheus, merged over all workers.

The hot path touches plain integers in slots; text is made when someone scrapes. Labels are bounded: a model name from a
request becomes a label only when it is configured or has been answered, and only for so many names.
"""

from __future__ import annotations

import time
from bisect import bisect_left
from collections import defaultdict
from typing import Any, Final

MAX_MODELS: Final = 200
OTHER: Final = "other"
_WINDOW_S: Final = 300
_SLOTS: Final = 30
_SLOT_NS: Final = _WINDOW_S * 1_000_000_000 // _SLOTS

_SECONDS: Final[tuple[float, ...]] = (
    0.005,
    0.01,
    0.025,
    0.05,
    0.1,
    0.25,
    0.5,
    1.0,
    2.5,
    5.0,
    10.0,
    30.0,
    60.0,
    120.0,
    300.0,
    600.0,
)
_OVERHEAD: Final[tuple[float, ...]] = (0.00005, 0.0001, 0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.1, 0.5)
HISTOGRAMS: Final[dict[str, tuple[str, tuple[float, ...]]]] = {
    "llm_request_duration_seconds": ("From the whole request's arrival to the answer's last byte", _SECONDS),
    "llm_time_to_first_token_seconds": ("From the request's arrival to its first content, streams only", _SECONDS),
    "llm_upstream_duration_seconds": ("Spent waiting for upstreams, retries included", _SECONDS),
    "llm_gateway_overhead_seconds": ("Spent in the gateway itself before the upstream was asked", _OVERHEAD),
}
TOKEN_TYPES: Final = ("input", "output", "cache_read", "cache_write", "reasoning")


class Histogram:
    """Counts by bucket, with sum. The last count is of what exceeds every bound."""

    __slots__ = ("bounds", "counts", "total")

    def __init__(self, bounds: tuple[float, ...]) -> None:
        self.bounds = bounds
        self.counts = [0] * (len(bounds) + 1)
        self.total = 0.0

    def observe(self, value: float) -> None:
        """Count one value."""
        self.counts[bisect_left(self.bounds, value)] += 1
        self.total += value


class ModelStats:
    """Everything counted for one model label."""

    __slots__ = (
        "_slot",
        "_slot_errors",
        "_slot_total",
        "_slot_when",
        "_tick",
        "cost_pico",
        "estimated",
        "histograms",
        "statuses",
        "tokens",
        "unpriced",
    )

    def __init__(self) -> None:
        self.statuses: defaultdict[int, int] = defaultdict(int)
        self.histograms = [Histogram(bounds) for _, bounds in HISTOGRAMS.values()]
        self.tokens = [0] * len(TOKEN_TYPES)
        self.cost_pico = 0
        self.unpriced = 0
        self.estimated = 0
        self._tick = self._slot = 0
        self._slot_when = [0] * _SLOTS
        self._slot_total = [0] * _SLOTS
        self._slot_errors = [0] * _SLOTS

    def finished(self, status: int, now_ns: int) -> None:
        """Count an answer. Errors, for the error rate, are 5xx: what went wrong here or upstream."""
        self.statuses[status] += 1
        tick = now_ns // _SLOT_NS
        if tick != self._tick:
            self._next_slot(tick)
        self._slot_total[self._slot] += 1
        if status >= 500:
            self._slot_errors[self._slot] += 1

    def _next_slot(self, tick: int) -> None:
        self._tick, self._slot = tick, tick % _SLOTS
        self._slot_when[self._slot] = tick
        self._slot_total[self._slot] = self._slot_errors[self._slot] = 0

    def took(self, total_s: float, upstream_s: float, overhead_s: float) -> None:
        """Times of an answer. Written out, and not through ``observe``: every request comes by here."""
        duration, _, upstream, overhead = self.histograms
        duration.counts[bisect_left(_SECONDS, total_s)] += 1
        duration.total += total_s
        if upstream_s:
            upstream.counts[bisect_left(_SECONDS, upstream_s)] += 1
            upstream.total += upstream_s
            overhead.counts[bisect_left(_OVERHEAD, overhead_s)] += 1
            overhead.total += overhead_s

    def recent(self, now_ns: int) -> tuple[int, int]:
        """(errors, requests) of the last five minutes."""
        oldest = now_ns // _SLOT_NS - _SLOTS
        live = [slot for slot in range(_SLOTS) if self._slot_when[slot] > oldest]
        return sum(self._slot_errors[slot] for slot in live), sum(self._slot_total[slot] for slot in live)


class Metrics:
    """All counters of this worker. Gauges are read from ``gauges`` when someone scrapes."""

    def __init__(self) -> None:
        self.models: dict[str, ModelStats] = {}
        self.counters: defaultdict[tuple[str, str], int] = defaultdict(int)
        self.in_flight = 0
        self.started_s = time.time()
        self._admitted: set[str] = set()

    def configured(self, labels: set[str]) -> None:
        """Names from the config are always labels, with counters from the start: a first cost is then an increase."""
        self._admitted |= labels
        for label in labels:
            self.of(label)

    def label(self, model: str, fallback: str, *, answered: bool) -> str:
        """The label for a requested model: itself once known or answered, else its route's pattern."""
        if model in self._admitted:
            return model
        if answered and len(self._admitted) < MAX_MODELS and len(model) <= 128:
            self._admitted.add(model)
            return model
        return fallback if fallback in self._admitted else OTHER

    def of(self, label: str) -> ModelStats:
        """The counters of a label."""
        stats = self.models.get(label)
        if stats is None:
            stats = self.models[label] = ModelStats()
        return stats

    def count(self, name: str, label: str = "") -> None:
        """Add one to a counter of ``COUNTERS``; ``label`` is from a small fixed set."""
        self.counters[name, label] += 1

    def snapshot(self, gauges: dict[str, dict[str, float]] | None = None) -> dict[str, Any]:
        """Plain data for merging: counters that add up."""
        now_ns = time.monotonic_ns()
        return {
            "in_flight": self.in_flight,
            "counters": [[name, label, count] for (name, label), count in self.counters.items()],
            "gauges": gauges or {},
            "models": {
                label: {
                    "statuses": {str(status): count for status, count in stats.statuses.items()},
                    "histograms": [[*each.counts, each.total] for each in stats.histograms],
                    "tokens": stats.tokens,
                    "cost_pico": str(stats.cost_pico),
                    "unpriced": stats.unpriced,
                    "estimated": stats.estimated,
                    "recent": stats.recent(now_ns),
                }
                for label, stats in self.models.items()
            },
        }


COUNTERS: Final[dict[str, tuple[str, str]]] = {
    "llm_upstream_attempts_total": ("target", "Requests sent to a target, retries included"),
    "llm_upstream_failures_total": ("failure", "Attempts that failed, by target and kind"),
    "llm_retries_total": ("target", "Attempts after the first one of a request"),
    "llm_fallbacks_total": ("target", "Requests answered by another target than the first choice"),
    "llm_cache_requests_total": ("result", "Cache look-ups by result: hit, miss, shared"),
    "llm_rate_limited_total": ("limit", "Requests refused by a limit"),
    "llm_client_disconnects_total": ("when", "Callers that went away before their answer was whole"),
    "llm_refused_total": ("reason", "Requests refused before any upstream was asked"),
    "llm_guard_findings_total": ("rule", "Findings of the guards, by rule"),
    "llm_semantic_cache_requests_total": ("route_result", "Look-ups of the semantic cache: hit, miss, shadow, unfit"),
    "llm_semantic_cache_checked_total": ("route", "Semantic hits whose answer was compared with the model's"),
    "llm_semantic_cache_false_hits_total": ("route", "Of those, answers that would have been wrong"),
    "llm_budget_fallbacks_total": ("route", "Requests for which a local model stood in because of a budget"),
    "llm_log_lines_lost_total": ("log", "Lines that the disk did not take"),
    "llm_spans_dropped_total": ("why", "Spans of requests that never reached the collector"),
    "llm_batches_total": ("provider", "Calls made for several requests together"),
    "llm_batched_requests_total": ("provider", "Requests answered from such calls"),
}
GAUGES: Final[dict[str, tuple[str, str]]] = {
    "llm_breaker_open": ("target", "1 while a target is left alone"),
    "llm_target_in_flight": ("target", "Requests now at a target"),
    "llm_target_healthy": ("target", "1 while the provider's active health check passes"),
    "llm_model_available": ("model", "1 while any target of the route may be asked"),
    "llm_budget_used_ratio": ("budget_counter", "Spent part of a budget's limit in its period"),
    "llm_ledger_lag_bytes": ("part", "Bytes of rows that wait for the ledger's database"),
    "llm_ledger_failing": ("part", "1 while the ledger's database takes no rows"),
    "llm_redis_connected": ("what", "1 while the replicas' Redis answers"),
    "llm_pool_connections": ("provider", "Open connections to a provider"),
    "llm_pool_waiting": ("provider", "Requests waiting for a connection"),
    "llm_cache_bytes": ("cache", "Bytes in the answer cache"),
    "llm_cache_entries": ("cache", "Answers in the cache"),
}
