"""The two records of a request: what it may cost, before it is sent, and its row of the ledger. Made for every request."""

from __future__ import annotations

from llmops.gateway.money.entry import Admission, LedgerEntry
from llmops.gateway.money.rates import PICO_IN_NANO
from llmops.gateway.money.values import Outcome, Reservation
from llmops.prices import Usage


def admission(held: Reservation) -> Admission:
    """What is recorded before a request is sent: its row as it stands if nothing more is heard of it."""
    payer, purchase, rates = held.payer, held.purchase, held.rates
    if isinstance(rates, str):
        amount, source, date = None, rates, ""
    else:
        amount, source, date = held.nano * PICO_IN_NANO, rates.source, rates.price_date
    # By position, and so in ``row``: names cost a third more.
    entry = LedgerEntry(
        held.request_id, held.at, payer.tenant, payer.team, payer.key, purchase.model,
        purchase.server or purchase.provider or "", purchase.target, 0, "in_flight", held.input_bound,
        held.output_bound, 0, 0, 0, 0, 0, True, amount, None, source, date, "", purchase.local, 0, None,
    )  # fmt: skip
    return Admission(entry, held.nano, tuple([claim.held_at for claim in held.claims]) if held.claims else ())


def row(held: Reservation, usage: Usage, outcome: Outcome, amount: int | None, source: str) -> LedgerEntry:
    """The row of a request that is over; ``amount`` in picodollars, None where the price is unknown."""
    payer, purchase, rates, ttft = held.payer, held.purchase, held.rates, outcome.ttft_ms
    return LedgerEntry(
        held.request_id, held.at, payer.tenant, payer.team, payer.key, purchase.model,
        purchase.server or purchase.provider or "", purchase.target, outcome.status, "settled", usage.input_tokens,
        usage.output_tokens, usage.cache_read_tokens, usage.cache_write_tokens, usage.reasoning_tokens,
        usage.input_audio_tokens + usage.output_audio_tokens, usage.input_image_tokens, usage.estimated, amount, None,
        source, "" if isinstance(rates, str) else rates.price_date, "", purchase.local, int(outcome.duration_ms),
        None if ttft is None else int(ttft),
    )  # fmt: skip
