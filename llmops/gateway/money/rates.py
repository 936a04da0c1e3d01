"""A price sheet made ready for the hot path: exact integer arithmetic in picodollars (10**-12 $) where that is exact."""

from __future__ import annotations

from dataclasses import dataclass
from decimal import ROUND_CEILING, ROUND_HALF_EVEN, Decimal
from typing import Final

from llmops.prices import PriceSheet, Rate, Usage

PICO: Final = Decimal(10) ** 12
PICO_IN_NANO: Final = 1000
_PICO_PER_TOKEN: Final = Decimal(1_000_000)  # one dollar per million tokens is a million picodollars per token


def pico(amount_usd: Decimal) -> int:
    """Dollars to picodollars, rounded half to even: the bill of one request is exact to 10**-12 $."""
    return int((amount_usd * PICO).to_integral_value(ROUND_HALF_EVEN))


def usd(amount_pico: int) -> Decimal:
    """Picodollars to dollars, exactly."""
    return Decimal(amount_pico).scaleb(-12)


def dollars(amount_pico: int) -> str:
    """Picodollars as a plain decimal number of dollars: ``0.00065``."""
    whole, rest = divmod(amount_pico, 1_000_000_000_000)
    return f"{whole}.{rest:012d}".rstrip("0").rstrip(".")


@dataclass(frozen=True)
class Rates:
    """Integer rates of one sheet. ``exact`` says that they may stand for the sheet (no tiers, no fractions, no audio).

    Attributes:
        worst_input_pico: The dearest that one token of a prompt can be.
        worst_output_pico: The dearest that one generated token can be.
    """

    sheet: PriceSheet
    exact: bool
    input: int
    output: int
    cache_read: int | None
    cache_write: int | None
    cache_write_1h: int | None
    reasoning: int | None
    worst_input_pico: int
    worst_output_pico: int
    source: str
    price_date: str

    @classmethod
    def of(cls, sheet: PriceSheet) -> Rates:
        """Prepare a sheet."""
        named = {
            name: getattr(sheet, name)
            for name in ("input", "output", "cache_read", "cache_write", "cache_write_1h", "reasoning")
        }
        whole = {name: _whole(rate) for name, rate in named.items()}
        exact = not sheet.always_library and all(
            rate is None or (not rate.tiers and whole[name] is not None) for name, rate in named.items()
        )
        inputs = (sheet.input, sheet.cache_read, sheet.cache_write, sheet.cache_write_1h)
        return cls(
            sheet,
            exact,
            whole["input"] or 0,
            whole["output"] or 0,
            whole["cache_read"],
            whole["cache_write"],
            whole["cache_write_1h"],
            whole["reasoning"],
            _worst(inputs),
            _worst((sheet.output, sheet.reasoning)),
            sheet.source,
            sheet.price_date.isoformat() if sheet.price_date else "",
        )

    def bound_pico(self, input_tokens: int, output_tokens: int) -> int:
        """The most that so many tokens can cost."""
        return self.worst_input_pico * input_tokens + self.worst_output_pico * output_tokens

    def charge_pico(self, usage: Usage) -> int | None:
        """What ``usage`` costs, the same as ``sheet.charge``; None where the usage contradicts itself."""
        special = (
            usage.input_audio_tokens or usage.output_audio_tokens or usage.input_image_tokens or usage.web_searches
        )
        if not self.exact or (special and self.sheet.library is not None):
            amount = self.sheet.charge(usage).amount_usd
            return None if amount is None else pico(amount)
        plain, total = usage.input_tokens, 0
        written, hour = usage.cache_write_tokens, usage.cache_write_1h_tokens
        if hour > written:
            return None
        if written:
            if hour and self.cache_write_1h is not None:
                plain -= hour
                written -= hour
                total += hour * self.cache_write_1h
            if self.cache_write is not None:
                plain -= written
                total += written * self.cache_write
        if usage.cache_read_tokens and self.cache_read is not None:
            plain -= usage.cache_read_tokens
            total += usage.cache_read_tokens * self.cache_read
        spoken = usage.output_tokens
        if usage.reasoning_tokens and self.reasoning is not None:
            spoken -= usage.reasoning_tokens
            total += usage.reasoning_tokens * self.reasoning
        if plain < 0 or spoken < 0 or usage.cache_read_tokens < 0 or usage.reasoning_tokens < 0:
            return None
        return total + plain * self.input + spoken * self.output


def _whole(rate: Rate | None) -> int | None:
    """Picodollars per token where that is a whole number."""
    if rate is None:
        return None
    value = rate.base * _PICO_PER_TOKEN
    return int(value) if value == value.to_integral_value() else None


def _worst(rates: tuple[Rate | None, ...]) -> int:
    dearest = max(amount for rate in rates if rate for amount in (rate.base, *(tier for _, tier in rate.tiers)))
    return int((dearest * _PICO_PER_TOKEN).to_integral_value(ROUND_CEILING))
