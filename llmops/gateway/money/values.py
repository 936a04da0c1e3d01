"""Values of a request between admission and its row: who pays, what is bought, how it ended."""

from __future__ import annotations

from dataclasses import dataclass, field

from llmops.gateway.money.budgets import Budgets
from llmops.gateway.money.counters import Claim
from llmops.gateway.money.rates import Rates


@dataclass(frozen=True, slots=True)
class Payer:
    """Who pays."""

    tenant: str
    team: str
    key: str


@dataclass(frozen=True, slots=True)
class Purchase:
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


@dataclass(frozen=True, slots=True)
class Outcome:
    """How a request ended."""

    status: int
    duration_ms: float = 0.0
    ttft_ms: float | None = None


@dataclass(slots=True)
class Reservation:
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
    open: bool = field(default=True)


@dataclass(frozen=True, slots=True)
class Settled:
    """What a request cost. ``amount_pico`` is None where the price is unknown, for the stated ``source``."""

    amount_pico: int | None
    source: str
