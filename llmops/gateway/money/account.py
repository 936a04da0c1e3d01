"""The books of one worker: reserve before a request is sent, settle exactly once after it."""

from __future__ import annotations

import logging
import os
import time
from collections.abc import Callable, Iterable
from typing import Final

import msgspec

from llmops.gateway.money.alerts import Alerts
from llmops.gateway.money.budgets import BudgetExceeded, Budgets, Notice
from llmops.gateway.money.config import MoneyConfig
from llmops.gateway.money.counters import Claim, Counters
from llmops.gateway.money.ledger import Ledger
from llmops.gateway.money.opening import alerts_of, charge_lost, door, open_store, spent_since
from llmops.gateway.money.rates import PICO_IN_NANO, Rates
from llmops.gateway.money.rows import admission, row
from llmops.gateway.money.store import Store
from llmops.gateway.money.values import Bill, Outcome, Payer, Purchase, Reservation, Settled
from llmops.prices import PriceBook, Usage
from llmops.prices.library import context_of
from llmops.units import MIB

_log = logging.getLogger(__name__)
_NOTHING: Final = Usage(requests=0)
_MAX_RATES: Final = 4096


class Account:
    """See the package's docstring for the calls and their order."""

    def __init__(
        self,
        config: MoneyConfig,
        book: PriceBook,
        budgets: Budgets,
        ledger: Ledger,
        alerts: Alerts,
        *,
        now: Callable[[], float] = time.time,
    ) -> None:
        self.budgets = budgets
        self.ledger = ledger
        self._config = config
        self._book = book
        self._alerts = alerts
        self._now = now
        self._rates: dict[tuple[str, str | None, str], tuple[float, Rates | str]] = {}
        self._alive = -1

    @classmethod
    def open(
        cls,
        config: MoneyConfig,
        book: PriceBook,
        *,
        now: Callable[[], float] = time.time,
        store: Store | None = None,
        start: bool = True,
        single: bool = False,
    ) -> Account:
        """Open the books in this process.

        The first process finds the spools of those that were killed and makes the budget counters anew from the
        ledger; later ones join. ``single`` expects none: as long as none comes, budgets cost no system calls.

        Raises:
            MachineError: The directory cannot be written, or the disk is full.
        """
        directory = config.directory
        directory.mkdir(parents=True, exist_ok=True)
        database = store or open_store(config)
        budgets = Budgets(config.budgets, Counters(directory / "budgets.map"), now)
        ledger = Ledger(
            directory,
            database,
            flush_s=config.flush_s,
            segment_bytes=int(config.spool_mib * MIB),
            max_bytes=int(config.max_spool_mib * MIB),
            keep_days=config.keep_days,
            keep_rows=config.keep_rows,
            on_lost=lambda lost: charge_lost(budgets, lost),
            now=now,
        )
        account = cls(config, book, budgets, ledger, alerts_of(config), now=now)
        with door(directory) as (alive, alone):
            account._alive = alive
            ledger.recover()
            if alone:
                budgets.rebuild(lambda since: spent_since(database, since))
            if not alone:
                budgets.counters.come()
            elif single and start:
                budgets.counters.alone()
        if start:
            ledger.start(budgets.counters.look)
        return account

    # ---- one request ----

    def reserve(
        self, request_id: str, payer: Payer, purchase: Purchase, input_bound: int, output_bound: int
    ) -> Reservation:
        """Reserve what the request can cost at most, and record that it is about to be sent.

        Raises:
            BudgetExceeded: It does not fit a hard budget, or a hard budget covers a model without a known price.
            LedgerFullError: No row could be written for it afterwards.
        """
        now, budgets = self._now(), self.budgets
        rates = self.rates(purchase, now)
        claims = budgets.claims(payer, purchase.model, now) if budgets.rules else ()
        nano = self._bound(rates, claims, purchase, input_bound, output_bound)
        refused = budgets.reserve(claims, nano) if claims else None
        if refused is not None:
            raise self._refuse(budgets, refused, nano)
        made = Reservation(request_id, now, payer, purchase, input_bound, output_bound, claims, nano, rates, budgets)
        try:
            self.ledger.admit(admission(made))
        except BaseException:
            budgets.settle(claims, nano, 0)
            raise
        return made

    def retarget(self, reservation: Reservation, purchase: Purchase) -> None:
        """The request goes to another target: reserve its price instead. The old reservation stays where this raises.

        Raises:
            BudgetExceeded: As ``reserve``.
        """
        rates = self.rates(purchase)
        nano = self._bound(rates, reservation.claims, purchase, reservation.input_bound, reservation.output_bound)
        more = nano - reservation.nano
        budgets = reservation.budgets
        if more > 0 and reservation.claims:
            refused = budgets.reserve(reservation.claims, more)
            if refused is not None:
                raise self._refuse(budgets, refused, more)
        elif more < 0:
            self._tell(budgets.settle(reservation.claims, -more, 0))
        reservation.purchase, reservation.rates, reservation.nano = purchase, rates, nano
        self.ledger.admit(admission(reservation))

    def price(self, reservation: Reservation, usage: Usage) -> Bill:
        """What ``usage`` costs, by the rates at which it was admitted."""
        rates = reservation.rates
        if usage.service_tier != reservation.purchase.tier:  # it was processed otherwise than asked
            rates = self.rates(msgspec.structs.replace(reservation.purchase, tier=usage.service_tier))
        if isinstance(rates, str):
            return Bill(None, rates)
        amount = rates.charge_pico(usage)
        return Bill(amount, rates.source if amount is not None else "the usage contradicts itself")

    def settle(
        self, reservation: Reservation, usage: Usage, outcome: Outcome, bill: Bill | None = None
    ) -> Settled | None:
        """Write the row and turn the reservation into spending. None when it was settled or released before.

        ``bill`` is what ``price`` said of this usage, where it was asked before.
        """
        if not reservation.open:
            return None
        reservation.open = False
        bill = bill or self.price(reservation, usage)
        amount = bill.pico
        self.ledger.settle(row(reservation, usage, outcome, bill.pico, bill.source))
        if reservation.claims:
            spent = -(-amount // PICO_IN_NANO) if amount is not None else 0
            # A bill that nobody can price counts as what was reserved for it: never as nothing.
            if amount is None and reservation.nano:
                spent = reservation.nano
            notices = reservation.budgets.settle(reservation.claims, reservation.nano, spent)
            if notices:
                self._tell(notices)
        return Settled(amount, bill.source)

    def release(self, reservation: Reservation, outcome: Outcome) -> None:
        """The provider billed nothing: give the reservation back and write a row of zero."""
        if not reservation.open:
            return
        reservation.open = False
        self.ledger.settle(row(reservation, _NOTHING, outcome, 0, "not billed"))
        if reservation.claims:
            reservation.budgets.settle(reservation.claims, reservation.nano, 0)

    def left_nano(self, payer: Payer, model: str) -> int | None:
        """What the tightest hard budget of a request has left, in nanodollars; None where no hard budget covers it."""
        hard = [claim for claim in self.budgets.claims(payer, model) if claim.hard]
        left = []
        for claim in hard:
            held = self.budgets.counters.read(claim)
            left.append(max(0, claim.limit - held.spent - held.reserved))
        return min(left, default=None)

    def cached(
        self, request_id: str, payer: Payer, purchase: Purchase, usage: Usage, *, cache: str, outcome: Outcome
    ) -> None:
        """A row for an answer from the cache: it costs nothing, and saves what ``usage`` would have cost.

        While the database takes no rows such a row is left out: it holds no money.
        """
        if self.ledger.full:
            return
        rates = self.rates(purchase)
        saved = None if isinstance(rates, str) else rates.charge_pico(usage)
        held = Reservation(request_id, self._now(), payer, purchase, 0, 0, (), 0, rates, self.budgets)
        entry = row(held, usage, outcome, 0, "cache")
        self.ledger.settle(msgspec.structs.replace(entry, cache=cache, saved_pico=saved))

    def rates(self, purchase: Purchase, now: float | None = None) -> Rates | str:
        """The rates of a target now, or why they are unknown; looked up once a minute."""
        key = (purchase.target, purchase.provider, purchase.tier)
        minute = (self._now() if now is None else now) // 60
        found = self._rates.get(key)
        if found is not None and found[0] == minute:
            return found[1]
        if len(self._rates) >= _MAX_RATES:
            self._rates.clear()
        sheet = self._book.sheet(purchase.target, purchase.provider, context=context_of(purchase.tier))
        rates = sheet if isinstance(sheet, str) else Rates.of(sheet)
        self._rates[key] = (minute, rates)
        return rates

    def reconfigure(self, config: MoneyConfig, book: PriceBook) -> None:
        """Take over budgets, webhooks and prices of a config that was read again. Reads the ledger: not on a loop.

        A budget that is new, or counts otherwise than before, begins with what the ledger says was spent in its period.
        The directory and the database stay those of the start.
        """
        fixed = ("directory", "postgres", "flush_s", "keep_days", "keep_rows", "spool_mib", "max_spool_mib")
        changed = [name for name in fixed if getattr(config, name) != getattr(self._config, name)]
        if changed:
            _log.warning("money.%s is read at the start only", ", money.".join(changed))
        fresh = Budgets(config.budgets, self.budgets.counters, self._now)
        added = fresh.added_to(self.budgets)
        if added:
            self.ledger.flush()
            store = open_store(self._config, create=False)
            try:
                fresh.fill(added, lambda since: spent_since(store, since))
            finally:
                store.close()
        old, self._alerts = self._alerts, alerts_of(config)
        self.budgets, self._config, self._book = fresh, config, book
        self._rates.clear()
        old.close()

    def close(self) -> None:
        """Write what is left; call it when no request is open any more."""
        self.ledger.close()
        self._alerts.close()
        self.budgets.counters.close()
        if self._alive >= 0:
            os.close(self._alive)

    # ---- parts ----

    def _bound(
        self, rates: Rates | str, claims: tuple[Claim, ...], purchase: Purchase, input_bound: int, output_bound: int
    ) -> int:
        if not isinstance(rates, str):
            return -(-rates.bound_pico(input_bound, output_bound) // PICO_IN_NANO)
        hard = next((claim for claim in claims if claim.hard), None)
        if hard is not None and self._config.unknown_price == "refuse":
            name = self.budgets.rules[hard.rule].name
            raise BudgetExceeded(
                402,
                "unknown_price",
                f"the budget {name!r} cannot be kept for {purchase.model!r}: its price is unknown",
            )
        return 0

    def _refuse(self, budgets: Budgets, claim: Claim, nano: int) -> BudgetExceeded:
        error, notice = budgets.refusal(claim, nano)
        if notice is not None:
            self._alerts.tell(notice)
        return error

    def _tell(self, notices: Iterable[Notice]) -> None:
        for notice in notices:
            self._alerts.tell(notice)
