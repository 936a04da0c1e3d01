"""Everything known about one request while it is under way."""

from __future__ import annotations

import itertools
import os
import time
from typing import TYPE_CHECKING

from llmops.gateway.dialects.wire import Ask
from llmops.gateway.money.rates import dollars
from llmops.gateway.money.values import Bill
from llmops.gateway.reply import Reply, Request
from llmops.gateway.routing import Facts, Route
from llmops.prices import Usage

if TYPE_CHECKING:
    from llmops.gateway.cache_semantic import Ask as Alike
    from llmops.gateway.cache_semantic import Hit
    from llmops.gateway.keys import Caller
    from llmops.gateway.money import Reservation
    from llmops.gateway.site import Site
    from llmops.gateway.targets import Target
    from llmops.gateway.tracing import Trace

_PREFIX_BYTES = 1024
# Request ids: random for the process, counted within it.
_BOOT = os.urandom(8).hex()
_numbers = itertools.count(0x1000_0000)  # of one width in hexadecimal, for a long while


class Call:
    """One request's state, filled in as it goes its way. Defaults stand in the class: most requests change few of them."""

    ask: Ask
    caller: Caller
    route: Route
    facts: Facts
    target: Target | None = None
    model_sent = ""
    attempts = 0
    tries = 0
    status = 0
    cache = "off"
    score = ""
    alike: tuple[Alike, Hit | None] | None = None
    usage: Usage | None = None
    estimate: Usage | None = None
    bill: Bill | None = None
    cost = ""
    dropped: list[str] | tuple[()] = ()
    admitted_tokens = -1
    gone = False
    refused = ""
    first_ns = 0
    upstream_ns = 0
    waited_ns = 0
    upstream_id = b""
    early = b""  # what ``lines`` said while the answer was waited for
    flight: bytes | None = None
    guarded = ""
    reservation: Reservation | None = None
    capture: list[bytes] | None = None
    trace: Trace | None = None

    def __init__(self, site: Site, request: Request, reply: Reply) -> None:
        self.site = site
        self.request = request
        self.reply = reply
        self.id = _BOOT + hex(next(_numbers))[2:]  # noqa: FURB116 - compiled, an f-string's format takes four times as long

    @property
    def dialect(self) -> str:
        """What the caller speaks."""
        return self.request.surface.dialect

    def client_gone(self) -> None:
        """The caller went away: stop, unless the provider will bill the whole answer anyway."""
        self.gone = True
        billed_anyway = self.target is not None and not self.target.provider.local and not self.ask.stream
        if self.reply.task is not None and not billed_anyway:
            self.reply.task.cancel()

    def headers(self) -> bytes:
        """The ``x-llmops-*`` lines, and the provider's id of the request."""
        raw = self.early or self.lines()
        bill = self.bill
        if bill is not None:
            self.cost = cost = "unknown" if bill.pico is None else dollars(bill.pico)
            known = f"x-llmops-price-source: {bill.source}\r\n" if bill.pico is not None and bill.source else ""
            raw += f"{known}x-llmops-cost-usd: {cost}\r\n".encode("latin-1", "replace")
        if self.upstream_id:
            raw += b"x-request-id: %b\r\nrequest-id: %b\r\n" % (self.upstream_id, self.upstream_id)
        return raw

    def lines(self) -> bytes:
        """What is known of ``headers`` before there is an answer."""
        target = self.target
        key = (self.route.label, target.name if target else "-", self.attempts, self.cache)
        text = f"x-llmops-request-id: {self.id}\r\n{_lines.get(key) or _remember(key)}"
        if self.score:
            text += f"x-llmops-cache-score: {self.score}\r\n"
        if self.guarded:
            text += f"x-llmops-guard: {self.guarded}\r\n"
        if self.dropped:
            text += f"x-llmops-dropped: {', '.join(self.dropped)}\r\n"
        limiter = self.caller.limiter
        if limiter is not None:
            text += limiter.headers(self.request.surface.dialect, time.monotonic())
        return text.encode("latin-1", "replace")


_lines: dict[tuple[object, ...], str] = {}


def _remember(key: tuple[object, ...]) -> str:
    """The header lines that many answers have in common."""
    route, target, attempts, cache = key
    made = (
        f"x-llmops-route: {route}\r\nx-llmops-target: {target}\r\nx-llmops-attempts: {attempts}\r\n"
        f"x-llmops-cache: {cache}\r\n"
    )
    if len(_lines) >= 1024:
        _lines.clear()
    _lines[key] = made
    return made


def facts_of(ask: Ask, route: Route) -> Facts:
    """What routing looks at. The token count is an estimate from the size: four bytes a token."""
    tokens = ask.size // 4 or 1
    if route.only:
        return Facts(tokens, False, False, ask.stream)
    fields = ask.fields
    messages = fields.get("messages") or fields.get("input") or fields.get("prompt")
    raw = bytes(messages) if messages is not None else b""
    return Facts(tokens, b'"image' in raw, "tools" in fields, ask.stream, raw[:_PREFIX_BYTES])
