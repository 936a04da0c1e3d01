"""The cache on a request's way: look, lead a flight or wait for one, keep what came."""

from __future__ import annotations

from typing import TYPE_CHECKING

from llmops.gateway import spending
from llmops.gateway.cache.exact import Entry, key_of
from llmops.gateway.money.values import Bill

if TYPE_CHECKING:
    from llmops.gateway.call import Call

_STREAM = b"content-type: text/event-stream; charset=utf-8\r\ncache-control: no-cache\r\n"
_MAX_CAPTURE = 8 * 1024 * 1024


async def look(call: Call) -> bool:
    """Answer from the cache where it has the answer; whether it did."""
    cache = call.site.cache
    if cache is None:
        return False
    key = key_of(call.caller.tenant, call.ask, call.route, call.request.header(b"cache-control"))
    if key is None:
        return False
    entry, result = await cache.begin(key)
    call.cache = "hit" if entry is not None else "miss"
    call.site.metrics.count("llm_cache_requests_total", "miss" if result == "alone" else result)
    if entry is None:
        if result == "miss":
            call.flight = key
            call.capture = [] if call.ask.stream else None
        return False
    _replay(call, entry)
    return True


async def keep(call: Call, body: bytes) -> None:
    """Keep a good answer that this request led the flight for."""
    cache, key = call.site.cache, call.flight
    if cache is None or key is None:
        return
    call.flight = None
    form = call.route.cache
    assert form is not None
    await cache.finish(key, entry_of(call, body) if len(body) <= _MAX_CAPTURE else None, form.ttl_s)


def entry_of(call: Call, body: bytes) -> Entry:
    """An answer as it is kept: whom it came from, and what it used."""
    usage = call.usage or call.estimate
    return Entry(
        body,
        call.ask.stream,
        call.target.name if call.target else "",
        usage.input_tokens if usage else 0,
        usage.output_tokens if usage else 0,
        usage,
    )


def give_up(call: Call) -> None:
    """The flight that this request led brought nothing."""
    if call.flight is not None and call.site.cache is not None:
        call.site.cache.land(call.flight, kept=False)
        call.flight = None


def _replay(call: Call, entry: Entry) -> None:
    """Send a kept answer: a stream as a stream. It costs nothing, and uses no tokens."""
    call.status = 200
    call.bill = Bill(0, "cache")
    if entry.stream:
        call.reply.start(200, _STREAM + call.headers(), entry.body)
        call.reply.end()
    else:
        call.reply.whole(200, b"content-type: application/json\r\n" + call.headers(), entry.body)
    spending.cached(call, entry)
