"""``llmops cost report|forecast|compare|choose|reconcile``: over the gateway's ledger. Added to the group of ``cost.py``."""

from __future__ import annotations

import dataclasses
from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from llmops.cli import options as opt

Books = Annotated[
    str | None, typer.Option("--books", metavar="DIR", help="The ledger's directory, or env:NAME with its URL")
]
Zone = Annotated[str, typer.Option("--time-zone", metavar="ZONE", help="Where days begin, as Asia/Tokyo")]
Prices = Annotated[Path | None, typer.Option("--prices", metavar="FILE", help="The site's own prices")]


class Form(StrEnum):
    """What a report is printed as."""

    TABLE = "table"
    CSV = "csv"
    JSON = "json"
    MD = "md"
    HTML = "html"


def register(cost: typer.Typer) -> None:
    """Add the commands to the group ``cost``."""
    cost.command("report", epilog="Example: llmops cost report --since 7d --by model,day --format md")(report_)
    cost.command("forecast", epilog="Example: llmops cost forecast --budget 500")(forecast)
    cost.command(
        "compare", epilog="Example: llmops cost compare gpt-4o llama-3.1-8b --input-tokens 900 --output-tokens 300"
    )(compare)
    cost.command("choose", epilog="Example: llmops cost choose gpt-4o:3 llama-3.1-8b:1:local --tier 2 --left 0.01")(
        choose
    )
    cost.command("reconcile", epilog="Example: llmops cost reconcile usage.csv --provider openai")(reconcile)


@opt.shared
def report_(
    answer: opt.Answer,
    since: Annotated[str, typer.Option(metavar="TIME", help="24h, 7d, 2w ago, or 2026-11-01")] = "7d",
    until: Annotated[str | None, typer.Option(metavar="TIME", help="The same; now by default")] = None,
    by: Annotated[
        str, typer.Option(metavar="A,B", help="model key team tenant provider target day hour month cache local")
    ] = "model",
    time_zone: Zone = "UTC",
    against: Annotated[
        str | None, typer.Option(metavar="MODEL", help="Compare local serving with this cloud price")
    ] = None,
    form: Annotated[
        Form, typer.Option("--format", metavar="FORM", help="On stdout: table, csv, json, md or html")
    ] = Form.TABLE,
    csv: Annotated[Path | None, typer.Option("--csv", metavar="FILE", help="Write every group as CSV")] = None,
    books: Books = None,
    prices: Prices = None,
) -> None:
    """What was spent, on what, and what caching and local serving saved"""
    from llmops.gateway.money import report as package

    answer = dataclasses.replace(answer, json=answer.json or form is Form.JSON)
    spec = package.CostReportSpec(books, since, until, by, time_zone, against, prices, csv)
    answer.run(
        lambda _progress: package.cost_report(spec),
        package.view,
        printed=package.PRINTED.get(form.value),
    )


@opt.shared
def forecast(
    answer: opt.Answer,
    budget: Annotated[float | None, typer.Option(min=0, metavar="USD", help="Exit 1 where it will not suffice")] = None,
    time_zone: Zone = "UTC",
    books: Books = None,
) -> None:
    """What this month will cost, with the range that the days so far support"""
    from decimal import Decimal

    from llmops.gateway.money import forecast as package

    amount = None if budget is None else Decimal(repr(budget))
    answer.run(
        lambda _progress: package.forecast_cost(books, time_zone, amount),
        package.view,
    )


@opt.shared
def compare(
    answer: opt.Answer,
    models: Annotated[list[str], typer.Argument(metavar="MODEL", help="Names as providers write them")],
    requests: Annotated[int, typer.Option(min=1, help="How many")] = 1000,
    input_tokens: Annotated[int | None, typer.Option("--input-tokens", min=0, help="Input tokens of one")] = None,
    output_tokens: Annotated[int, typer.Option("--output-tokens", min=0, help="Output tokens of one")] = 0,
    cached: Annotated[float, typer.Option(min=0, max=1, help="Share of the input from the prompt cache")] = 0.0,
    since: Annotated[str, typer.Option(metavar="TIME", help="Without --input-tokens: the ledger's load since")] = "7d",
    books: Books = None,
    prices: Prices = None,
) -> None:
    """The same workload on several models: one you describe, or the one you had"""
    from llmops.gateway.money import compare as package

    given = package.Workload.of(requests, input_tokens, output_tokens, cached)
    spec = package.CompareSpec(tuple(models), given, books, since, prices)
    answer.run(
        lambda _progress: package.compare_models(spec),
        package.view,
    )


@opt.shared
def choose(
    answer: opt.Answer,
    models: Annotated[list[str], typer.Argument(metavar="MODEL", help="NAME[:TIER][:local]")],
    tier: Annotated[int, typer.Option(min=0, help="At least this quality")] = 1,
    input_tokens: Annotated[int, typer.Option("--input-tokens", min=0, help="Input tokens at most")] = 1000,
    output_tokens: Annotated[int, typer.Option("--output-tokens", min=0, help="Output tokens at most")] = 1000,
    left: Annotated[float | None, typer.Option(min=0, metavar="USD", help="What the budget has left")] = None,
    prices: Prices = None,
) -> None:
    """Which model the gateway would choose within a budget, and why"""
    from decimal import Decimal

    from llmops.gateway.money import choose as package

    amount = None if left is None else Decimal(repr(left))
    spec = package.ChooseSpec(tuple(models), tier, input_tokens, output_tokens, amount, prices)
    answer.run(
        lambda _progress: package.explain_choice(spec),
        package.view,
    )


@opt.shared
def reconcile(
    answer: opt.Answer,
    file: Annotated[Path, typer.Argument(metavar="FILE", help="OpenAI's or Anthropic's export, CSV or JSON")],
    provider: Annotated[str | None, typer.Option(metavar="NAME", help="Only this provider of the ledger")] = None,
    tolerance: Annotated[float, typer.Option(min=0, max=1, help="Share that may differ")] = 0.005,
    books: Books = None,
) -> None:
    """The ledger against a provider's usage export, by day and model; exit 1 where they differ"""
    from llmops.gateway.money import reconcile as package

    answer.run(
        lambda _progress: package.reconcile(file, books, provider, tolerance),
        package.view,
    )
