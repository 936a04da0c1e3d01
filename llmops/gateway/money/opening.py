"""Opening the books: the database, what it says was spent, and the door through which one process enters at a time."""

from __future__ import annotations

import contextlib
import fcntl
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from llmops.gateway.money.alerts import Alerts
from llmops.gateway.money.budgets import Budgets
from llmops.gateway.money.config import MoneyConfig
from llmops.gateway.money.counters import Claim
from llmops.gateway.money.entry import Admission
from llmops.gateway.money.store import SqliteStore, Store

LEDGER_FILE: Final = "ledger.sqlite"


def alerts_of(config: MoneyConfig) -> Alerts:
    """The webhooks of a config."""
    urls = {budget.name: budget.webhook for budget in config.budgets if budget.webhook}
    return Alerts(config.webhook, urls, config.webhook_secret_env)


def open_store(config: MoneyConfig, *, create: bool = True) -> Store:
    """The ledger's database: the embedded one, or PostgreSQL where the config names it.

    Raises:
        MachineError: It cannot be opened.
    """
    if config.postgres is not None:
        from llmops.gateway.money.store_postgres import PostgresStore

        return PostgresStore(config.postgres)
    return SqliteStore(config.directory / LEDGER_FILE, create=create)


def spent_since(store: Store, since: float) -> Iterator[tuple[str, str, str, str, int]]:
    """(tenant, team, key, model, picodollars) of everything admitted since ``since``; in flight counts as reserved."""
    for row in store.sums(since, float(1 << 40), ("tenant", "team", "key", "model")):
        tenant, team, key, model = row.values
        yield tenant, team, key, model, row.amount_pico


def charge_lost(budgets: Budgets, lost: Admission) -> None:
    """A killed worker's reservation becomes spending: the provider will bill something of it."""
    claims = [Claim(slot, period, 0, hard=False, marks=(), rule=0, name="") for slot, period in lost.claims]
    budgets.counters.settle(claims, lost.reserved_nano, lost.reserved_nano)


@contextlib.contextmanager
def door(directory: Path) -> Iterator[tuple[int, bool]]:
    """One process enters at a time. Yields a descriptor that marks this one as alive, and whether it is alone."""
    entering = os.open(directory / "entering.lock", os.O_CREAT | os.O_RDWR | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(entering, fcntl.LOCK_EX)
        alive = os.open(directory / "alive.lock", os.O_CREAT | os.O_RDWR | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(alive, fcntl.LOCK_EX | fcntl.LOCK_NB)
            alone = True
        except BlockingIOError:
            alone = False
        yield alive, alone
        fcntl.flock(alive, fcntl.LOCK_SH)
    finally:
        os.close(entering)
