"""Values of a request between admission and its row: who pays, what is bought, how it ended.

msgspec structs and not dataclasses: several are made for every request.
"""

from __future__ import annotations

from decimal import Decimal

import msgspec

from llmops.gateway.money.budgets import Budgets
from llmops.gateway.money.counters import Claim
from llmops.gateway.money.rates import Rates, usd


class Payer(msgspec.Struct, frozen=True, gc=False):
    """Who pays."""

    tenant: str
    team: str
    key: str


class Purchase(msgspec.Struct, frozen=True, gc=False):
    """What is bought: the caller's name of the model, and who serves which one for it.

    Attributes:
        provider: The price library's name of the provider, or None to guess it from the model.
        target: The provider's name of the model.
        server: Name of the target's provider in the config, for the ledger; ``provider`` where empty.
        tier: The dearer processing that was asked for (``priority``, ``fast``), or empty.
    """

    model: str
    provider: str | None
    target: str
    local: bool = False
    server: str = ""
    tier: str = ""


class Outcome(msgspec.Struct, frozen=True, gc=False):
    """How a request ended."""

    status: int
    duration_ms: float = 0.0
    ttft_ms: float | None = None


class Reservation(msgspec.Struct, eq=False):
    """A request between admission and its row."""

    request_id: str
    at: float
    payer: Payer
    purchase: Purchase
    input_bound: int
    output_bound: int
    claims: tuple[Claim, ...]
    nano: int
    rates: Rates | str
    budgets: Budgets
    open: bool = True


class Settled(msgspec.Struct, frozen=True, gc=False):
    """What a request cost. ``amount_pico`` is None where the price is unknown, for the stated ``source``."""

    amount_pico: int | None
    source: str


class Bill(msgspec.Struct, frozen=True, gc=False):
    """What a request costs, in picodollars; None where the price is unknown. ``source`` says where the price is from."""

    pico: int | None
    source: str = ""

    @property
    def amount_usd(self) -> Decimal | None:
        """Dollars, exactly."""
        return None if self.pico is None else usd(self.pico)
