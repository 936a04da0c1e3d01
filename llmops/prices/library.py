"""The adapter to ``genai-prices``: finds a model's rates in the bundled data, without the network."""

from __future__ import annotations

from datetime import date, datetime
from functools import cache
from importlib.metadata import version
from typing import TYPE_CHECKING, Any, Final

from llmops.prices.money import MILLION, ZERO, Charge, ChargePart, PriceSheet, Rate, Usage

if TYPE_CHECKING:
    from genai_prices.types import ModelInfo

# What PriceSheet has a rate for; a model with token prices only among these never needs the library's own arithmetic.
_PLAIN: Final = frozenset({"input_mtok", "output_mtok"})
_RENAMED: Final = {"reasoning_tokens": "output_reasoning_tokens"}


def sheet(
    model: str, provider: str | None, when: datetime, context: tuple[tuple[str, str], ...] = ()
) -> PriceSheet | str:
    """The rates of a model at a time, or one sentence why there are none."""
    from genai_prices.data_snapshot import get_snapshot

    try:
        owner, info = get_snapshot().find_provider_model(model, None, provider, None)
    except LookupError:
        where = f" of provider {provider!r}" if provider else ""
        return f"no price is known for model {model!r}{where}; add it to the prices file"
    prices = info.get_prices(when, dict(context) or None)
    keys = {key for key, value in vars(prices).items() if value is not None}
    if not any(key.endswith("_mtok") for key in keys):
        return f"the price library knows {model!r} but has no price by the token for it"
    return PriceSheet(
        _rate(prices.input_mtok) or Rate(ZERO),
        _rate(prices.output_mtok) or Rate(ZERO),
        source=_source(),
        price_date=_active_since(info, when) or _newest_date(when.date()),
        cache_read=_rate(prices.cache_read_mtok),
        cache_write=_rate(prices.cache_write_mtok),
        cache_write_1h=_rate(prices.cache_write_1h_mtok),
        reasoning=_rate(prices.output_reasoning_mtok),
        library=(info, owner),
        always_library="requests_kcount" in keys or not keys & _PLAIN,
        context=context,
    )


def models_of(provider: str) -> tuple[str, ...]:
    """Names of a provider's models, those that are current first; empty for a provider that the library does not know."""
    from genai_prices.data_snapshot import get_snapshot

    for each in get_snapshot().providers:
        if each.id == provider:
            current = [model.id for model in each.models if not getattr(model, "deprecated", False)]
            return (*current, *(model.id for model in each.models if model.id not in current))
    return ()


def charge(of: PriceSheet, usage: Usage, at: datetime | None) -> Charge:
    """The library's own bill, for usage with audio, images or calls; its lines are input, output and calls."""
    from genai_prices import Usage as LibraryUsage

    assert of.library is not None
    model, provider = of.library
    named = {_RENAMED.get(name, name): getattr(usage, name) for name in usage.__struct_fields__}
    counts = {
        name: count for name, count in named.items() if count and name not in ("requests", "estimated", "service_tier")
    }
    context = {**dict(of.context), **context_of(usage.service_tier)}
    try:
        price = model.calc_price(
            LibraryUsage(**counts), provider, genai_request_timestamp=at, price_context=context or None
        )
    except ValueError as error:
        return Charge(None, reason=f"the usage contradicts itself: {error}", estimated=usage.estimated)
    lines = (
        ("input", usage.input_tokens, price.input_price),
        ("output", usage.output_tokens, price.output_price),
        ("calls", usage.requests + usage.web_searches, price.total_price - price.input_price - price.output_price),
    )
    parts = tuple(ChargePart(name, n, amount * MILLION / max(n, 1), amount) for name, n, amount in lines if amount)
    return Charge(price.total_price, parts, of.source, of.price_date, estimated=usage.estimated)


def context_of(tier: str) -> dict[str, str]:
    """A service tier in the library's words."""
    if not tier:
        return {}
    return {"processing": "batch"} if tier == "batch" else {"service_tier": tier}


def _rate(price: Any) -> Rate | None:
    if price is None:
        return None
    tiers = getattr(price, "tiers", None)
    if tiers is None:
        return Rate(price)
    return Rate(price.base, tuple((tier.start, tier.price) for tier in tiers))


def _active_since(model: ModelInfo, when: datetime) -> date | None:
    """Start date of the price in force, where the library states one."""
    if not isinstance(model.prices, list):
        return None
    for row in reversed(model.prices):
        if row.constraint is None or row.constraint.active(when):
            return getattr(row.constraint, "start_date", None)
    return None


@cache
def _newest_date(today: date) -> date | None:
    """The newest price change that the bundled data knows: it is at least as new as that."""
    from genai_prices.data_snapshot import get_snapshot

    starts = {
        getattr(row.constraint, "start_date", None)
        for provider in get_snapshot().providers
        for model in provider.models
        for row in (*(model.prices if isinstance(model.prices, list) else ()), *(model.price_variants or ()))
    }
    past = [start for start in starts if start is not None and start <= today]
    return max(past, default=None)


@cache
def _source() -> str:
    return f"genai-prices {version('genai-prices')}"
