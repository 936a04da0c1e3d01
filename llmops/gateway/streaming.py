"""Hand a stream through: bytes go from the upstream's read to the caller's write in one step, with back-pressure."""

from __future__ import annotations

import asyncio
import time
from typing import TYPE_CHECKING

from llmops.gateway.alike import keep_alike
from llmops.gateway.cached import keep
from llmops.gateway.forward import Live, release
from llmops.gateway.money.rates import dollars
from llmops.gateway.resilience import Failure
from llmops.prices import Usage

if TYPE_CHECKING:
    from llmops.gateway.call import Call

_HEADERS = b"content-type: text/event-stream; charset=utf-8\r\ncache-control: no-cache\r\nx-accel-buffering: no\r\n"


async def relay(call: Call, live: Live) -> None:
    """Send the stream that has begun until its end, a break (then the dialect's error event), or the caller's leaving."""
    assert call.target is not None
    call.status = 200
    try:
        await _pump(call, live)
        _finish(call, live)
        if call.capture is not None and live.lens.error is None:
            body = b"".join(call.capture)
            keep_alike(call, body)
            await keep(call, body)
    except asyncio.CancelledError:
        live.exchange.abort()
        account(call, live)
        raise
    finally:
        # Without these rings the memory of a stream is free at once, not when the collector comes by.
        call.reply.on_pause = call.reply.on_resume = None
        live.exchange.tap = live.exchange.on_done = None
        release(call.target, call)


class _Tap:
    """Writes what comes to the caller: from here on no task wakes up for a piece of a stream."""

    __slots__ = ("_capture", "_done", "_exchange", "_lens", "_reply")

    def __init__(self, call: Call, live: Live) -> None:
        self._exchange, self._lens = live.exchange, live.lens
        self._reply, self._capture = call.reply, call.capture
        self._done = asyncio.get_running_loop().create_future()

    def data(self, data: bytes) -> None:
        """A piece from the upstream."""
        out = self._lens.feed(data)
        if out:
            self._reply.write(out)
            if self._capture is not None:
                self._capture.append(out)
        if self._lens.error is not None:  # nothing that comes after it is wanted
            self._exchange.abort()
            self.done()

    def done(self) -> None:
        """No more will come."""
        if not self._done.done():
            self._done.set_result(None)

    async def over(self) -> None:
        """Wait for the end, the break or the error."""
        if self._lens.error is not None:
            self._exchange.abort()
        elif not self._exchange.ended and self._exchange.error is None:
            await self._done


async def _pump(call: Call, live: Live) -> None:
    """Begin the answer, and tap the exchange until it is over."""
    exchange, reply = live.exchange, call.reply
    reply.start(200, _HEADERS + call.headers(), live.first)  # before anything else: the caller waits for it
    if call.capture is not None:
        call.capture.append(live.first)
    tap = _Tap(call, live)
    if exchange.chunks:
        tap.data(b"".join(exchange.chunks))
        exchange.chunks.clear()
    reply.on_pause, reply.on_resume = exchange.pause, exchange.resume
    exchange.on_done = tap.done
    exchange.tap = tap.data
    exchange.resume()
    await tap.over()


def _finish(call: Call, live: Live) -> None:
    """The last bytes, and what the stream cost."""
    lens, error = live.lens, live.exchange.error
    tail = lens.close(str(error) if error is not None else None)
    account(call, live)
    if call.site.config.cost_comment and call.bill is not None:
        tail += f": llmops cost_usd={'unknown' if call.bill.pico is None else dollars(call.bill.pico)}\n\n".encode()
    if tail:
        call.reply.write(tail)
        if call.capture is not None:
            call.capture.append(tail)
    call.reply.end()
    if lens.error is not None:
        _broke(call, lens.error)


def account(call: Call, live: Live) -> None:
    """The provider's counts, or an estimate from what passed: one token an event."""
    call.usage = live.lens.usage()
    if call.usage is None or not live.lens.finished:  # counts before the end are counts so far
        seen = call.usage or Usage()
        call.estimate = Usage(
            input_tokens=seen.input_tokens or call.facts.input_tokens,
            output_tokens=max(seen.output_tokens, live.lens.events),
            cache_read_tokens=seen.cache_read_tokens,
            cache_write_tokens=seen.cache_write_tokens,
            cache_write_1h_tokens=seen.cache_write_1h_tokens,
            estimated=True,
        )
        call.usage = None
    call.bill = call.site.bill(call)


def _broke(call: Call, failure: Failure) -> None:
    """A stream that failed after its head was sent: the status line is gone, the counters still tell the truth."""
    assert call.target is not None
    call.status = failure.status
    call.site.metrics.count("llm_upstream_failures_total", f"{call.target.name}|{failure.kind}")
    call.target.failed(failure, time.monotonic())
