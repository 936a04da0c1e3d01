"""The counters of all workers as one text for Prometheus."""

from __future__ import annotations

from typing import Any, Final

from llmops.gateway.metrics import COUNTERS, GAUGES, HISTOGRAMS, TOKEN_TYPES
from llmops.gateway.money.rates import dollars

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
            "cost": dollars(sum(int(row["cost_pico"]) for row in rows)),
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
