"""``llmops cost``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from llmops.cli import cost_reports
from llmops.cli import options as opt


def register(app: typer.Typer) -> None:
    """Add the commands."""
    group = typer.Typer(
        help="What requests cost: one request's price, reports over the ledger",
        epilog="Example: llmops cost price gpt-4o --input-tokens 900 --output-tokens 300",
        no_args_is_help=True,
        rich_markup_mode=None,
    )
    group.command(
        "price", epilog="Example: llmops cost price claude-sonnet-4-5 --input-tokens 12307 --cache-write-tokens 12304"
    )(price)
    cost_reports.register(group)
    app.add_typer(group, name="cost")


@opt.shared
def price(
    answer: opt.Answer,
    model: Annotated[str, typer.Argument(help="The provider's name of the model")],
    provider: Annotated[str | None, typer.Option(help="openai, anthropic, google, …; guessed from the name")] = None,
    input_tokens: Annotated[int, typer.Option(min=0, help="The whole prompt, cached parts included")] = 0,
    output_tokens: Annotated[int, typer.Option(min=0, help="Everything generated")] = 0,
    cache_read_tokens: Annotated[int, typer.Option(min=0, help="Of the prompt, read from the cache")] = 0,
    cache_write_tokens: Annotated[int, typer.Option(min=0, help="Of the prompt, written to it")] = 0,
    reasoning_tokens: Annotated[int, typer.Option(min=0, help="Of the output, reasoning")] = 0,
    batch: Annotated[bool, typer.Option("--batch", help="The price of batch processing")] = False,
    prices: Annotated[Path | None, typer.Option(metavar="FILE", help="The site's own prices")] = None,
) -> None:
    """The exact price of a request, by part, with the price's source and date"""
    from llmops.gateway import quote
    from llmops.prices import Usage

    usage = Usage(
        input_tokens,
        output_tokens,
        cache_read_tokens=cache_read_tokens,
        cache_write_tokens=cache_write_tokens,
        reasoning_tokens=reasoning_tokens,
    )
    spec = quote.QuoteSpec(model, provider, usage, prices, batch)
    answer.run(
        lambda _progress: quote.quote(spec),
        quote.view,
    )
