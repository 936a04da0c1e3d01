"""Parts that a site is made of where its config asks for them: guards, semantic caches, what replicas share, gauges."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

from llmops.errors import UsageError
from llmops.gateway.cache.exact import ExactCache, MemoryStore
from llmops.gateway.config import Gateway, Limits
from llmops.gateway.guard import Guard
from llmops.gateway.keys import read_secret
from llmops.gateway.limits import Limiter, LimiterMaker
from llmops.gateway.resilience import KINDS

if TYPE_CHECKING:
    from llmops.gateway.access.vault import Vault
    from llmops.gateway.cache_semantic import Embedder, SemanticCache
    from llmops.gateway.config import Route as RouteForm
    from llmops.gateway.guard import GuardConfig
    from llmops.gateway.metrics import Metrics
    from llmops.gateway.money import Account
    from llmops.gateway.money.replicas import ReplicaAccount
    from llmops.gateway.routing import Watch
    from llmops.gateway.state.hub import Hub
    from llmops.gateway.targets import Target

_MOST_BUDGETS = 100


class Watches:
    """The guard and the semantic cache of each route; one for each distinct form, kept while the routes are made anew."""

    def __init__(self, config: Gateway, metrics: Metrics) -> None:
        self._site_wide = config.guard
        self._metrics = metrics
        self._guards: dict[GuardConfig, Guard] = {}
        self._semantic: dict[str, SemanticCache] = {}

    def of(self, form: RouteForm) -> Watch:
        """Those of a route."""
        guard = form.guard or self._site_wide
        if guard is not None and guard not in self._guards:
            self._guards[guard] = Guard(guard)
        return (self._guards[guard] if guard is not None else None), self._semantic_of(form)

    def close(self) -> None:
        """End the threads of the semantic caches."""
        for each in self._semantic.values():
            each.close()

    def _semantic_of(self, form: RouteForm) -> SemanticCache | None:
        config = form.semantic_cache
        if config is None or config.mode == "off":
            return None
        found = self._semantic.get(form.match)
        if found is None:
            from llmops.gateway.cache_semantic import SemanticCache

            if config.model is None:
                raise UsageError(
                    f"route {form.match!r}: semantic_cache needs a model", "model: a directory with an exported MiniLM"
                )
            found = self._semantic[form.match] = SemanticCache(config, embedder(config.model))
            for name in ("checked", "false_hits"):  # there from the start, so that the first one is an increase
                self._metrics.counters.setdefault((f"llm_semantic_cache_{name}_total", form.match), 0)
        return found


@cache
def embedder(directory: Path) -> Embedder:
    """One model for all routes and reloads."""
    from llmops.gateway.cache_semantic import OnnxMiniLm

    return OnnxMiniLm(directory)


def exact_cache(config: Gateway) -> ExactCache | None:
    """The answer cache, where there is one: in this process, or in Redis."""
    form = config.cache
    if not form.enabled:
        return None
    replicas = config.replicas
    url = form.redis or (redis_url(config) if replicas is not None and "cache" in replicas.share else None)
    if url is not None:
        from llmops.gateway.cache.redis_store import RedisStore

        return ExactCache(RedisStore(url))
    return ExactCache(MemoryStore(int(form.max_mib * 1024 * 1024)))


def vault_of(config: Gateway) -> Vault | None:
    """The vault of provider keys, opened only where a provider's key is in it."""
    if not any(provider.key_vault for provider in config.providers.values()):
        return None
    access = config.access
    if access is None or access.vault is None or access.master is None:
        raise UsageError("key_vault needs access.vault and access.master", "see docs/gateway.md")
    from llmops.gateway.access.master import read_master
    from llmops.gateway.access.vault import Vault

    return Vault(access.vault, read_master(access.master))


# ---- replicas ----


def redis_url(config: Gateway) -> str | None:
    """Where the replicas meet.

    Raises:
        AccessError: The variable that the config names is not set.
    """
    form = config.replicas
    if form is None:
        return None
    return form.redis or read_secret(form.redis_env, None, "replicas")


def hub_of(config: Gateway, targets: Callable[[], Iterable[Target]], before: Hub | None) -> Hub | None:
    """The connection for limits and breakers; the one there was ``before`` a reload, where there is one.

    Raises:
        MachineError: The package redis is not installed.
    """
    form, url = config.replicas, redis_url(config)
    if form is None or url is None or not {"limits", "breakers"} & set(form.share):
        return None
    from llmops.gateway.state.hub import Hub

    hub = before or Hub(url)
    if "breakers" in form.share:
        hub.share_breakers(lambda: _open(targets()), lambda name, seconds: _hint(targets(), name, seconds))
    return hub


def shared_limits(config: Gateway, hub: Hub | None, own: LimiterMaker) -> LimiterMaker:
    """Limiters that hold over replicas too, where those are shared."""
    replicas = config.replicas
    if hub is None or replicas is None or "limits" not in replicas.share:
        return own
    from llmops.gateway.state.hub import RemoteLimit

    def make(form: Limits, name: str) -> Limiter:
        sizes = (form.requests_per_minute or 0, form.tokens_per_minute or 0, form.concurrent or 0)
        part = [max(1, size // replicas.count) if size else None for size in sizes]
        share = Limits(requests_per_minute=part[0], tokens_per_minute=part[1], concurrent=part[2])
        made = own(form, name)
        made.remote = RemoteLimit(hub, own(share, f"{name}, one of {replicas.count} replicas"), name, sizes)
        return made

    return make


def replica_account(config: Gateway, account: Account | None) -> ReplicaAccount | None:
    """The books of one replica among others, where budgets are shared."""
    form, url = config.replicas, redis_url(config)
    if account is None or form is None or url is None or "budgets" not in form.share:
        return None
    from llmops.gateway.money.replicas import ReplicaAccount

    return ReplicaAccount(account, url, on_loss=form.on_loss, replicas=form.count, lease_s=form.lease_s)


def _open(targets: Iterable[Target]) -> list[tuple[str, float]]:
    """Targets left alone by this worker's own experience. A caller's own key says nothing about the target."""
    now, found = time.monotonic(), []
    for target in targets:
        if target.troubled and not target.provider.form.forward_key:
            for kind, breaker in target.breakers.items():
                seconds = breaker.own_s(now)
                if seconds > 0:
                    found.append((f"{target.name}|{kind}", seconds))
    return found


def _hint(targets: Iterable[Target], name: str, seconds: float) -> None:
    target_name, _, kind = name.rpartition("|")
    if kind in KINDS:
        for target in targets:
            if target.name == target_name:
                target.hinted(kind, time.monotonic() + seconds)


# ---- gauges ----


def budget_gauges(account: Account | None) -> dict[str, float]:
    """``budget|counter`` -> the part of the limit that is spent; the fullest hundred, so that labels stay bounded."""
    if account is None:
        return {}
    rows = {
        f"{state.budget}|{state.counter}": float(state.spent_usd / state.limit_usd) for state in account.budgets.known()
    }
    fullest = sorted(rows, key=lambda name: -rows[name])[:_MOST_BUDGETS]
    return {name: rows[name] for name in fullest}


def ledger_gauges(account: Account | None) -> tuple[dict[str, float], dict[str, float]]:
    """(bytes that wait for the database, 1 while it takes none)."""
    if account is None:
        return {}, {}
    health = account.ledger.health
    return {"ledger": float(health.lag_bytes)}, {"ledger": float(bool(health.last_error))}
