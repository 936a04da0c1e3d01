"""The end of every request: limits corrected, counters moved, one line for the access log. Exactly once."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

from llmops.gateway import spending
from llmops.prices import Usage

if TYPE_CHECKING:
    from llmops.gateway.call import Call

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
    if call.charge is None and usage is not None:
        call.charge = call.site.charge(call)
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
        metrics.of("other").finished(call.status, int(time.time()))
        return
    stats = metrics.of(metrics.label(call.ask.model, route.label, answered=call.status == 200))
    stats.finished(call.status, int(time.time()))
    duration, ttft, upstream, overhead = stats.histograms
    started = call.request.started_ns
    total = (now_ns - started) / _NS
    duration.observe(total)
    if call.first_ns:
        ttft.observe((call.first_ns - started) / _NS)
    if call.upstream_ns:
        upstream.observe(call.upstream_ns / _NS)
        if not call.first_ns:
            overhead.observe(max(0.0, total - (call.upstream_ns + call.waited_ns) / _NS))
        else:
            overhead.observe(max(0.0, (call.first_ns - started - call.upstream_ns - call.waited_ns) / _NS))
    if call.gone:
        metrics.count("llm_client_disconnects_total", "streaming" if call.first_ns else "waiting")
    usage = call.usage or call.estimate
    if usage is not None:
        tokens = stats.tokens
        tokens[0] += usage.input_tokens
        tokens[1] += usage.output_tokens
        tokens[2] += usage.cache_read_tokens
        tokens[3] += usage.cache_write_tokens
        tokens[4] += usage.reasoning_tokens
        if usage.estimated:
            stats.estimated += 1
        if call.charge is None or call.charge.amount_usd is None:
            stats.unpriced += 1
        else:
            stats.cost += call.charge.amount_usd


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
