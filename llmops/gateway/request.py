"""The way of a request: authenticate, admit, guard, cache, route, forward, settle. ``serve`` is the whole of it."""

from __future__ import annotations

import asyncio
import logging
import math
import time
from typing import TYPE_CHECKING

from llmops.gateway.access import Denied, safe_text
from llmops.gateway.alike import keep_alike, look_alike
from llmops.gateway.cached import give_up, keep, look
from llmops.gateway.call import Call, facts_of
from llmops.gateway.codecs import COUNTING
from llmops.gateway.dialects.wire import read_ask
from llmops.gateway.forward import Live, Whole, forward
from llmops.gateway.guard import Blocked
from llmops.gateway.keys import refused
from llmops.gateway.refusal import Refusal
from llmops.gateway.settle import settle
from llmops.gateway.streaming import relay

if TYPE_CHECKING:
    from llmops.gateway.guard import Guard
    from llmops.gateway.keys import Caller
    from llmops.gateway.reply import Reply, Request
    from llmops.gateway.site import Site

_log = logging.getLogger("llmops.gateway")


async def serve(site: Site, request: Request, reply: Reply) -> None:
    """Answer one request, whatever happens: every path ends in one answer and one settlement."""
    call = Call(site, request, reply)
    reply.on_gone = call.client_gone
    site.metrics.in_flight += 1
    try:
        if not authenticate(call):
            await authenticate_slowly(call)
        route(call)
        watch = call.route.guard
        if watch is not None and not watch.lets_in(request.body):
            await guard(call, watch)
        await admit(call)
        found = site.cache is not None and await look(call)
        if not found and (call.route.semantic is None or not await look_alike(call)):
            answer = count_here(call) or await forward(call)
            if isinstance(answer, Live):
                await relay(call, answer)
            else:
                deliver(call, answer)
                keep_alike(call, answer.body)
                if call.flight is not None:
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
        reply.on_gone = None


def authenticate(call: Call) -> bool:
    """Who asks; 401 where nobody known does. False where that cannot be said without asking a token's issuer."""
    authorization, api_key = _credentials(call)
    caller = call.site.keyring.identify(authorization, api_key, call.request.digester)
    if caller is None:
        return False
    _let_in(call, caller)
    return True


async def authenticate_slowly(call: Call) -> None:
    """``authenticate``, with the issuer's keys fetched anew."""
    _let_in(call, await call.site.keyring.identify_slowly(*_credentials(call)))


def _credentials(call: Call) -> tuple[bytes | None, bytes | None]:
    authorization = api_key = None
    for name, value in call.request.marked:
        if name == b"authorization":
            authorization = value if authorization is None else _same(value, authorization)
        elif name == b"x-api-key":
            api_key = value if api_key is None else _same(value, api_key)
    return authorization, api_key


def _let_in(call: Call, caller: Caller) -> None:
    call.caller = caller
    try:
        caller.identity.require(call.request.surface.scope)
    except Denied as denied:
        raise refused(denied) from None


def _same(one: bytes, other: bytes) -> bytes:
    """A header that came twice must say the same: who reads the first and who reads the last must not differ."""
    if one != other:
        raise refused(Denied(401, "invalid_credential", "two different credentials were sent", "a header came twice"))
    return one


async def guard(call: Call, watch: Guard) -> None:
    """Secrets and hidden instructions in what is asked; the prompt is never altered but for a redacted secret."""
    body = call.request.body
    try:
        if watch.slow(body):
            verdict = await asyncio.get_running_loop().run_in_executor(None, watch.request, body)
        else:
            verdict = watch.request(body)
    except Blocked as blocked:
        for rule in blocked.found:
            call.site.metrics.count("llm_guard_findings_total", rule)
        raise Refusal(blocked.status, blocked.message, code=blocked.code) from None
    for rule in verdict.found:
        call.site.metrics.count("llm_guard_findings_total", rule)
    call.guarded = verdict.header
    if verdict.body is not body:
        call.request.body = verdict.body
        call.ask = read_ask(call.request.surface, verdict.body)


def route(call: Call) -> None:
    """What is asked for, and which targets may answer; a model out of a caller's reach looks absent."""
    call.ask = ask = read_ask(call.request.surface, call.request.body)
    found = call.site.table.resolve(ask.model)
    try:
        call.caller.identity.require_model(ask.model)
    except Denied as denied:
        raise refused(denied, f"the model {ask.model!r} does not exist here", "model") from None
    if found is None:
        raise Refusal(404, f"the model {ask.model!r} does not exist here", code="model_not_found", param="model")
    call.route = found
    call.facts = facts_of(ask, found)


async def admit(call: Call) -> None:
    """Rate limits of the caller; what is admitted here is corrected in ``settle``."""
    call.site.retry_budget.request()
    limiter = call.caller.limiter
    if limiter is None:
        return
    tokens, now = call.facts.input_tokens, time.monotonic()
    exceeded = limiter.enter(tokens, now)
    if exceeded is None and limiter.remote is not None:
        exceeded = await limiter.remote.enter(call.id, tokens, now)
        if exceeded is not None:
            limiter.leave(tokens, None)
    if exceeded is None:
        call.admitted_tokens = tokens
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
    if any(target.provider.form.dialect in COUNTING for target in call.route.targets):
        return None
    call.dropped = [*call.dropped, "exact count (input_tokens is an estimate)"]
    return Whole(b'{"input_tokens":%d}' % call.facts.input_tokens)


def deliver(call: Call, answer: Whole) -> None:
    """Send a whole answer with what it cost."""
    watch = call.route.guard
    if watch is not None and not watch.lets_out(answer.body):
        _guard_answer(call, watch, answer)
    call.status = 200
    call.bill = call.site.bill(call)
    call.reply.whole(200, b"content-type: application/json\r\n" + call.headers(), answer.body)


def _guard_answer(call: Call, watch: Guard, answer: Whole) -> None:
    """Secrets in a whole answer. What was used is paid for, whether it may be seen or not."""
    try:
        verdict = watch.response(answer.body)
    except Blocked as blocked:
        for rule in blocked.found:
            call.site.metrics.count("llm_guard_findings_total", rule)
        raise Refusal(blocked.status, blocked.message, code=blocked.code) from None
    for rule in verdict.found:
        call.site.metrics.count("llm_guard_findings_total", rule)
    answer.body = verdict.body
    call.guarded = "; ".join(filter(None, (call.guarded, verdict.header)))
    call.early = b""


def refuse(call: Call, refusal: Refusal) -> None:
    """Send an error in the caller's dialect."""
    call.status = refusal.status
    call.refused = refusal.code or str(refusal.status)
    if refusal.code == "invalid_model":  # nobody's mistake: control characters, or kilobytes
        _log.warning("%s", safe_text(f"denied {refusal.status} invalid_model: {call.caller.name}"))
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
