"""Everything that a config becomes at run time. A reload builds a new one; what is under way keeps the old."""

from __future__ import annotations

import asyncio
import contextlib
import time
from typing import TYPE_CHECKING

from llmops.errors import UsageError
from llmops.gateway.access import Access
from llmops.gateway.access.master import read_master
from llmops.gateway.access.vault import Vault
from llmops.gateway.access_log import AccessLog
from llmops.gateway.batching import Batcher
from llmops.gateway.cache.exact import ExactCache, MemoryStore
from llmops.gateway.config import Gateway, Limits
from llmops.gateway.config import Route as RouteForm
from llmops.gateway.config import Target as TargetForm
from llmops.gateway.discover import keep_discovering
from llmops.gateway.guard import Guard
from llmops.gateway.keys import Keyring
from llmops.gateway.limits import Limiter, LimiterMaker
from llmops.gateway.metrics import Metrics
from llmops.gateway.money import Account
from llmops.gateway.resilience import RetryBudget
from llmops.gateway.routing import Table, build
from llmops.gateway.targets import Provider, Target, watch_health
from llmops.prices import Charge, PriceBook, PriceSheet, price_book

if TYPE_CHECKING:
    from llmops.gateway.call import Call
    from llmops.gateway.state.shared_limits import SharedState


class Site:
    """A config made alive: keys, providers, routes, prices, metrics.

    Raises:
        AccessError: A key that the config names is not there.
        UsageError: The prices file is wrong.
    """

    def __init__(
        self,
        config: Gateway,
        metrics: Metrics | None = None,
        shared: SharedState | None = None,
        account: Account | None = None,
    ) -> None:
        self.config = config
        self.metrics = metrics or Metrics()
        self.shared = shared
        self._limiter: LimiterMaker = shared.limiter if shared is not None else _own_limiter
        self.keyring = Keyring(config, self._limiter)
        vault = vault_of(config)
        self.providers = {name: Provider(name, form, vault) for name, form in config.providers.items()}
        for name, provider in self.providers.items():
            if provider.form.batching is not None:
                provider.batcher = Batcher(name, provider.form.batching, self.metrics)
        self.targets: dict[TargetForm, Target] = {}
        self.discovered: dict[str, list[RouteForm]] = {}
        self.rebuild()
        self.retry_budget = RetryBudget(config.retry.budget)
        self.prices: PriceBook = price_book(config.prices)
        self.access_log = AccessLog(config.access_log) if config.access_log else None
        self.cache = _cache(config)
        self.guard = Guard(config.guard) if config.guard is not None else None
        self.account = account
        if account is None and config.money is not None:
            self.account = Account.open(config.money, self.prices)
        self._tasks: list[asyncio.Task[None]] = []

    def _target(self, form: TargetForm) -> Target:
        """One target for each distinct form, so that two routes share its breakers and limits."""
        target = self.targets.get(form)
        if target is None:
            target = self.targets[form] = Target(
                form, self.providers[form.provider], self.config.breaker, self._limiter
            )
        return target

    def rebuild(self) -> None:
        """Routes from the config, then what providers were found to serve."""
        found = [route for routes in self.discovered.values() for route in routes]
        self.table: Table = build(self.config, self._target, found)
        self.metrics.configured(
            {name for route in (*self.config.routes, *found) for name in (route.match, *route.alias)}
        )

    def charge(self, call: Call) -> Charge | None:
        """What a call costs so far; None when nothing was used."""
        usage = call.usage or call.estimate
        target = call.target
        if usage is None or target is None:
            return None
        sheet = self._sheet(target, call.model_sent)
        if isinstance(sheet, str):
            return Charge(None, reason=sheet, estimated=usage.estimated)
        return sheet.charge(usage)

    def _sheet(self, target: Target, model: str) -> PriceSheet | str:
        """A target's price; kept for a minute where its model is fixed, because some prices depend on the hour."""
        now = time.monotonic()
        if now < target.sheet_until:
            return target.sheet
        provider = target.provider
        sheet: PriceSheet | str
        if provider.local and provider.prices_as is None:
            sheet = self.prices.site_sheet(model, provider.name) or "a local model without a row in the prices file"
        else:
            sheet = self.prices.sheet(model, provider.prices_as)
        if target.model is not None:
            target.sheet, target.sheet_until = sheet, now + 60 - time.time() % 60
        return sheet

    async def start(self) -> None:
        """Begin health checks and logging."""
        loop = asyncio.get_running_loop()
        self._tasks = [loop.create_task(watch_health(each)) for each in self.providers.values() if each.form.health]
        self._tasks += [
            loop.create_task(keep_discovering(self, each)) for each in self.providers.values() if each.form.discover
        ]
        if self.keyring.access is not None:
            self._tasks.append(loop.create_task(_maintain(self.keyring.access)))
        if self.access_log is not None:
            self.access_log.start()

    async def stop(self) -> None:
        """End background work and close idle connections; busy ones finish by themselves."""
        for task in self._tasks:
            task.cancel()
        for task in self._tasks:
            with contextlib.suppress(asyncio.CancelledError):
                await task
        for provider in self.providers.values():
            provider.close()
        if self.cache is not None:
            await self.cache.store.close()
        if self.access_log is not None:
            await self.access_log.stop()

    def gauges(self) -> dict[str, dict[str, float]]:
        """States for ``/metrics``."""
        now = time.monotonic()
        targets = {target.name: target for target in self.targets.values()}
        states = {name: provider.pool_state for name, provider in self.providers.items()}
        entries, size = self.cache.store.size() if self.cache is not None else (0, 0)
        return {
            "llm_cache_entries": {"exact": float(entries)},
            "llm_cache_bytes": {"exact": float(size)},
            "llm_breaker_open": {name: float(target.blocked_s(now) > 0) for name, target in targets.items()},
            "llm_target_in_flight": {name: float(target.in_flight) for name, target in targets.items()},
            "llm_target_healthy": {name: float(target.provider.healthy) for name, target in targets.items()},
            "llm_pool_connections": {name: float(state[0]) for name, state in states.items()},
            "llm_pool_waiting": {name: float(state[1]) for name, state in states.items()},
        }


async def _maintain(access: Access) -> None:
    """See new, rotated and revoked callers of other processes; refresh issuers' keys in time."""
    while True:
        with contextlib.suppress(OSError):
            access.maintain()
        await access.refresh_keys()
        await asyncio.sleep(1.0)


def vault_of(config: Gateway) -> Vault | None:
    """The vault of provider keys, opened only where a provider's key is in it."""
    if not any(provider.key_vault for provider in config.providers.values()):
        return None
    access = config.access
    if access is None or access.vault is None or access.master is None:
        raise UsageError("key_vault needs access.vault and access.master", "see docs/gateway.md")
    return Vault(access.vault, read_master(access.master))


def _own_limiter(form: Limits, _name: str) -> Limiter:
    return Limiter(form)


def _cache(config: Gateway) -> ExactCache | None:
    form = config.cache
    if not form.enabled:
        return None
    if form.redis is not None:
        from llmops.gateway.cache.redis_store import RedisStore

        return ExactCache(RedisStore(form.redis))
    return ExactCache(MemoryStore(int(form.max_mib * 1024 * 1024)))
