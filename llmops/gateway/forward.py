"""Ask targets in turn until one answers: the loop over attempts, and one attempt."""

from __future__ import annotations

import asyncio
import time
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Final

from llmops.gateway.cheapest import TOO_DEAR, cheapest
from llmops.gateway.codecs import COUNTING, codec_for
from llmops.gateway.dialects.wire import Ask, Codec, Lens, failure_of
from llmops.gateway.exchange import Exchange
from llmops.gateway.guarded import guarded
from llmops.gateway.refusal import Refusal
from llmops.gateway.resilience import Failure, backoff_s, parse_retry_after
from llmops.gateway.routing import order
from llmops.gateway.spending import reserve
from llmops.gateway.trouble import final, none_free, not_answered
from llmops.gateway.upstream import PoolFullError
from llmops.http1 import TransferError
from llmops.prices import Usage

if TYPE_CHECKING:
    from llmops.gateway.call import Call
    from llmops.gateway.targets import Target

_NS: Final = 1_000_000_000

# What a provider's dialect cannot express, or its servers do not do.
_UNSAYABLE: Final = frozenset({"untranslatable", "no_embeddings"})


class Whole:
    """A whole answer, in the caller's dialect."""

    def __init__(self, body: bytes) -> None:
        self.body = body


@dataclass(eq=False)
class Live:
    """A stream that has begun well: what to send first, and what will bring the rest."""

    exchange: Exchange
    lens: Lens
    first: bytes


async def forward(call: Call) -> Whole | Live:
    """Get an answer from the route's targets.

    Raises:
        Refusal: None of them gave one; in it is what the last one said.
    """
    candidates = _candidates(call)
    deadline_ns = call.request.started_ns + int(call.route.retry.deadline_s * _NS)
    failure: Failure | None = None
    while True:
        got = await _round(call, candidates, deadline_ns)
        if isinstance(got, (Whole, Live)):
            return got
        if not isinstance(got, Failure):  # nobody was asked
            if failure is not None:
                raise final(failure, candidates)
            raise got or none_free(call, candidates)
        failure = got
        await _wait_for_another_round(call, failure, candidates, deadline_ns)


def _candidates(call: Call) -> list[Target]:
    """Targets that may answer, first choice first.

    Raises:
        Refusal: 400: there is none.
    """
    if call.route.only and call.request.surface.name != "count_tokens":
        return call.route.only
    candidates = cheapest(call) if call.route.strategy == "cheapest" else order(call.route, call.facts)
    if call.request.surface.name == "count_tokens":
        candidates = [target for target in candidates if target.provider.form.dialect in COUNTING]
    if not candidates:
        raise Refusal(400, f"no target of {call.route.label!r} takes a request like this one", code="no_target")
    return candidates


async def _round(call: Call, candidates: list[Target], deadline_ns: int) -> Whole | Live | Failure | Refusal | None:
    """Ask each target that is free in turn, until one answers.

    Returns:
        The answer; else the last failure; else why no dialect can say it; None when every target is left alone.

    Raises:
        Refusal: It is over: the caller's own mistake, or enough attempts.
    """
    last: Failure | Refusal | None = None
    for target in candidates:
        now = time.monotonic()
        if target.blocked_s(now) > 0:
            continue
        if target.limiter is not None and not await _enter(call, target, now):
            continue
        attempts = call.attempts
        try:
            return await _attempt(call, target, deadline_ns, first_choice=target is candidates[0])
        except Refusal as refusal:
            too_dear = call.route.strategy == "cheapest" and refusal.code in TOO_DEAR
            if refusal.code not in _UNSAYABLE and not too_dear:
                raise
            call.attempts = attempts  # nothing was sent; another target's dialect may say it
            last = last or refusal
        except Failure as failure:
            last = failure
            if not failure.elsewhere or call.attempts >= max(call.route.retry.attempts, len(candidates)):
                raise final(failure, candidates) from None
    return last


async def _wait_for_another_round(call: Call, failure: Failure, candidates: list[Target], deadline_ns: int) -> None:
    """Sleep before every target is asked again, where policy allows that at all."""
    retry = call.route.retry
    wait_s = backoff_s(retry, call.attempts)
    if failure.retry_after_s is not None:
        wait_s = max(wait_s, failure.retry_after_s)
    now = time.monotonic()
    wait_s = max(wait_s, min(target.blocked_s(now) for target in candidates) + 0.001)
    enough_time = now + wait_s < deadline_ns / _NS
    patient = wait_s <= retry.max_ms / 1000
    if not (failure.retryable and enough_time and patient and call.site.retry_budget.take()):
        raise final(failure, candidates)
    before = time.monotonic_ns()
    await asyncio.sleep(wait_s)
    call.waited_ns += time.monotonic_ns() - before


async def _attempt(call: Call, target: Target, deadline_ns: int, *, first_choice: bool) -> Whole | Live:
    """Ask one target once; its breakers, limits and counters learn from what comes.

    Raises:
        Failure: It gave no good answer.
        Refusal: The request cannot be said in its dialect.
    """
    metrics = call.site.metrics
    call.model_sent = target.model or call.ask.model
    try:
        codec = codec_for(call.request.surface, target.provider)
        if call.site.account is not None:
            await reserve(call, target)
    except BaseException:
        _leave(call, target, None)
        raise
    call.attempts += 1
    call.target = target
    call.early = b""
    metrics.count("llm_upstream_attempts_total", target.name)
    if call.attempts > 1:
        metrics.count("llm_retries_total", target.name)
    started = time.monotonic_ns()
    target.asked(started)
    tracer, failed, succeeded = call.site.tracer, "", False
    span = tracer.attempt(call, target) if tracer is not None else None
    try:
        answer = await (_stream if call.ask.stream else _whole)(call, target, codec, deadline_ns)
        succeeded = True
    except Failure as failure:
        failed = failure.kind
        metrics.count("llm_upstream_failures_total", f"{target.name}|{failure.kind}")
        target.failed(failure, time.monotonic())
        raise
    finally:
        took = time.monotonic_ns() - started
        call.upstream_ns += took
        if tracer is not None and span is not None:
            tracer.over(span, None if succeeded else failed or "cancelled")
        if not succeeded or isinstance(answer, Whole):
            release(target, call)
    target.answered(took / _NS)
    if not first_choice:
        metrics.count("llm_fallbacks_total", target.name)
    return answer


def release(target: Target, call: Call) -> None:
    """A target is done with a request."""
    target.in_flight -= 1
    _leave(call, target, call.usage)


async def _enter(call: Call, target: Target, now: float) -> bool:
    """Whether a target's own limits admit a request; ``_leave`` later."""
    limiter, tokens = target.limiter, call.facts.input_tokens
    if limiter is None:
        return True
    call.tries += 1
    if limiter.enter(tokens, now) is not None:
        return False
    if limiter.remote is not None and await limiter.remote.enter(_ticket(call), tokens, now) is not None:
        limiter.leave(tokens, None)
        return False
    return True


def _leave(call: Call, target: Target, usage: Usage | None) -> None:
    limiter = target.limiter
    if limiter is not None:
        used = usage.total_tokens if usage is not None else None
        limiter.leave(call.facts.input_tokens, used)
        if limiter.remote is not None:
            limiter.remote.leave(_ticket(call), call.facts.input_tokens, used)


def _ticket(call: Call) -> str:
    """What a request is called at a target's limit: by its try, so that the end of one cannot end the next."""
    return f"{call.id}.{call.tries}"


async def _stream(call: Call, target: Target, codec: Codec, deadline_ns: int) -> Whole | Live:
    """Ask for a stream, and wait for its first content."""
    ask, pool = call.ask, target.provider.pool
    head, body = _prepare(call, target, codec, ask)
    try:
        exchange = pool.send_now(head, body, deadline_ns) or await pool.send(head, body, deadline_ns)
        # Made while the model thinks, and not when its first token is there and waited for.
        lens, call.early = guarded(call, codec.lens(ask)), call.lines()
        await exchange.answered()
        if exchange.status == 200 and b"event-stream" in (exchange.header(b"content-type") or b""):
            return await _begin_stream(call, exchange, lens)
        answer = await exchange.whole()
    except (TransferError, PoolFullError) as error:
        raise not_answered(target.provider.name, error) from None
    _check(call, target, exchange, answer)
    codec.decode(ask, answer)  # an error object, if it is one, says more than this:
    raise Failure("protocol", 502, f"{target.provider.name} did not answer with the stream that was asked for")


async def _whole(call: Call, target: Target, codec: Codec, deadline_ns: int) -> Whole | Live:
    """Ask for a whole answer, alone or together with others."""
    ask, batcher = call.ask, target.provider.batcher
    if batcher is None:
        body, call.usage = await _ask(call, target, codec, deadline_ns, ask)
    else:
        body, call.usage = await batcher.run(ask, target.name, partial(_ask, call, target, codec, deadline_ns))
    if call.usage is None:
        out = 0 if ask.surface.name == "embeddings" else max(1, len(body) // 4)
        call.estimate = Usage(call.facts.input_tokens, out, estimated=True)
    return Whole(body)


async def _ask(call: Call, target: Target, codec: Codec, deadline_ns: int, ask: Ask) -> tuple[bytes, Usage | None]:
    """Ask a target for a whole answer: it in the caller's dialect, and the provider's counts."""
    pool = target.provider.pool
    head, body = _prepare(call, target, codec, ask)
    try:
        exchange = pool.send_now(head, body, deadline_ns) or await pool.send(head, body, deadline_ns)
        call.early = call.lines()  # while the model thinks
        answer = await exchange.whole()
    except (TransferError, PoolFullError) as error:
        raise not_answered(target.provider.name, error) from None
    _check(call, target, exchange, answer)
    return codec.decode(ask, answer)


def _prepare(call: Call, target: Target, codec: Codec, ask: Ask) -> tuple[bytes, bytes]:
    """Head and body of a request to a target."""
    provider, tracer = target.provider, call.site.tracer
    body, call.dropped = codec.encode(ask, call.model_sent, drop=call.route.drop)
    path = codec.path(call.model_sent, stream=ask.stream)
    head = provider.head(path, provider.passed_on(call.request.marked, codec.native))
    return (head if tracer is None else head + tracer.header(call)), body


def _check(call: Call, target: Target, exchange: Exchange, answer: bytes) -> None:
    """Whether a whole answer is a good one."""
    call.upstream_id = exchange.request_id()
    if exchange.status != 200:
        after = parse_retry_after(exchange.header(b"retry-after"))
        raise failure_of(exchange.status, answer, after, own_key=target.provider.own_key)


async def _begin_stream(call: Call, exchange: Exchange, lens: Lens) -> Live:
    """Hold a stream back until its first content, so that a failure before that can still go to another target."""
    held: list[bytes] = []
    while not lens.committed and lens.error is None and not lens.finished:
        try:
            data = await exchange.read()
        except TransferError as error:
            held.append(lens.close(str(error)))
            break
        held.append(lens.feed(data) if data else lens.close(None))
    failure: Failure | None = lens.error
    if failure is not None and not lens.committed:
        exchange.abort()
        raise failure
    exchange.deadline_ns = 0  # a stream may take as long as it flows
    call.upstream_id = exchange.request_id()
    call.first_ns = time.monotonic_ns()
    return Live(exchange, lens, b"".join(held))
