"""Values of a bill: usage, rates, charges. Pure arithmetic in ``Decimal``."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import date, datetime
from decimal import Decimal
from typing import TYPE_CHECKING, Final

import msgspec

if TYPE_CHECKING:
    from genai_prices.types import ModelInfo, Provider

MILLION: Final = Decimal(1_000_000)
ZERO: Final = Decimal(0)
# Kinds of processing that providers bill by other rates; what else they name is billed as usual.
BILLED_TIERS: Final = frozenset({"flex", "priority", "fast", "batch"})
_HOUR_S: Final = Decimal(3600)
_CONTRADICTION: Final = "the usage contradicts itself: a part is larger than its whole"


class Usage(msgspec.Struct, frozen=True, gc=False):
    """Tokens of one request, in one convention for every provider: totals include their parts.

    Attributes:
        input_tokens: The whole prompt, cached and cache-written tokens included.
        output_tokens: Everything generated, reasoning included.
        cache_read_tokens: The part of the input read from the provider's prompt cache.
        cache_write_tokens: The part of the input written to it, all lifetimes together.
        cache_write_1h_tokens: The part of ``cache_write_tokens`` with the one-hour lifetime.
        reasoning_tokens: The part of the output that was reasoning.
        input_audio_tokens: The part of the input that was audio.
        output_audio_tokens: The part of the output that was audio.
        input_image_tokens: The part of the input that was images, where the provider counts it.
        requests: Billable calls: 1 for an ordinary request.
        web_searches: Searches the provider ran and bills by the call.
        estimated: Whether these are our count and not the provider's own.
        service_tier: ``flex``, ``priority``, ``fast`` or ``batch`` where the provider says that it billed one of those.
    """

    input_tokens: int = 0
    output_tokens: int = 0
    cache_read_tokens: int = 0
    cache_write_tokens: int = 0
    cache_write_1h_tokens: int = 0
    reasoning_tokens: int = 0
    input_audio_tokens: int = 0
    output_audio_tokens: int = 0
    input_image_tokens: int = 0
    requests: int = 1
    web_searches: int = 0
    estimated: bool = False
    service_tier: str = ""

    @property
    def total_tokens(self) -> int:
        """Input and output together."""
        return self.input_tokens + self.output_tokens

    def plus(self, other: Usage) -> Usage:
        """The sum of both; estimated where either is."""
        names = [name for name in self.__struct_fields__ if name not in ("estimated", "service_tier")]
        sums = {name: getattr(self, name) + getattr(other, name) for name in names}
        tier = self.service_tier or other.service_tier
        return Usage(**sums, estimated=self.estimated or other.estimated, service_tier=tier)


class ChargePart(msgspec.Struct, frozen=True, gc=False):
    """One line of a bill: ``tokens`` at ``usd_per_million``."""

    name: str
    tokens: int
    usd_per_million: Decimal
    amount_usd: Decimal


class Charge(msgspec.Struct, frozen=True):
    """What a request costs.

    Attributes:
        amount_usd: The exact sum of ``parts``, or None where the price is unknown.
        parts: The lines of the bill; empty where the price is unknown.
        source: Where the price comes from, with its version.
        price_date: Since when this price holds, or the newest date in the source where it states none.
        reason: Why the price is unknown; empty otherwise.
        estimated: Whether the tokens are an estimate.
    """

    amount_usd: Decimal | None
    parts: tuple[ChargePart, ...] = ()
    source: str = ""
    price_date: date | None = None
    reason: str = ""
    estimated: bool = False

    @property
    def known(self) -> bool:
        """Whether there is an amount."""
        return self.amount_usd is not None


@dataclass(frozen=True, slots=True)
class Rate:
    """Dollars per million tokens. From ``tiers`` the last whose input-token start is exceeded holds for all tokens."""

    base: Decimal
    tiers: tuple[tuple[int, Decimal], ...] = ()

    def at(self, input_tokens: int) -> Decimal:
        """The rate for a request with so many input tokens."""
        rate = self.base
        for start, tier in self.tiers:
            if input_tokens > start:
                rate = tier
        return rate


@dataclass(frozen=True, slots=True)
class PriceSheet:
    """The rates of one model at one time. A part without a rate of its own is billed as what it is part of."""

    input: Rate
    output: Rate
    source: str
    price_date: date | None
    cache_read: Rate | None = None
    cache_write: Rate | None = None
    cache_write_1h: Rate | None = None
    reasoning: Rate | None = None
    # The library's own entry, for usage that these rates do not cover (audio, images, calls, searches).
    library: tuple[ModelInfo, Provider] | None = None
    always_library: bool = False
    context: tuple[tuple[str, str], ...] = ()

    def charge(self, usage: Usage, at: datetime | None = None) -> Charge:
        """The bill for ``usage``; unknown where its parts exceed their whole, which is the provider's error."""
        if self.library is not None:
            special = usage.input_audio_tokens or usage.output_audio_tokens or usage.input_image_tokens
            if special or usage.web_searches or usage.service_tier or self.always_library:
                from llmops.prices import library

                return library.charge(self, usage, at)
        if usage.cache_write_1h_tokens > usage.cache_write_tokens:
            return Charge(None, reason=_CONTRADICTION, estimated=usage.estimated)
        counts = _leaves(self, usage)
        total, parts = ZERO, []
        for name, count, rate in counts:
            if count > 0:
                usd = rate.at(usage.input_tokens) if rate.tiers else rate.base
                amount = usd * count / MILLION
                total += amount
                parts.append(ChargePart(name, count, usd, amount))
            elif count < 0:
                return Charge(None, reason=_CONTRADICTION, estimated=usage.estimated)
        return Charge(total, tuple(parts), self.source, self.price_date, "", usage.estimated)


def _leaves(sheet: PriceSheet, usage: Usage) -> list[tuple[str, int, Rate]]:
    """Split totals into parts with a rate of their own and the rest."""
    if not (usage.cache_read_tokens or usage.cache_write_tokens or usage.reasoning_tokens):
        return [("input", usage.input_tokens, sheet.input), ("output", usage.output_tokens, sheet.output)]
    plain, leaves = usage.input_tokens, []
    write = usage.cache_write_tokens
    if sheet.cache_write_1h is not None and usage.cache_write_1h_tokens:
        leaves.append(("cache write 1h", usage.cache_write_1h_tokens, sheet.cache_write_1h))
        plain -= usage.cache_write_1h_tokens
        write -= usage.cache_write_1h_tokens
    if sheet.cache_write is not None:
        leaves.append(("cache write", write, sheet.cache_write))
        plain -= write
    if sheet.cache_read is not None:
        leaves.append(("cache read", usage.cache_read_tokens, sheet.cache_read))
        plain -= usage.cache_read_tokens
    leaves.append(("input", plain, sheet.input))
    spoken = usage.output_tokens
    if sheet.reasoning is not None:
        leaves.append(("reasoning", usage.reasoning_tokens, sheet.reasoning))
        spoken -= usage.reasoning_tokens
    leaves.append(("output", spoken, sheet.output))
    return leaves


@dataclass(frozen=True, slots=True)
class LocalRate:
    """A machine's price by the hour and what it was measured to do.

    Attributes:
        usd_per_hour: Price of one machine or one GPU for an hour.
        units: How many of them the model occupies.
        output_tokens_per_s: Measured generation throughput of all of them together, under the load that is priced.
        input_tokens_per_s: Measured prefill throughput. Without it a prompt costs nothing by itself: its time is then
            inside the output throughput, which must have been measured with prompts of the usual length.
    """

    usd_per_hour: Decimal
    output_tokens_per_s: Decimal
    input_tokens_per_s: Decimal | None = None
    units: int = 1

    def sheet(self, source: str, price_date: date | None) -> PriceSheet:
        """Rates per million tokens: price of a second divided by tokens in a second."""
        per_second = self.usd_per_hour * self.units / _HOUR_S
        output = per_second / self.output_tokens_per_s * MILLION
        into = per_second / self.input_tokens_per_s * MILLION if self.input_tokens_per_s else ZERO
        return PriceSheet(Rate(into), Rate(output), source, price_date)
