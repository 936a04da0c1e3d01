"""The end of every request: limits corrected, counters moved, one line for the access log. Exactly once."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

from llmops.gateway import spending
from llmops.prices import Usage

if TYPE_CHECKING:
    from llmops.gateway.call import Call
    from llmops.gateway.metrics import ModelStats
    from llmops.gateway.money.values import Bill

_NS = 1e9


def settle(call: Call) -> None:
    """Account for a request that is over, however it ended."""
    now_ns = time.monotonic_ns()
    if call.gone and call.status == 499:
        _estimate_unseen(call)
    usage = call.usage or call.estimate
    if call.admitted_tokens >= 0 and call.caller.limiter is not None:
        used = usage.total_tokens if usage is not None else None
        call.caller.limiter.leave(call.admitted_tokens, used)
        if call.caller.limiter.remote is not None:
            call.caller.limiter.remote.leave(call.id, call.admitted_tokens, used)
    if call.bill is None and usage is not None:
        call.bill = call.site.bill(call)
    if call.reservation is not None:
        spending.settle(call, now_ns)
    _count(call, now_ns)
    log = call.site.access_log
    if log is not None:
        log.add(call, now_ns)
    if call.site.tracer is not None:
        call.site.tracer.finished(call, now_ns)


def _estimate_unseen(call: Call) -> None:
    """The caller left before anything came of a cloud's stream: its prompt was sent, and will be billed."""
    sent = call.target is not None and not call.target.provider.local and call.attempts
    if sent and call.usage is None and call.estimate is None:
        call.estimate = Usage(call.facts.input_tokens, 0, estimated=True)


def _count(call: Call, now_ns: int) -> None:
    metrics = call.site.metrics
    route = getattr(call, "route", None)
    if route is None:
        metrics.count("llm_refused_total", call.refused if call.refused in _REASONS else "other")
        metrics.of("other").finished(call.status, now_ns)
        return
    model, status = call.ask.model, call.status
    stats = metrics.models.get(model) or metrics.of(metrics.label(model, route.label, answered=status == 200))
    stats.finished(status, now_ns)
    started, first, upstream = call.request.started_ns, call.first_ns, call.upstream_ns
    own = (first or now_ns) - started - upstream - call.waited_ns
    stats.took((now_ns - started) / _NS, upstream / _NS, own / _NS if own > 0 else 0.0)
    if first:
        stats.histograms[1].observe((first - started) / _NS)
    if call.gone:
        metrics.count("llm_client_disconnects_total", "streaming" if first else "waiting")
    usage = call.usage or call.estimate
    if usage is not None:
        _count_usage(stats, usage, call.bill)


def _count_usage(stats: ModelStats, usage: Usage, bill: Bill | None) -> None:
    tokens = stats.tokens
    tokens[0] += usage.input_tokens
    tokens[1] += usage.output_tokens
    if usage.cache_read_tokens or usage.cache_write_tokens or usage.reasoning_tokens:
        tokens[2] += usage.cache_read_tokens
        tokens[3] += usage.cache_write_tokens
        tokens[4] += usage.reasoning_tokens
    if usage.estimated:
        stats.estimated += 1
    if bill is None or bill.pico is None:
        stats.unpriced += 1
    else:
        stats.cost_pico += bill.pico


_REASONS = frozenset(
    {
        "missing_api_key",
        "invalid_api_key",
        "invalid_token",
        "token_expired",
        "invalid_credential",
        "missing_scope",
        "invalid_json",
        "model_not_found",
        "rate_limit_exceeded",
    }
)
