"""OpenTelemetry spans of requests and of their attempts, sent as OTLP over HTTP in JSON: no SDK is needed.

A request is a SERVER span under the caller's ``traceparent``; each attempt at a target is a CLIENT span below it, whose
context goes to the upstream, so that a vLLM's own spans hang below ours. Names follow OpenTelemetry's conventions for
generative AI; no text of a request or an answer is in them. Spans wait in a bounded list and leave once a second; a
collector that does not answer costs spans, which are counted, and never a request.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import random
import re
import time
from typing import TYPE_CHECKING, Any, Final

import msgspec

from llmops.gateway.keys import read_secret
from llmops.gateway.money.rates import dollars
from llmops.gateway.upstream import Pool, PoolFullError, PoolOptions
from llmops.http1 import Origin, Timeouts, TransferError, request_head

if TYPE_CHECKING:
    from llmops.gateway.call import Call
    from llmops.gateway.config import Tracing
    from llmops.gateway.metrics import Metrics
    from llmops.gateway.targets import Target

_log = logging.getLogger("llmops.gateway")
_MOST: Final = 4096
_BATCH: Final = 512
_EVERY_S: Final = 1.0
_TIMEOUT_NS: Final = 5_000_000_000
_SERVER, _CLIENT = 2, 3
_ERROR: Final = 2
_PARENT: Final = re.compile(rb"[0-9a-f]{2}-([0-9a-f]{32})-([0-9a-f]{16})-([0-9a-f]{2})(?:-.*)?\Z")
_OPERATIONS: Final = {"completions": "text_completion", "embeddings": "embeddings"}
_SYSTEMS: Final = {"openai": "openai", "anthropic": "anthropic", "gemini": "gcp.gemini", "triton": "triton"}


class Trace:
    """The spans of one request."""

    __slots__ = ("attempts", "parent", "sampled", "span", "trace")

    def __init__(self, header: bytes | None, share: float) -> None:
        found = _PARENT.match(header) if header else None
        if found is not None and found[1].strip(b"0") and found[2].strip(b"0"):
            self.trace, self.parent = found[1].decode(), found[2].decode()
            self.sampled = bool(int(found[3], 16) & 1)
        else:
            self.trace, self.parent = os.urandom(16).hex(), ""
            self.sampled = random.random() < share
        self.span = os.urandom(8).hex()
        self.attempts: list[dict[str, Any]] = []


class Tracer:
    """Makes spans and sends them."""

    def __init__(self, form: Tracing, metrics: Metrics) -> None:
        self._form = form
        self._metrics = metrics
        self._origin, path = Origin.of(form.endpoint)
        headers = [(b"content-type", b"application/json")]
        secret = read_secret(form.header_env, None, "tracing")
        if secret is not None:
            name, _, value = secret.partition(":")
            headers.append((name.strip().encode(), value.strip().encode()))
        self._head = request_head("POST", "/v1/traces" if path == "/" else path, self._origin, headers)
        self._spans: list[dict[str, Any]] = []
        self._task: asyncio.Task[None] | None = None
        self._pool: Pool | None = None
        self._wall_ns = time.time_ns() - time.monotonic_ns()
        self._silent_until = 0.0

    def attempt(self, call: Call, target: Target) -> dict[str, Any]:
        """The span of one attempt, which begins now."""
        trace = self.of(call)
        operation = _OPERATIONS.get(call.request.surface.name, "chat")
        span = self._span(trace, f"{operation} {call.model_sent}", _CLIENT, time.monotonic_ns(), trace.span)
        span["attributes"] = {
            "gen_ai.operation.name": operation,
            "gen_ai.provider.name": _SYSTEMS[target.provider.form.dialect],
            "gen_ai.request.model": call.model_sent,
            "server.address": target.provider.origin.host,
            "server.port": target.provider.origin.port,
            "llmops.target": target.name,
            "llmops.attempt": call.attempts,
        }
        trace.attempts.append(span)
        return span

    def over(self, span: dict[str, Any], failed: str | None) -> None:
        """The attempt has its answer (of a stream: its first content), or failed in the kind ``failed``."""
        self._end(span, time.monotonic_ns())
        if failed is not None:
            span["attributes"]["error.type"] = failed
            span["status"] = {"code": _ERROR}

    def of(self, call: Call) -> Trace:
        """The trace of a request, made on first use."""
        if call.trace is None:
            call.trace = Trace(call.request.header(b"traceparent"), self._form.share)
        return call.trace

    def header(self, call: Call) -> bytes:
        """The header line that hands the latest attempt's context on."""
        trace = self.of(call)
        span = trace.attempts[-1]["spanId"] if trace.attempts else trace.span
        return f"traceparent: 00-{trace.trace}-{span}-{'01' if trace.sampled else '00'}\r\n".encode()

    def finished(self, call: Call, now_ns: int) -> None:
        """The request is over: its spans may leave."""
        trace = self.of(call)
        if not trace.sampled:
            return
        if len(self._spans) >= _MOST:
            self._metrics.count("llm_spans_dropped_total", "full")
            return
        started = call.request.started_ns
        root = self._span(trace, f"POST /v1{call.request.surface.path}", _SERVER, started, trace.parent)
        root["attributes"] = _facts(call)
        if call.status >= 500:
            root["status"] = {"code": _ERROR}
        self._end(root, now_ns)
        if trace.attempts and call.first_ns:  # a stream's attempt lasts until the stream's end
            self._end(trace.attempts[-1], now_ns)
        self._spans += [root, *trace.attempts]

    def start(self) -> None:
        """Begin to send, inside the running loop."""
        times = Timeouts(first_byte_s=5.0, idle_s=5.0)
        self._pool = Pool(self._origin, PoolOptions(max_connections=2, connect_s=2.0, timeouts=times))
        self._task = asyncio.get_running_loop().create_task(self._run())

    async def stop(self) -> None:
        """Send what is left."""
        if self._task is not None:
            self._task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._task
        await self._flush()
        if self._pool is not None:
            self._pool.close()

    async def _run(self) -> None:
        while True:
            await asyncio.sleep(_EVERY_S)
            await self._flush()

    async def _flush(self) -> None:
        while self._spans and self._pool is not None:
            batch, self._spans = self._spans[:_BATCH], self._spans[_BATCH:]
            body = msgspec.json.encode(_document(self._form.service, batch))
            try:
                exchange = await self._pool.send(self._head, body, time.monotonic_ns() + _TIMEOUT_NS)
                await exchange.whole()
                problem = "" if 200 <= exchange.status < 300 else f"answered {exchange.status}"
            except (TransferError, PoolFullError) as error:
                problem = str(error) or "does not answer"
            if problem:
                self._lost(len(batch), problem)
                return

    def _lost(self, count: int, problem: str) -> None:
        for _ in range(count):
            self._metrics.count("llm_spans_dropped_total", "collector")
        if time.monotonic() > self._silent_until:
            self._silent_until = time.monotonic() + 60
            _log.warning("spans are lost: the collector at %s: %s", self._origin.authority, problem)

    def _span(self, trace: Trace, name: str, kind: int, started_ns: int, parent: str) -> dict[str, Any]:
        own = trace.span if kind == _SERVER else os.urandom(8).hex()
        made: dict[str, Any] = {"traceId": trace.trace, "spanId": own, "name": name, "kind": kind}
        if parent:
            made["parentSpanId"] = parent
        made["startTimeUnixNano"] = str(started_ns + self._wall_ns)
        made["endTimeUnixNano"] = made["startTimeUnixNano"]
        return made

    def _end(self, span: dict[str, Any], now_ns: int) -> None:
        span["endTimeUnixNano"] = str(now_ns + self._wall_ns)


def _facts(call: Call) -> dict[str, Any]:
    """What is known of a request that is over. Names, counts and times; no text."""
    usage, bill = call.usage or call.estimate, call.bill
    facts: dict[str, Any] = {
        "http.request.method": "POST",
        "http.response.status_code": call.status,
        "url.path": f"/v1{call.request.surface.path}",
        "gen_ai.operation.name": _OPERATIONS.get(call.request.surface.name, "chat"),
        "llmops.request_id": call.id,
        "llmops.attempts": call.attempts,
        "llmops.cache": call.cache,
    }
    ask, caller = getattr(call, "ask", None), getattr(call, "caller", None)
    optional = {
        "gen_ai.request.model": ask.model if ask is not None else None,
        "gen_ai.response.model": call.model_sent or None,
        "gen_ai.usage.input_tokens": usage.input_tokens if usage is not None else None,
        "gen_ai.usage.output_tokens": usage.output_tokens if usage is not None else None,
        "llmops.key": caller.name if caller is not None else None,
        "llmops.target": call.target.name if call.target is not None else None,
        "llmops.cost_usd": dollars(bill.pico) if bill is not None and bill.pico is not None else None,
        "llmops.ttft_ms": (call.first_ns - call.request.started_ns) / 1e6 if call.first_ns else None,
        "error.type": call.refused or None,
    }
    return facts | {name: value for name, value in optional.items() if value is not None}


def _document(service: str, spans: list[dict[str, Any]]) -> dict[str, Any]:
    """OTLP's JSON form, in which 64-bit integers are text."""
    rows = [{**span, "attributes": _attributes(span["attributes"])} for span in spans]
    scope = {"scope": {"name": "llmops.gateway"}, "spans": rows}
    resource = {"attributes": _attributes({"service.name": service, "process.pid": os.getpid()})}
    return {"resourceSpans": [{"resource": resource, "scopeSpans": [scope]}]}


def _attributes(values: dict[str, Any]) -> list[dict[str, Any]]:
    return [{"key": name, "value": _value(value)} for name, value in values.items()]


def _value(value: Any) -> dict[str, Any]:
    if isinstance(value, int):
        return {"intValue": str(value)}
    return {"doubleValue": value} if isinstance(value, float) else {"stringValue": value}
