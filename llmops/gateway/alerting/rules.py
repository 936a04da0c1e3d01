"""The alerts, each a record with series under which it fires and series under which it does not.

The samples become the file that ``promtool test rules`` reads, so that a threshold and its proof change together. Counters
are compared as increases over the window that the threshold names; ratios sum both sides by the same labels first.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

Samples = tuple[tuple[str, str], ...]  # (series, values at a sample each 30 s, as promtool writes them)


@dataclass(frozen=True, slots=True)
class Limits:
    """Where the alerts begin: a share of 5xx answers, seconds, dollars in an hour, a share of a budget."""

    error_share: float = 0.05
    p95_s: float = 5.0
    usd_per_hour: float = 100.0
    budget_share: float = 0.8


@dataclass(frozen=True, slots=True)
class Alert:
    """One alert.

    Attributes:
        holds: How long it must be true.
        about: What is said, with Prometheus's template of labels and value.
        fires: Series under which it fires ``minutes`` after the start.
        labels: Labels of the alert that fires then, and ``told`` its text.
        quiet: Series under which it does not, at the same moment.
    """

    name: str
    expr: str
    holds: str
    severity: str
    summary: str
    about: str
    fires: Samples
    labels: tuple[tuple[str, str], ...]
    told: str
    quiet: tuple[Samples, ...]
    minutes: int = 20


def alerts(limits: Limits) -> tuple[Alert, ...]:
    """All alerts for these limits."""
    return (*_traffic(limits), *_money(limits), *_state())


def _traffic(limits: Limits) -> tuple[Alert, ...]:
    errors, fine = 2 * limits.error_share * 100, limits.error_share * 100 / 2
    slow, bound = limits.p95_s * 2, limits.p95_s
    return (
        Alert(
            "HighLLMErrorRate",
            'sum by (model) (rate(llm_requests_total{status=~"5.."}[5m]))'
            f" / sum by (model) (rate(llm_requests_total[5m])) > {limits.error_share:g}",
            "5m",
            "warning",
            "Many requests fail",
            "{{ $value | humanizePercentage }} of the answers for {{ $labels.model }} are errors of the server.",
            (
                ('llm_requests_total{model="m",status="200"}', f"0+{100 - errors:g}x60"),
                ('llm_requests_total{model="m",status="502"}', f"0+{errors:g}x60"),
            ),
            (("model", "m"),),
            f"{errors:g}% of the answers for m are errors of the server.",
            (
                (
                    ('llm_requests_total{model="m",status="200"}', f"0+{100 - fine:g}x60"),
                    ('llm_requests_total{model="m",status="502"}', f"0+{fine:g}x60"),
                ),
                (  # what callers do wrong is no error of the server
                    ('llm_requests_total{model="m",status="200"}', "0+50x60"),
                    ('llm_requests_total{model="m",status="429"}', "0+50x60"),
                ),
            ),
        ),
        Alert(
            "HighLLMLatency",
            f"histogram_quantile(0.95, sum by (le, model) (rate(llm_request_duration_seconds_bucket[5m]))) > {bound:g}",
            "5m",
            "warning",
            "Answers are slow",
            '95 % of the answers for {{ $labels.model }} take up to {{ $value | printf "%.1f" }} s.',
            _durations((bound, 0), (slow, 100)),
            (("model", "m"),),
            f"95 % of the answers for m take up to {bound + 0.95 * (slow - bound):.1f} s.",
            (_durations((bound / 2, 100), (bound, 100), (slow, 100)), _durations((bound, 96), (slow, 100))),
        ),
    )


def _durations(*buckets: tuple[float, int]) -> Samples:
    rows = tuple(
        (f'llm_request_duration_seconds_bucket{{model="m",le="{bound:g}"}}', f"0+{count}x60")
        for bound, count in buckets
    )
    return (*rows, ('llm_request_duration_seconds_bucket{model="m",le="+Inf"}', "0+100x60"))


def _money(limits: Limits) -> tuple[Alert, ...]:
    per_sample = limits.usd_per_hour / 120  # a sample each 30 s
    near = limits.budget_share
    used = 'llm_budget_used_ratio{budget="site",counter="all"}'
    site = (("budget", "site"), ("counter", "all"))
    return (
        Alert(
            "LLMCostSpike",
            f"sum(increase(llm_cost_total_dollars[1h])) > {limits.usd_per_hour:g}",
            "5m",
            "critical",
            "Much money is spent",
            'Requests cost ${{ $value | printf "%.2f" }} in the last hour.',
            # No model alone is over it; together they are.
            tuple((f'llm_cost_total_dollars{{model="{m}"}}', f"0+{per_sample:.6f}x240") for m in ("a", "b")),
            (),
            f"Requests cost ${2 * limits.usd_per_hour:.2f} in the last hour.",
            ((('llm_cost_total_dollars{model="a"}', f"0+{per_sample / 2:.6f}x240"),),),
            minutes=100,
        ),
        Alert(
            "LLMBudgetNearlySpent",
            f"llm_budget_used_ratio >= {near:g}",
            "0m",
            "warning",
            "A budget is nearly spent",
            "{{ $value | humanizePercentage }} of the budget {{ $labels.budget }} ({{ $labels.counter }}) is spent.",
            ((used, f"0.1x30 {near + 0.01:g}x60"),),
            site,
            f"{(near + 0.01) * 100:.4g}% of the budget site (all) is spent.",
            (((used, f"0.1x30 {near - 0.01:g}x60"),),),
        ),
        Alert(
            "LLMBudgetSpent",
            "llm_budget_used_ratio >= 0.99",
            "0m",
            "critical",
            "A budget is spent: requests are refused",
            "{{ $value | humanizePercentage }} of the budget {{ $labels.budget }} ({{ $labels.counter }}) is spent.",
            ((used, "0.5x30 1x60"),),
            site,
            "100% of the budget site (all) is spent.",
            (((used, "0.5x30 0.98x60"),),),
        ),
        Alert(
            "LLMLedgerFailing",
            "llm_ledger_failing == 1",
            "2m",
            "critical",
            "The ledger's database takes no rows",
            "Rows wait in the gateway's spool; when that is full, requests are refused.",
            (('llm_ledger_failing{part="ledger"}', "1x60"),),
            (("part", "ledger"),),
            "Rows wait in the gateway's spool; when that is full, requests are refused.",
            ((('llm_ledger_failing{part="ledger"}', "0x37 1x3 0x30"),),),
        ),
    )


def _state() -> tuple[Alert, ...]:
    available, opened = 'llm_model_available{model="m"}', 'llm_breaker_open{target="vllm/m"}'
    wrong = 'llm_semantic_cache_false_hits_total{route="m"}'
    return (
        Alert(
            "LLMModelUnavailable",
            "llm_model_available == 0",
            "2m",
            "critical",
            "A model has no target left",
            "No target of {{ $labels.model }} may be asked: all are ill or left alone.",
            ((available, "1x10 0x60"),),
            (("model", "m"),),
            "No target of m may be asked: all are ill or left alone.",
            (((available, "1x37 0x2 1x30"),),),
        ),
        Alert(
            "LLMGatewayDown",
            "absent(llm_workers)",
            "2m",
            "critical",
            "No gateway reports",
            "Prometheus has no metrics of any gateway.",
            (),
            (),
            "Prometheus has no metrics of any gateway.",
            ((("llm_workers", "1x60"),),),
        ),
        Alert(
            "LLMBreakerOpen",
            # A breaker closes for its probes: what counts is that it keeps opening again.
            "max_over_time(llm_breaker_open[1m]) == 1",
            "2m",
            "warning",
            "A target is left alone",
            "{{ $labels.target }} keeps failing and is left alone but for probes.",
            ((opened, "0x10 1 1 0 1 1 0 1 1 0 1 1 0 1 1 0 1 1 0 1 1 0 1 1 0 1 1 0 1 1 0 1 1 0 1"),),
            (("target", "vllm/m"),),
            "vllm/m keeps failing and is left alone but for probes.",
            (((opened, "0x36 1 0x30"),),),
        ),
        Alert(
            "LLMSemanticCacheFalseHits",
            "sum by (route) (increase(llm_semantic_cache_false_hits_total[1h])) > 0",
            "0m",
            "warning",
            "The semantic cache would have answered wrongly",
            "A kept answer of route {{ $labels.route }} was not what the model says: raise the threshold, or use shadow mode.",
            ((wrong, "0x30 1x60"),),
            (("route", "m"),),
            "A kept answer of route m was not what the model says: raise the threshold, or use shadow mode.",
            (((wrong, "0x90"),), ((wrong, "5x90"),)),
        ),
        Alert(
            "LLMRedisLost",
            "llm_redis_connected == 0",
            "1m",
            "warning",
            "Replicas do not see each other",
            "Redis does not answer: every replica goes on with its own part of each limit and budget.",
            (('llm_redis_connected{what="replicas"}', "0x60"),),
            (("what", "replicas"),),
            "Redis does not answer: every replica goes on with its own part of each limit and budget.",
            ((('llm_redis_connected{what="replicas"}', "1x38 0 1x30"),),),
        ),
    )


def rule_file(found: Sequence[Alert]) -> dict[str, Any]:
    """What Prometheus reads."""
    rules = [
        {
            "alert": each.name,
            "expr": each.expr,
            "for": each.holds,
            "labels": {"severity": each.severity},
            "annotations": {"summary": each.summary, "description": each.about},
        }
        for each in found
    ]
    return {"groups": [{"name": "llmops-gateway", "interval": "30s", "rules": rules}]}


def test_file(found: Sequence[Alert], rules: str) -> dict[str, Any]:
    """What ``promtool test rules`` reads: each alert fires, and does not."""
    tests: list[dict[str, Any]] = []
    for each in found:
        told = {"summary": each.summary, "description": each.told}
        expected = [{"exp_labels": {"severity": each.severity, **dict(each.labels)}, "exp_annotations": told}]
        tests.append(_test(each, "fires", each.fires, expected))
        tests += [_test(each, f"is quiet ({n})", samples, []) for n, samples in enumerate(each.quiet, 1)]
    return {"rule_files": [rules], "evaluation_interval": "30s", "tests": tests}


def _test(alert: Alert, what: str, samples: Samples, expected: list[dict[str, Any]]) -> dict[str, Any]:
    return {
        "name": f"{alert.name} {what}",
        "interval": "30s",
        "input_series": [{"series": series, "values": values} for series, values in samples],
        "alert_rule_test": [
            {"eval_time": f"{alert.minutes}m", "alertname": alert.name, "exp_alerts": expected},
        ],
    }
