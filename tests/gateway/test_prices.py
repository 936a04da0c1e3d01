"""Bills that other gateways got wrong, to the last digit; unknown stays unknown."""

from __future__ import annotations

from datetime import UTC, date, datetime
from decimal import Decimal
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llmops.errors import UsageError
from llmops.prices import Charge, Usage, local_price, price, price_book

AT = datetime(2026, 11, 1, 12, tzinfo=UTC)


def amount(model: str, provider: str | None = None, context: dict[str, str] | None = None, **tokens: int) -> Decimal:
    charge = price(model, Usage(**tokens), provider, AT, context=context)
    assert charge.amount_usd is not None, charge.reason
    assert sum((part.amount_usd for part in charge.parts), Decimal(0)) == charge.amount_usd
    return charge.amount_usd


@pytest.mark.parametrize(
    ("model", "provider", "tokens", "context", "usd"),
    [
        # Anthropic cache writes are billed once, not on top of the input price.
        (
            "claude-sonnet-4-5",
            "anthropic",
            {"input_tokens": 12307, "cache_write_tokens": 12304, "output_tokens": 550},
            None,
            "0.054399",
        ),
        (
            "claude-sonnet-4-5",
            "anthropic",
            {"input_tokens": 12307, "cache_write_tokens": 12304, "output_tokens": 550},
            {"processing": "batch"},
            "0.0271995",
        ),
        (
            "claude-sonnet-4-5",
            "anthropic",
            {"input_tokens": 12307, "cache_write_tokens": 12304, "cache_write_1h_tokens": 12304, "output_tokens": 550},
            None,
            "0.082083",
        ),
        ("gpt-4o", "openai", {"input_tokens": 10000, "cache_read_tokens": 8000, "output_tokens": 1000}, None, "0.025"),
        # Above 200k input tokens every token of the request has the higher rate.
        (
            "gemini-2.5-pro",
            "google",
            {"input_tokens": 300000, "cache_read_tokens": 100000, "output_tokens": 1000},
            None,
            "0.540",
        ),
    ],
)
def test_known_bills(model, provider, tokens, context, usd):
    assert amount(model, provider, context, **tokens) == Decimal(usd)


def test_zero_usage_is_zero_and_not_unknown():
    charge = price("gpt-4o", Usage(), "openai")
    assert charge.amount_usd == 0
    assert charge.known


def test_unknown_model_is_unknown_with_a_reason_and_not_zero():
    charge = price("nobody-has-this-model", Usage(input_tokens=5))
    assert charge.amount_usd is None
    assert not charge.known
    assert "nobody-has-this-model" in charge.reason
    assert price("gpt-4o", Usage(input_tokens=5), "no-such-provider").amount_usd is None


def test_charge_names_source_and_date():
    charge = price("gpt-4o", Usage(input_tokens=5), at=AT)
    assert charge.source.startswith("genai-prices 0.")
    assert isinstance(charge.price_date, date)
    assert charge.price_date <= AT.date()


def test_usage_whose_parts_exceed_their_whole_has_no_price():
    charge = price("gpt-4o", Usage(input_tokens=5, cache_read_tokens=9))
    assert charge.amount_usd is None
    assert "contradicts" in charge.reason


@given(
    model=st.sampled_from(
        [("gpt-4o", "openai"), ("claude-sonnet-4-5", "anthropic"), ("gemini-2.5-pro", "google"), ("gpt-5", "openai")]
    ),
    read=st.integers(0, 400_000),
    write=st.integers(0, 400_000),
    plain=st.integers(0, 400_000),
    out=st.integers(0, 100_000),
    reasoning=st.integers(0, 100_000),
)
def test_our_arithmetic_is_the_librarys(model, read, write, plain, out, reasoning):
    from genai_prices import Usage as LibraryUsage
    from genai_prices import calc_price

    name, provider = model
    ours = price(
        name,
        Usage(
            input_tokens=plain + read + write,
            output_tokens=out + reasoning,
            cache_read_tokens=read,
            cache_write_tokens=write,
            reasoning_tokens=reasoning,
        ),
        provider,
        AT,
    )
    theirs = calc_price(
        LibraryUsage(
            input_tokens=plain + read + write,
            output_tokens=out + reasoning,
            cache_read_tokens=read,
            cache_write_tokens=write,
            output_reasoning_tokens=reasoning,
        ),
        name,
        provider_id=provider,
        genai_request_timestamp=AT,
    )
    assert ours.amount_usd == theirs.total_price


def test_audio_goes_through_the_library():
    usage = Usage(input_tokens=1000, input_audio_tokens=1000, output_tokens=10)
    charge = price("gemini-2.5-flash", usage, "google", AT)
    plain = price("gemini-2.5-flash", Usage(input_tokens=1000, output_tokens=10), "google", AT)
    assert charge.amount_usd is not None
    assert plain.amount_usd is not None
    assert charge.amount_usd > plain.amount_usd


def test_local_price_is_seconds_times_the_price_of_a_second():
    charge = local_price(
        Usage(input_tokens=10_000, output_tokens=900),
        usd_per_hour=Decimal("3.60"),
        output_tokens_per_s=900,
        input_tokens_per_s=10_000,
    )
    assert charge.amount_usd == Decimal("0.002")  # one second of prefill, one of generation
    doubled = local_price(
        Usage(output_tokens=900), usd_per_hour=Decimal("3.60"), output_tokens_per_s=900, units=2
    ).amount_usd
    assert doubled == Decimal("0.002")


def test_local_price_without_throughput_is_unknown():
    charge = local_price(Usage(output_tokens=1), usd_per_hour=Decimal(1), output_tokens_per_s=0)
    assert charge == Charge(None, reason="no throughput was measured")


PRICES = """
prices:
  - match: gpt-4o
    provider: openai
    per_million_tokens: {input: 0.1, output: 0.2, tiers: [{above_input_tokens: 1000, input: 0.3}]}
    date: 2026-10-01
    source: contract
  - match: llama-*
    per_hour: {usd_per_hour: 3.6, output_tokens_per_s: 1000}
"""


def test_the_sites_prices_come_first(tmp_path: Path):
    path = tmp_path / "prices.yaml"
    path.write_text(PRICES)
    book = price_book(path)
    charge = price("gpt-4o", Usage(input_tokens=1000, output_tokens=10), "openai", overrides=book)
    assert charge.amount_usd == Decimal("0.000102")  # exact although 0.1 and 0.2 are no binary fractions
    assert (charge.source, charge.price_date) == ("contract", date(2026, 10, 1))
    tier = price("gpt-4o", Usage(input_tokens=1001), "openai", overrides=book)
    assert tier.amount_usd == Decimal("0.0003003")
    assert price("Llama-3.1-8B", Usage(output_tokens=1000), overrides=book).amount_usd == Decimal("0.001")
    assert price("gpt-4o", Usage(input_tokens=10), "azure", overrides=book).source != "contract"


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("prices:\n  - match: a\n", "either per_million_tokens or per_hour"),
        ("prices:\n  - match: a\n    per_hour: {usd_per_hour: 1, output_tokens_per_s: 0}\n", "prices.yaml:3"),
        ("prices:\n  - match: a\n    per_milion_tokens: {input: 1, output: 1}\n", "per_milion_tokens"),
        ("prices:\n  - match: a\n    per_million_tokens: {input: -1, output: 1}\n", "greater than or equal to 0"),
    ],
)
def test_a_wrong_prices_file_is_refused_with_its_line(tmp_path, text, says):
    path = tmp_path / "prices.yaml"
    path.write_text(text)
    with pytest.raises(UsageError, match=r"prices\.yaml:") as caught:
        price_book(path)
    assert says in caught.value.message


def test_the_shipped_prices_file_is_valid():
    from llmops.recipes import shipped

    assert price(
        "llama-3.1-8b-instruct", Usage(output_tokens=10), overrides=price_book(shipped("configs") / "prices.yaml")
    ).known
