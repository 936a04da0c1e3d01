"""Everything that a config becomes at run time. A reload builds a new one; what is under way keeps the old."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from typing import TYPE_CHECKING

from llmops.extras import require_installed
from llmops.gateway.access_log import AccessLog
from llmops.gateway.batching import Batcher
from llmops.gateway.config import Gateway, Limits
from llmops.gateway.config import Route as RouteForm
from llmops.gateway.config import Target as TargetForm
from llmops.gateway.discover import keep_discovering
from llmops.gateway.keys import Keyring
from llmops.gateway.limits import Limiter, LimiterMaker
from llmops.gateway.metrics import Metrics
from llmops.gateway.money import Account
from llmops.gateway.money.rates import Rates, pico
from llmops.gateway.money.values import Bill
from llmops.gateway.resilience import RetryBudget
from llmops.gateway.routing import Table, build
from llmops.gateway.site_parts import (
    Watches,
    budget_gauges,
    exact_cache,
    hub_of,
    ledger_gauges,
    replica_account,
    shared_limits,
    vault_of,
)
from llmops.gateway.targets import Provider, Target, watch_health
from llmops.prices import PriceBook, PriceSheet, price_book

if TYPE_CHECKING:
    from llmops.gateway.access.access import Access
    from llmops.gateway.call import Call
    from llmops.gateway.money.replicas import ReplicaAccount
    from llmops.gateway.state.hub import Hub
    from llmops.gateway.state.shared_limits import SharedState
    from llmops.gateway.tracing import Tracer

_log = logging.getLogger("llmops.gateway")


_UNKNOWN = Bill(None)


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
        before: Site | None = None,
    ) -> None:
        self.config = config
        self.metrics = metrics or Metrics()
        self.shared = shared
        self.targets: dict[TargetForm, Target] = {}
        # A reload keeps the books, and the connections that requests under way will need at their end.
        same = before if before is not None and before.config.replicas == config.replicas else None
        self.hub: Hub | None = hub_of(config, self.targets.values, same.hub if same is not None else None)
        own: LimiterMaker = shared.limiter if shared is not None else _own_limiter
        self._limiter = shared_limits(config, self.hub, own)
        self.keyring = Keyring(config, self._limiter)
        if any(form.http == "http2" for form in config.providers.values()):
            require_installed("h2", "an upstream over HTTP/2")
        vault = vault_of(config)
        self.providers = {name: Provider(name, form, vault) for name, form in config.providers.items()}
        for name, provider in self.providers.items():
            if provider.form.batching is not None:
                provider.batcher = Batcher(name, provider.form.batching, self.metrics)
        self.watches = Watches(config, self.metrics)
        self.discovered: dict[str, list[RouteForm]] = {}
        self.rebuild()
        self.retry_budget = RetryBudget(config.retry.budget)
        self.prices: PriceBook = price_book(config.prices)
        self.access_log = AccessLog(config.access_log, self.metrics) if config.access_log else None
        self.tracer = _tracer(config, self.metrics)
        self.cache = exact_cache(config)
        self.account: Account | None = before.account if before is not None else None
        if self.account is None and config.money is not None:
            self.account = Account.open(config.money, self.prices, single=shared is None)
        kept = same.replica_account if same is not None else None
        self.replica_account: ReplicaAccount | None = kept or replica_account(config, self.account)
        self._inherited = (self.hub if same is not None else None, kept)
        self.successor: Site | None = None
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
        self.table: Table = build(self.config, self._target, found, self.watches.of)
        self.metrics.configured(
            {name for route in (*self.config.routes, *found) for name in (route.match, *route.alias)}
        )

    def bill(self, call: Call) -> Bill | None:
        """What a call costs so far; None when nothing was used."""
        usage = call.usage or call.estimate
        target = call.target
        if usage is None or target is None:
            return None
        if call.reservation is not None and self.account is not None:
            return self.account.price(call.reservation, usage)
        rates = self.rates(target, call.model_sent)
        if rates is None:
            return _UNKNOWN
        if usage.service_tier and rates.sheet.library is not None:  # it was processed otherwise than usual
            amount = rates.sheet.charge(usage).amount_usd
            return _UNKNOWN if amount is None else Bill(pico(amount), rates.source)
        return Bill(rates.charge_pico(usage), rates.source)

    def rates(self, target: Target, model: str) -> Rates | None:
        """A target's price; kept for a minute where its model is fixed, because some prices depend on the hour."""
        if time.monotonic() < target.rates_until:
            return target.rates
        return self._rates(target, model)

    def _rates(self, target: Target, model: str) -> Rates | None:
        sheet = self.sheet(target, model)
        rates = None if isinstance(sheet, str) else Rates.of(sheet)
        if target.model is not None:
            target.rates, target.rates_until = rates, time.monotonic() + 60 - time.time() % 60
        return rates

    def sheet(self, target: Target, model: str) -> PriceSheet | str:
        """A target's price now, or why it is unknown."""
        provider = target.provider
        sheet: PriceSheet | str
        if provider.local and provider.prices_as is None:
            sheet = self.prices.site_sheet(model, provider.name) or "a local model without a row in the prices file"
        else:
            sheet = self.prices.sheet(model, provider.prices_as)
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
        if self.tracer is not None:
            self.tracer.start()
        for each in (self.hub, self.replica_account):
            if each is not None and each not in self._inherited:
                await each.start()

    async def take_budgets(self) -> None:
        """After a reload: the budgets, webhooks and prices of this config, over the books that were open before."""
        account, form = self.account, self.config.money
        if account is None:
            return
        if form is None:
            _log.warning("the config has no `money` any more; the books stay open until the gateway ends")
            return
        try:
            await asyncio.to_thread(account.reconfigure, form, self.prices)
        except Exception:  # noqa: BLE001 - whatever the database does, the gateway goes on with the budgets it has
            _log.exception("the budgets were not reloaded")

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
        handed_on = (self.successor.hub, self.successor.replica_account) if self.successor is not None else ()
        for each in (self.hub, self.replica_account):
            if each is not None and each not in handed_on:
                await each.close()
        self.watches.close()
        if self.access_log is not None:
            await self.access_log.stop()
        if self.tracer is not None:
            await self.tracer.stop()

    def gauges(self) -> dict[str, dict[str, float]]:
        """States for ``/metrics``."""
        now = time.monotonic()
        targets = {target.name: target for target in self.targets.values()}
        states = {name: provider.pool_state for name, provider in self.providers.items()}
        entries, size = self.cache.store.size() if self.cache is not None else (0, 0)
        lag, failing = ledger_gauges(self.account)
        return {
            "llm_cache_entries": {"exact": float(entries)},
            "llm_cache_bytes": {"exact": float(size)},
            "llm_breaker_open": {name: float(target.blocked_s(now) > 0) for name, target in targets.items()},
            "llm_target_in_flight": {name: float(target.in_flight) for name, target in targets.items()},
            "llm_target_healthy": {name: float(target.provider.healthy) for name, target in targets.items()},
            "llm_model_available": {route.label: float(route.available(now)) for route in self.table.routes()},
            "llm_budget_used_ratio": budget_gauges(self.account),
            "llm_ledger_lag_bytes": lag,
            "llm_ledger_failing": failing,
            "llm_redis_connected": {} if self.hub is None else {"replicas": float(self.hub.connected)},
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


def _tracer(config: Gateway, metrics: Metrics) -> Tracer | None:
    if config.tracing is None:
        return None
    from llmops.gateway.tracing import Tracer

    return Tracer(config.tracing, metrics)


def _own_limiter(form: Limits, _name: str) -> Limiter:
    return Limiter(form)
