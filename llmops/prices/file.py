"""The form of ``prices.yaml``."""

from __future__ import annotations

import datetime as dt
from decimal import Decimal
from pathlib import Path
from typing import Annotated

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, model_validator

from llmops.prices.money import ZERO, LocalRate, PriceSheet, Rate


def _through_text(value: object) -> object:
    """YAML reads 0.1 as a binary float; its shortest text is the decimal that was written."""
    return repr(value) if isinstance(value, float) else value


Usd = Annotated[Decimal, BeforeValidator(_through_text), Field(ge=0, allow_inf_nan=False)]
Speed = Annotated[Decimal, BeforeValidator(_through_text), Field(gt=0, allow_inf_nan=False)]


class _Form(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class Tier(_Form):
    """Rates that hold for the whole request once its input exceeds ``above_input_tokens``."""

    above_input_tokens: Annotated[int, Field(ge=1)]
    input: Usd | None = None
    output: Usd | None = None
    cache_read: Usd | None = None
    cache_write: Usd | None = None


class PerToken(_Form):
    """Dollars per million tokens; ``input`` and ``output`` are required, a part without a rate costs what its whole does."""

    input: Usd
    output: Usd
    cache_read: Usd | None = None
    cache_write: Usd | None = None
    cache_write_1h: Usd | None = None
    reasoning: Usd | None = None
    tiers: tuple[Tier, ...] = ()


class PerHour(_Form):
    """A machine or GPU paid by the hour and its measured throughput; see ``LocalRate``."""

    usd_per_hour: Usd
    output_tokens_per_s: Speed
    input_tokens_per_s: Speed | None = None
    units: Annotated[int, Field(ge=1)] = 1


class Row(_Form):
    """One priced model or pattern of models."""

    match: Annotated[str, Field(min_length=1)]
    provider: str | None = None
    per_million_tokens: PerToken | None = None
    per_hour: PerHour | None = None
    source: str | None = None
    date: dt.date | None = None

    @model_validator(mode="after")
    def _one_kind(self) -> Row:
        if (self.per_million_tokens is None) == (self.per_hour is None):
            raise ValueError("give either per_million_tokens or per_hour")
        return self

    def sheet(self, path: Path) -> PriceSheet:
        """The rates of this row."""
        source = self.source or path.name
        if self.per_hour is not None:
            hour = self.per_hour
            rate = LocalRate(hour.usd_per_hour, hour.output_tokens_per_s, hour.input_tokens_per_s, hour.units)
            return rate.sheet(source, self.date)
        rates = self.per_million_tokens
        assert rates is not None

        def rate_of(name: str) -> Rate | None:
            base = getattr(rates, name)
            steps = sorted(rates.tiers, key=lambda tier: tier.above_input_tokens) if rates else []
            tiers = [(tier.above_input_tokens, getattr(tier, name, None)) for tier in steps]
            return None if base is None else Rate(base, tuple((n, usd) for n, usd in tiers if usd is not None))

        return PriceSheet(
            rate_of("input") or Rate(ZERO),
            rate_of("output") or Rate(ZERO),
            source,
            self.date,
            cache_read=rate_of("cache_read"),
            cache_write=rate_of("cache_write"),
            cache_write_1h=rate_of("cache_write_1h"),
            reasoning=rate_of("reasoning"),
        )


class PriceFile(_Form):
    """The whole file."""

    prices: tuple[Row, ...] = ()


def read(path: Path) -> tuple[Row, ...]:
    """The rows of a prices file.

    Raises:
        UsageError: Missing or wrong, with file:line.
    """
    from llmops.recipes import load_yaml, validate

    return validate(PriceFile, load_yaml(path)).prices
