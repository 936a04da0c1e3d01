"""What runs behind a config: providers with their connections and headers, targets with their state."""

from __future__ import annotations

import asyncio
import math
import time
from typing import TYPE_CHECKING, Final
from urllib.parse import urlsplit

from llmops.gateway.config import Breaker as BreakerForm
from llmops.gateway.config import Provider as ProviderForm
from llmops.gateway.config import Target as TargetForm
from llmops.gateway.config import is_loopback
from llmops.gateway.exchange import Exchange
from llmops.gateway.keys import read_secret
from llmops.gateway.limits import LimiterMaker
from llmops.gateway.reply import MARKED, RawHeaders
from llmops.gateway.resilience import KINDS, Breaker, Failure, FailureKind
from llmops.gateway.upstream import Pool, PoolOptions
from llmops.http1 import Limits, Origin, Timeouts, request_head

if TYPE_CHECKING:
    from llmops.gateway.access.vault import Vault
    from llmops.gateway.batching import Batcher
    from llmops.gateway.dialects.wire import Codec
    from llmops.gateway.money import Purchase
    from llmops.gateway.money.rates import Rates

_CREDENTIALS: Final = frozenset({b"authorization", b"x-api-key"})
_FORWARDED: Final = MARKED - _CREDENTIALS
_PRICES_AS: Final = {"anthropic": "anthropic", "gemini": "google"}
_PROVIDER_BY_HOST: Final = {"api.openai.com": "openai"}
_ALPHA: Final = 0.2
_MAX_HEADS: Final = 512
Rows = tuple[tuple[bytes, bytes], ...]


class Provider:
    """One server: its pool, its key, and request heads made once for each path."""

    def __init__(self, name: str, form: ProviderForm, vault: Vault | None = None) -> None:
        self.name = name
        self.form = form
        self.origin, path = Origin.of(form.base_url)
        self.prefix = urlsplit(path).path.rstrip("/")
        self.healthy = True
        self.own_key = not form.forward_key
        self._pool: Pool | None = None
        self.batcher: Batcher | None = None
        self.codecs: dict[str, Codec] = {}
        self._heads: dict[tuple[str, Rows], bytes] = {}
        if form.key_vault is not None and vault is not None:
            key: str | None = vault.reveal(form.key_vault)
        else:
            key = read_secret(form.key_env, form.key_file, f"provider {name!r}")
        self._auth = _auth_headers(form, key)
        self.local = is_loopback(self.origin.host) if form.local is None else form.local
        self.prices_as = prices_as_of(form)

    @property
    def pool(self) -> Pool:
        """The connections, made on first use inside the running loop."""
        if self._pool is None:
            times = self.form.timeouts
            options = PoolOptions(
                max_connections=self.form.max_connections,
                connect_s=times.connect_s,
                timeouts=Timeouts(first_byte_s=times.first_byte_s, idle_s=times.idle_s),
                limits=Limits(max_body_bytes=256 * 1024 * 1024),
            )
            from llmops.gateway.pools import make_pool

            self._pool = make_pool(self.origin, options, self.form)
        return self._pool

    @property
    def pool_state(self) -> tuple[int, int]:
        """(open connections, waiting requests)."""
        return (self._pool.open, self._pool.waiting) if self._pool is not None else (0, 0)

    def path(self, surface_path: str) -> str:
        """The path of an API call; ``/v1`` is added where the base URL has no path of its own."""
        if self.form.dialect in ("openai", "anthropic") and not self.prefix:
            return f"/v1{surface_path}"
        if self.form.dialect == "anthropic" and not self.prefix.endswith("/v1"):
            return f"{self.prefix}/v1{surface_path}"
        return f"{self.prefix}{surface_path}"

    def head(self, surface_path: str, passed: Rows) -> bytes:
        """The head of a call's request; ``passed`` are the caller's headers to hand on."""
        head = self._heads.get((surface_path, passed))
        if head is None:
            head = request_head("POST", self.path(surface_path), self.origin, self._headers(passed))
            if len(self._heads) < _MAX_HEADS:
                self._heads[surface_path, passed] = head
        return head

    async def get(self, path: str, deadline_ns: int) -> Exchange:
        """Start to read a path, as ``path`` makes it.

        Raises:
            TransferError, PoolFullError: As ``Pool.send``.
        """
        return await self.pool.send(request_head("GET", path, self.origin, self._headers(())), b"", deadline_ns)

    def _headers(self, passed: Rows) -> list[tuple[bytes, bytes]]:
        names = {name for name, _ in passed}
        own = [(name, value) for name, value in self._auth if name not in names]
        return [(b"content-type", b"application/json"), (b"user-agent", b"llmops-gateway"), *own, *passed]

    def passed_on(self, headers: RawHeaders, same_dialect: bool) -> Rows:
        """Those of the caller's marked headers that go to this provider: protocol versions, and the key by config."""
        if not self.form.forward_key:
            if not same_dialect:
                return ()
            for name, _ in headers:
                if name in _FORWARDED:
                    return tuple(row for row in headers if row[0] in _FORWARDED)
            return ()
        wanted = MARKED if same_dialect else {b"authorization"}
        return tuple(row for row in headers if row[0] in wanted)

    def close(self) -> None:
        """Let busy connections finish, close the others."""
        if self._pool is not None:
            self._pool.close()

    def kill(self) -> None:
        """Drop every connection."""
        if self._pool is not None:
            self._pool.kill()


class Target:
    """A model at a provider, with what has been seen of it."""

    __slots__ = (
        "breakers", "conditional", "form", "in_flight", "latency_s", "limiter", "model", "name", "provider", "purchase", "rates",
        "rates_until", "successes", "troubled",
    )  # fmt: skip

    def __init__(self, form: TargetForm, provider: Provider, breaker: BreakerForm, limiter: LimiterMaker) -> None:
        self.form = form
        self.provider = provider
        self.model = form.model
        self.name = f"{provider.name}/{form.model}" if form.model else provider.name
        self.conditional = form.when != type(form.when)()
        self.breakers: dict[FailureKind, Breaker] = {kind: Breaker(breaker) for kind in KINDS}
        self.limiter = limiter(form.limits, f"target {self.name}") if form.limits.any else None
        self.in_flight = 0
        self.successes = 0
        self.troubled = False  # whether any breaker is open: while none is, none is asked
        self.latency_s = 0.0
        self.rates: Rates | None = None  # the price of ``model``, kept until the next minute begins
        self.rates_until = 0.0
        self.purchase: Purchase | None = None  # what was bought last: mostly the same again

    def blocked_s(self, now: float) -> float:
        """Seconds for which it is to be left alone; 0 when it may be asked; infinite while its health check fails."""
        if not self.provider.healthy:
            return math.inf
        if not self.troubled:
            return 0.0
        return max(breaker.blocks(now) for breaker in self.breakers.values())

    def asked(self, now_ns: int) -> None:
        """A request goes to it."""
        self.in_flight += 1
        if self.troubled:
            for breaker in self.breakers.values():
                breaker.asked(now_ns / 1e9)

    def answered(self, took_s: float) -> None:
        """It answered well after so many seconds (a stream: its first content)."""
        self.latency_s = took_s if not self.latency_s else self.latency_s + _ALPHA * (took_s - self.latency_s)
        self.successes += 1
        if self.troubled:
            self.answered_otherwise()

    def failed(self, failure: Failure, now: float) -> None:
        """It failed. What depends on the caller (a 4xx, a limit of the caller's own key) cools nothing."""
        if failure.kind == "caller" or (failure.kind == "rate_limit" and self.provider.form.forward_key):
            self.answered_otherwise()
            return
        breaker = self.breakers[failure.kind]
        breaker.failed(now, self.successes, failure.retry_after_s)
        self.troubled = any(each.open_until for each in self.breakers.values())

    def hinted(self, kind: FailureKind, until: float) -> None:
        """Another replica leaves it alone for failures of this kind."""
        self.breakers[kind].hint(until)
        self.troubled = True

    def answered_otherwise(self) -> None:
        """It answered, if not well: it is there, so what is open for not being there closes."""
        if self.troubled:
            for breaker in self.breakers.values():
                if breaker.open_until:
                    breaker.succeeded()
            self.troubled = False


async def watch_health(provider: Provider) -> None:
    """Ask a provider's health path for ever; its targets are left alone while it fails."""
    form = provider.form.health
    assert form is not None
    fails = 0
    while True:
        fails = 0 if await _is_well(provider, form.path, form.timeout_s) else fails + 1
        provider.healthy = fails < form.fails
        await asyncio.sleep(form.every_s)


async def _is_well(provider: Provider, path: str, timeout_s: float) -> bool:
    from llmops.gateway.upstream import PoolFullError
    from llmops.http1 import TransferError

    try:
        async with asyncio.timeout(timeout_s):
            deadline = time.monotonic_ns() + int(timeout_s * 1e9)
            exchange = await provider.get(path, deadline)
            await exchange.whole()
    except (TransferError, PoolFullError, TimeoutError):
        return False
    return 200 <= exchange.status < 400


def prices_as_of(form: ProviderForm) -> str | None:
    """The price library's name of a provider: from the config, its dialect, or its address."""
    host = Origin.of(form.base_url)[0].host
    return form.prices_as or _PRICES_AS.get(form.dialect) or _PROVIDER_BY_HOST.get(host)


def _auth_headers(form: ProviderForm, key: str | None) -> list[tuple[bytes, bytes]]:
    headers: list[tuple[bytes, bytes]] = []
    if key is not None:
        if form.dialect == "anthropic":
            headers.append((b"x-api-key", key.encode()))
        elif form.dialect == "gemini":
            headers.append((b"x-goog-api-key", key.encode()))
        else:
            headers.append((b"authorization", b"Bearer " + key.encode()))
    if form.dialect == "anthropic":
        headers.append((b"anthropic-version", b"2023-06-01"))
    return headers + [(name.lower().encode(), value.encode()) for name, value in form.headers.items()]
