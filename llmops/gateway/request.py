"""The way of a request: authenticate, admit, guard, cache, route, forward, settle. ``serve`` is the whole of it."""

from __future__ import annotations

import asyncio
import logging
import math
import time
from typing import TYPE_CHECKING

from llmops.gateway.cached import give_up, keep, look
from llmops.gateway.call import Call, facts_of
from llmops.gateway.dialects.wire import read_ask
from llmops.gateway.forward import Live, Whole, forward
from llmops.gateway.guard import Blocked
from llmops.gateway.refusal import Refusal
from llmops.gateway.settle import settle
from llmops.gateway.streaming import relay

if TYPE_CHECKING:
    from llmops.gateway.reply import Reply, Request
    from llmops.gateway.site import Site

_log = logging.getLogger("llmops.gateway")


async def serve(site: Site, request: Request, reply: Reply) -> None:
    """Answer one request, whatever happens: every path ends in one answer and one settlement."""
    call = Call(site, request, reply)
    reply.on_gone = call.client_gone
    site.metrics.in_flight += 1
    try:
        await authenticate(call)
        guard(call)
        route(call)
        admit(call)
        if not await look(call):
            answer = count_here(call) or await forward(call)
            if isinstance(answer, Live):
                await relay(call, answer)
            else:
                deliver(call, answer)
                await keep(call, answer.body)
    except Refusal as refusal:
        refuse(call, refusal)
    except asyncio.CancelledError:
        call.status = 499
    except Exception:  # noqa: BLE001 - a bug must be an answer to this caller and a line in the log, not a dead worker
        _log.exception("request %s failed inside the gateway", call.id)
        refuse(call, Refusal(500, "the gateway failed; its log says why", code="gateway_error"))
    finally:
        site.metrics.in_flight -= 1
        if call.flight is not None:
            give_up(call)
        settle(call)
        reply.settled()


async def authenticate(call: Call) -> None:
    """Who asks; 401 where nobody known does."""
    authorization = api_key = None
    for name, value in call.request.headers:
        if name == b"authorization":
            authorization = value
        elif name == b"x-api-key":
            api_key = value
    keyring = call.site.keyring
    call.caller = keyring.identify(authorization, api_key) or await keyring.identify_slowly(authorization, api_key)
    scope = "embeddings" if call.request.surface.name == "embeddings" else "chat"
    if scope not in call.caller.identity.scopes.words:
        raise Refusal(403, f"this credential lacks the scope {scope!r}", code="missing_scope")


def guard(call: Call) -> None:
    """Secrets and hidden instructions in what is asked; the prompt is never altered but for a redacted secret."""
    watch = call.site.guard
    if watch is None:
        return
    try:
        verdict = watch.request(call.request.body)
    except Blocked as blocked:
        for rule in blocked.found:
            call.site.metrics.count("llm_guard_findings_total", rule)
        raise Refusal(blocked.status, blocked.message, code=blocked.code) from None
    for rule in verdict.found:
        call.site.metrics.count("llm_guard_findings_total", rule)
    call.request.body, call.guarded = verdict.body, verdict.header


def route(call: Call) -> None:
    """What is asked for, and which targets may answer; a model out of a caller's reach looks absent."""
    call.ask = ask = read_ask(call.request.surface, call.request.body)
    found = call.site.table.resolve(ask.model)
    if found is None or not call.caller.may_use(ask.model):
        raise Refusal(404, f"the model {ask.model!r} does not exist here", code="model_not_found", param="model")
    call.route = found
    call.facts = facts_of(ask, found)


def admit(call: Call) -> None:
    """Rate limits of the caller; what is admitted here is corrected in ``settle``."""
    call.site.retry_budget.request()
    limiter = call.caller.limiter
    if limiter is None:
        return
    exceeded = limiter.enter(call.facts.input_tokens, time.monotonic())
    if exceeded is None:
        call.admitted_tokens = call.facts.input_tokens
        return
    call.site.metrics.count("llm_rate_limited_total", exceeded.limit)
    raise Refusal(
        429,
        f"over the limit of {exceeded.size} {exceeded.limit}; try again in {math.ceil(exceeded.wait_s)} s",
        code="rate_limit_exceeded",
        retry_after_s=exceeded.wait_s,
    )


def count_here(call: Call) -> Whole | None:
    """Token counting for a model whose server cannot count: an estimate, and the header says that it is one."""
    if call.request.surface.name != "count_tokens":
        return None
    if call.route.targets[0].provider.form.dialect == "anthropic":
        return None
    call.dropped = [*call.dropped, "exact count (input_tokens is an estimate)"]
    return Whole(b'{"input_tokens":%d}' % call.facts.input_tokens)


def deliver(call: Call, answer: Whole) -> None:
    """Send a whole answer with what it cost."""
    if call.site.guard is not None:
        try:
            answer.body = call.site.guard.response(answer.body).body
        except Blocked as blocked:
            raise Refusal(blocked.status, blocked.message, code=blocked.code) from None
    call.status = 200
    call.charge = call.site.charge(call)
    call.reply.whole(200, b"content-type: application/json\r\n" + call.headers(), answer.body)


def refuse(call: Call, refusal: Refusal) -> None:
    """Send an error in the caller's dialect."""
    call.status = refusal.status
    call.refused = refusal.code or str(refusal.status)
    lines = f"content-type: application/json\r\nx-llmops-request-id: {call.id}\r\n"
    if call.target is not None:
        lines += f"x-llmops-target: {call.target.name}\r\n"
    lines += f"x-llmops-attempts: {call.attempts}\r\n"
    if refusal.retry_after_s is not None:
        lines += f"retry-after: {max(1, math.ceil(refusal.retry_after_s))}\r\n"
    if refusal.status == 401:
        lines += "www-authenticate: Bearer\r\n"
    for name, value in refusal.headers.items():
        lines += f"{name}: {value}\r\n"
    if call.admitted_tokens >= 0 or refusal.status == 429:
        limiter = getattr(getattr(call, "caller", None), "limiter", None)
        if limiter is not None:
            lines += limiter.headers(call.dialect, time.monotonic())
    call.reply.whole(refusal.status, lines.encode("latin-1", "replace"), refusal.body(call.dialect, call.id))
