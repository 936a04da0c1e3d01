"""A Grafana dashboard of the gateway: a table of panels, made into the JSON that Grafana imports."""

from __future__ import annotations

from typing import Any, Final

_WIDTH: Final = 12
_HEIGHT: Final = 8
_SOURCE: Final = {"type": "prometheus", "uid": "${source}"}
_MODEL: Final = 'model=~"$model"'


def _quantile(share: float, name: str) -> str:
    return f"histogram_quantile({share:g}, sum by (le) (rate({name}_bucket{{{_MODEL}}}[$__rate_interval])))"


# (title, unit, (expression, legend)…), in rows of two.
PANELS: Final[tuple[tuple[str, str, tuple[tuple[str, str], ...]], ...]] = (
    (
        "Requests by model",
        "reqps",
        ((f"sum by (model) (rate(llm_requests_total{{{_MODEL}}}[$__rate_interval]))", "{{model}}"),),
    ),
    (
        "Share of server errors",
        "percentunit",
        (
            (
                (
                    f'sum by (model) (rate(llm_requests_total{{{_MODEL},status=~"5.."}}[$__rate_interval]))'
                    f" / sum by (model) (rate(llm_requests_total{{{_MODEL}}}[$__rate_interval]))"
                ),
                "{{model}}",
            ),
        ),
    ),
    (
        "Duration",
        "s",
        tuple((_quantile(q, "llm_request_duration_seconds"), f"p{q * 100:g}") for q in (0.5, 0.95, 0.99)),
    ),
    (
        "Time to first token",
        "s",
        tuple((_quantile(q, "llm_time_to_first_token_seconds"), f"p{q * 100:g}") for q in (0.5, 0.95, 0.99)),
    ),
    (
        "Spent in the gateway itself",
        "s",
        tuple((_quantile(q, "llm_gateway_overhead_seconds"), f"p{q * 100:g}") for q in (0.5, 0.99)),
    ),
    (
        "Tokens by type",
        "short",
        ((f"sum by (type) (rate(llm_token_usage_total{{{_MODEL}}}[$__rate_interval]))", "{{type}} a second"),),
    ),
    (
        "Cost an hour",
        "currencyUSD",
        ((f"sum by (model) (increase(llm_cost_total_dollars{{{_MODEL}}}[1h]))", "{{model}}"),),
    ),
    ("Budgets", "percentunit", (("llm_budget_used_ratio", "{{budget}} ({{counter}})"),)),
    (
        "Attempts that failed",
        "reqps",
        (("sum by (target, kind) (rate(llm_upstream_failures_total[$__rate_interval]))", "{{target}} {{kind}}"),),
    ),
    (
        "Targets left alone, models without any",
        "short",
        (("llm_breaker_open", "{{target}}"), ("1 - llm_model_available", "no target of {{model}}")),
    ),
    (
        "Answer caches",
        "reqps",
        (
            ("sum by (result) (rate(llm_cache_requests_total[$__rate_interval]))", "exact: {{result}}"),
            ("sum by (result) (rate(llm_semantic_cache_requests_total[$__rate_interval]))", "semantic: {{result}}"),
        ),
    ),
    (
        "Semantic hits that were checked and wrong",
        "percentunit",
        (
            (
                (
                    "sum by (route) (increase(llm_semantic_cache_false_hits_total[1d]))"
                    " / sum by (route) (increase(llm_semantic_cache_checked_total[1d]))"
                ),
                "{{route}}",
            ),
        ),
    ),
    (
        "Refused and limited",
        "reqps",
        (
            ("sum by (reason) (rate(llm_refused_total[$__rate_interval]))", "{{reason}}"),
            ("sum by (limit) (rate(llm_rate_limited_total[$__rate_interval]))", "over {{limit}}"),
        ),
    ),
    (
        "Findings of the guards",
        "reqps",
        (("sum by (rule) (rate(llm_guard_findings_total[$__rate_interval]))", "{{rule}}"),),
    ),
    (
        "Under way",
        "short",
        (("llm_requests_in_flight", "requests"), ("sum by (target) (llm_target_in_flight)", "{{target}}")),
    ),
    (
        "Unknown prices, estimates, ledger",
        "short",
        (
            ("sum(increase(llm_unpriced_requests_total[1h]))", "requests without a price in an hour"),
            ("sum(increase(llm_estimated_requests_total[1h]))", "requests with estimated tokens in an hour"),
            ("llm_ledger_lag_bytes", "bytes that wait for the ledger"),
        ),
    ),
)


def dashboard() -> dict[str, Any]:
    """The dashboard, with variables for the data source and the models."""
    return {
        "uid": "llmops-gateway",
        "title": "LLM gateway",
        "tags": ["llm", "llmops"],
        "schemaVersion": 39,
        "version": 1,
        "editable": True,
        "refresh": "30s",
        "time": {"from": "now-6h", "to": "now"},
        "templating": {"list": [_SOURCE_VARIABLE, _MODEL_VARIABLE]},
        "panels": [_panel(number, *row) for number, row in enumerate(PANELS)],
    }


_SOURCE_VARIABLE: Final = {"name": "source", "label": "Data source", "type": "datasource", "query": "prometheus"}
_MODEL_VARIABLE: Final = {
    "name": "model",
    "label": "Model",
    "type": "query",
    "datasource": _SOURCE,
    "query": {"query": "label_values(llm_cost_total_dollars, model)", "refId": "models"},
    "refresh": 2,
    "multi": True,
    "includeAll": True,
    "allValue": ".*",
    "current": {"text": "All", "value": "$__all"},
}


def _panel(number: int, title: str, unit: str, queries: tuple[tuple[str, str], ...]) -> dict[str, Any]:
    return {
        "id": number + 1,
        "type": "timeseries",
        "title": title,
        "datasource": _SOURCE,
        "gridPos": {"h": _HEIGHT, "w": _WIDTH, "x": number % 2 * _WIDTH, "y": number // 2 * _HEIGHT},
        "fieldConfig": {"defaults": {"unit": unit, "min": 0}, "overrides": []},
        "options": {"legend": {"displayMode": "list", "placement": "bottom"}, "tooltip": {"mode": "multi"}},
        "targets": [
            {"refId": chr(ord("A") + index), "datasource": _SOURCE, "expr": expression, "legendFormat": legend}
            for index, (expression, legend) in enumerate(queries)
        ],
    }
