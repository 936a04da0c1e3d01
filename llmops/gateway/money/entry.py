"""One row of the ledger. A msgspec struct and not a dataclass: it is made and encoded once a request."""

from __future__ import annotations

from typing import Final, Literal

import msgspec

State = Literal["settled", "in_flight"]


class LedgerEntry(msgspec.Struct, array_like=True, frozen=True, gc=False):
    """What one request used and cost.

    Attributes:
        request_id: Unique; a second row with the same id is dropped.
        at: When it was admitted, epoch seconds.
        model: The name that the caller used; ``target`` is the provider's.
        state: ``in_flight`` for a request whose worker was killed: the amount is the reserved bound, not a bill.
        amount_pico: Picodollars; None where the price is unknown.
        saved_pico: What a cache hit would have cost.
        price_source: Where the price comes from, or why it is unknown.
        estimated: The tokens are our count, not the provider's.
        cache: ``exact`` or ``semantic`` where the answer came from a cache, else empty.
    """

    request_id: str
    at: float
    tenant: str
    team: str
    key: str
    model: str
    provider: str
    target: str
    status: int
    state: State
    input_tokens: int
    output_tokens: int
    cache_read_tokens: int
    cache_write_tokens: int
    reasoning_tokens: int
    audio_tokens: int
    image_tokens: int
    estimated: bool
    amount_pico: int | None
    saved_pico: int | None
    price_source: str
    price_date: str
    cache: str
    local: bool
    duration_ms: int
    ttft_ms: int | None


COLUMNS: Final = LedgerEntry.__struct_fields__


class Admission(msgspec.Struct, array_like=True, frozen=True, gc=False):
    """A request that was admitted: its row as it would stand if nothing more were heard of it, and its reservation.

    ``claims`` are (slot, period) of the counters that hold ``reserved_nano``.
    """

    entry: LedgerEntry
    reserved_nano: int
    claims: tuple[tuple[int, int], ...]
