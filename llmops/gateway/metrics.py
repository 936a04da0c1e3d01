"""Counters of one worker, and their rendering for Prometheus, merged over all workers.

The hot path touches plain integers in slots; text is made when someone scrapes. Labels are bounded: a model name from a
request becomes a label only when it is configured or has been answered, and only for so many names.
"""

from __future__ import annotations

import time
from bisect import bisect_left
from decimal import Decimal
from typing import Any, Final

MAX_MODELS: Final = 200
OTHER: Final = "other"
_WINDOW_S: Final = 300
_SLOTS: Final = 30

_SECONDS: Final = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 120.0, 300.0, 600.0)
_OVERHEAD: Final = (0.00005, 0.0001, 0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.1, 0.5)
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
        "_slot_errors",
        "_slot_total",
        "_slot_when",
        "cost",
        "estimated",
        "histograms",
        "statuses",
        "tokens",
        "unpriced",
    )

    def __init__(self) -> None:
        self.statuses: dict[int, int] = {}
        self.histograms = [Histogram(bounds) for _, bounds in HISTOGRAMS.values()]
        self.tokens = [0] * len(TOKEN_TYPES)
        self.cost = Decimal(0)
        self.unpriced = 0
        self.estimated = 0
        self._slot_when = [0] * _SLOTS
        self._slot_total = [0] * _SLOTS
        self._slot_errors = [0] * _SLOTS

    def finished(self, status: int, now_s: int) -> None:
        """Count an answer. Errors, for the error rate, are 5xx: what went wrong here or upstream."""
        self.statuses[status] = self.statuses.get(status, 0) + 1
        tick = now_s * _SLOTS // _WINDOW_S
        slot = tick % _SLOTS
        if self._slot_when[slot] != tick:
            self._slot_when[slot] = tick
            self._slot_total[slot] = self._slot_errors[slot] = 0
        self._slot_total[slot] += 1
        if status >= 500:
            self._slot_errors[slot] += 1

    def recent(self, now_s: int) -> tuple[int, int]:
        """(errors, requests) of the last five minutes."""
        oldest = now_s * _SLOTS // _WINDOW_S - _SLOTS
        live = [slot for slot in range(_SLOTS) if self._slot_when[slot] > oldest]
        return sum(self._slot_errors[slot] for slot in live), sum(self._slot_total[slot] for slot in live)


class Metrics:
    """All counters of this worker. Gauges are read from ``gauges`` when someone scrapes."""

    def __init__(self) -> None:
        self.models: dict[str, ModelStats] = {}
        self.counters: dict[tuple[str, str], int] = {}
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
        key = (name, label)
        self.counters[key] = self.counters.get(key, 0) + 1

    def snapshot(self, gauges: dict[str, dict[str, float]] | None = None) -> dict[str, Any]:
        """Plain data for merging: counters that add up."""
        now_s = int(time.time())
        return {
            "in_flight": self.in_flight,
            "counters": [[name, label, count] for (name, label), count in self.counters.items()],
            "gauges": gauges or {},
            "models": {
                label: {
                    "statuses": {str(status): count for status, count in stats.statuses.items()},
                    "histograms": [[*each.counts, each.total] for each in stats.histograms],
                    "tokens": stats.tokens,
                    "cost": str(stats.cost),
                    "unpriced": stats.unpriced,
                    "estimated": stats.estimated,
                    "recent": stats.recent(now_s),
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
# Gauges that do not add up over workers: a target is open, or ill, when any worker says so.
_WORST: Final = {
    "llm_breaker_open": max,
    "llm_target_healthy": min,
    "llm_model_available": min,
    "llm_budget_used_ratio": max,  # the workers share their counters
    "llm_ledger_failing": max,
    "llm_redis_connected": min,
}
_TWO_LABELS: Final = {
    "failure": ("target", "kind"),
    "route_result": ("route", "result"),
    "budget_counter": ("budget", "counter"),
}


def render(snapshots: list[dict[str, Any]]) -> str:
    """The Prometheus text of all workers together."""
    out: list[str] = []
    models = _merge_models([each["models"] for each in snapshots])
    _requests(out, models)
    for index, (name, (text, bounds)) in enumerate(HISTOGRAMS.items()):
        _head(out, name, "histogram", text)
        for label, merged in models.items():
            _histogram(out, name, label, bounds, merged["histograms"][index])
    _head(out, "llm_requests_in_flight", "gauge", "Requests being answered now")
    out.append(f"llm_requests_in_flight {sum(each['in_flight'] for each in snapshots)}")
    _counters(out, snapshots)
    _gauges(out, snapshots)
    _head(out, "llm_workers", "gauge", "Worker processes that reported")
    out.append(f"llm_workers {len(snapshots)}")
    return "\n".join(out) + "\n"


def _requests(out: list[str], models: dict[str, dict[str, Any]]) -> None:
    _head(out, "llm_requests_total", "counter", "Answers by model and HTTP status")
    for label, merged in models.items():
        for status, count in sorted(merged["statuses"].items()):
            out.append(f'llm_requests_total{{model="{_escape(label)}",status="{status}"}} {count}')
    _head(out, "llm_token_usage_total", "counter", "Tokens by model and type, as the providers counted them")
    for label, merged in models.items():
        for kind, count in zip(TOKEN_TYPES, merged["tokens"], strict=True):
            if count or kind in ("input", "output"):
                out.append(f'llm_token_usage_total{{model="{_escape(label)}",type="{kind}"}} {count}')
    simple = (
        ("llm_cost_total_dollars", "counter", "Dollars spent, where the price is known", "cost"),
        ("llm_unpriced_requests_total", "counter", "Answers whose price is unknown", "unpriced"),
        ("llm_estimated_requests_total", "counter", "Answers whose tokens are an estimate", "estimated"),
    )
    for name, kind, text, field in simple:
        _head(out, name, kind, text)
        out.extend(f'{name}{{model="{_escape(label)}"}} {merged[field]}' for label, merged in models.items())
    _head(out, "llm_error_rate", "gauge", "Share of 5xx answers in the last five minutes")
    for label, merged in models.items():
        errors, total = merged["recent"]
        out.append(f'llm_error_rate{{model="{_escape(label)}"}} {errors / total if total else 0:.6g}')


def _merge_models(workers: list[dict[str, Any]]) -> dict[str, dict[str, Any]]:
    merged: dict[str, dict[str, Any]] = {}
    for label in sorted({label for worker in workers for label in worker}):
        rows = [worker[label] for worker in workers if label in worker]
        statuses: dict[str, int] = {}
        for row in rows:
            for status, count in row["statuses"].items():
                statuses[status] = statuses.get(status, 0) + count
        merged[label] = {
            "statuses": statuses,
            "histograms": [
                [sum(column) for column in zip(*each, strict=True)]
                for each in zip(*(row["histograms"] for row in rows), strict=True)
            ],
            "tokens": [sum(column) for column in zip(*(row["tokens"] for row in rows), strict=True)],
            "cost": sum((Decimal(row["cost"]) for row in rows), Decimal(0)),
            "unpriced": sum(row["unpriced"] for row in rows),
            "estimated": sum(row["estimated"] for row in rows),
            "recent": [sum(column) for column in zip(*(row["recent"] for row in rows), strict=True)],
        }
    return merged


def _histogram(out: list[str], name: str, label: str, bounds: tuple[float, ...], row: list[float]) -> None:
    *counts, total = row
    if not any(counts):
        return
    model, so_far = _escape(label), 0
    for bound, count in zip(bounds, counts, strict=False):
        so_far += int(count)
        out.append(f'{name}_bucket{{model="{model}",le="{bound:g}"}} {so_far}')
    so_far += int(counts[-1])
    out.append(f'{name}_bucket{{model="{model}",le="+Inf"}} {so_far}')
    out.append(f'{name}_sum{{model="{model}"}} {total:.6f}')
    out.append(f'{name}_count{{model="{model}"}} {so_far}')


def _counters(out: list[str], snapshots: list[dict[str, Any]]) -> None:
    sums: dict[tuple[str, str], int] = {}
    for each in snapshots:
        for name, label, count in each["counters"]:
            sums[name, label] = sums.get((name, label), 0) + count
    for name, (label_name, text) in COUNTERS.items():
        _head(out, name, "counter", text)
        rows = sorted((label, count) for (row, label), count in sums.items() if row == name)
        out.extend(f"{name}{_labels(label_name, label)} {count}" for label, count in rows)


def _gauges(out: list[str], snapshots: list[dict[str, Any]]) -> None:
    for name, (label_name, text) in GAUGES.items():
        values: dict[str, list[float]] = {}
        for each in snapshots:
            for label, value in each["gauges"].get(name, {}).items():
                values.setdefault(label, []).append(value)
        if values:
            _head(out, name, "gauge", text)
            together = _WORST.get(name, sum)
            out.extend(
                f"{name}{_labels(label_name, label)} {together(each):g}" for label, each in sorted(values.items())
            )


def _labels(names: str, label: str) -> str:
    """``target`` -> {target="…"}; some labels are two in one, as ``target|kind``."""
    two = _TWO_LABELS.get(names)
    if two is not None:
        first, _, second = label.partition("|") if names == "budget_counter" else label.rpartition("|")
        return f'{{{two[0]}="{_escape(first)}",{two[1]}="{_escape(second)}"}}'
    return f'{{{names}="{_escape(label)}"}}'


def _head(out: list[str], name: str, kind: str, text: str) -> None:
    out.append(f"# HELP {name} {text}")
    out.append(f"# TYPE {name} {kind}")


def _escape(label: str) -> str:
    return label.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n")
