"""Everything known about one request while it is under way."""

from __future__ import annotations

import os
import time
from typing import TYPE_CHECKING

from llmops.gateway.dialects.wire import Ask
from llmops.gateway.reply import Reply, Request
from llmops.gateway.routing import Facts, Route
from llmops.prices import Charge, Usage

if TYPE_CHECKING:
    import asyncio

    from llmops.gateway.keys import Caller
    from llmops.gateway.site import Site
    from llmops.gateway.targets import Target

_PREFIX_BYTES = 1024


class Call:
    """One request's state, filled in as it goes its way."""

    __slots__ = (
        "admitted_tokens", "ask", "attempts", "cache", "caller", "charge", "dropped", "estimate", "facts", "first_ns",
        "gone", "id", "model_sent", "refused", "reply", "request", "route", "site", "status", "target", "task",
        "upstream_id", "upstream_ns", "usage", "waited_ns",
    )  # fmt: skip

    ask: Ask
    caller: Caller
    route: Route
    facts: Facts

    def __init__(self, site: Site, request: Request, reply: Reply) -> None:
        self.site = site
        self.request = request
        self.reply = reply
        self.id = os.urandom(12).hex()
        self.task: asyncio.Task[None] | None = None
        self.target: Target | None = None
        self.model_sent = ""
        self.attempts = 0
        self.status = 0
        self.cache = "off"
        self.usage: Usage | None = None
        self.estimate: Usage | None = None
        self.charge: Charge | None = None
        self.dropped: list[str] = []
        self.admitted_tokens = -1
        self.gone = False
        self.refused = ""
        self.first_ns = 0
        self.upstream_ns = 0
        self.waited_ns = 0
        self.upstream_id = b""

    @property
    def dialect(self) -> str:
        """What the caller speaks."""
        return self.request.surface.dialect

    def client_gone(self) -> None:
        """The caller went away: stop, unless the provider will bill the whole answer anyway."""
        self.gone = True
        billed_anyway = self.target is not None and not self.target.provider.local and not self.ask.stream
        if self.task is not None and not billed_anyway:
            self.task.cancel()

    def headers(self) -> bytes:
        """The ``x-llmops-*`` lines."""
        target = self.target
        lines = (
            f"x-llmops-request-id: {self.id}\r\n"
            f"x-llmops-route: {self.route.label}\r\n"
            f"x-llmops-target: {target.name if target else '-'}\r\n"
            f"x-llmops-attempts: {self.attempts}\r\n"
            f"x-llmops-cache: {self.cache}\r\n"
        )
        if self.charge is not None:
            cost = "unknown" if self.charge.amount_usd is None else f"{self.charge.amount_usd:f}"
            lines += f"x-llmops-cost-usd: {cost}\r\n"
            if self.charge.source:
                lines += f"x-llmops-price-source: {self.charge.source}\r\n"
        if self.dropped:
            lines += f"x-llmops-dropped: {', '.join(self.dropped)}\r\n"
        raw = lines.encode("latin-1", "replace")
        if self.upstream_id:
            raw += b"x-request-id: %b\r\nrequest-id: %b\r\n" % (self.upstream_id, self.upstream_id)
        limiter = self.caller.limiter
        if limiter is not None:
            raw += limiter.headers(self.dialect, time.monotonic())
        return raw


def facts_of(ask: Ask) -> Facts:
    """What routing looks at. The token count is an estimate from the size: four bytes a token."""
    fields = ask.fields
    messages = fields.get("messages") or fields.get("input") or fields.get("prompt")
    raw = memoryview(messages) if messages is not None else memoryview(b"")
    prefix = bytes(raw[:_PREFIX_BYTES])
    images = False
    if len(raw) > 64:
        body = bytes(raw)
        images = b'"image' in body
    return Facts(max(1, ask.size // 4), images, "tools" in fields, ask.stream, prefix)
