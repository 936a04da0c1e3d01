"""``llmops config``."""

from __future__ import annotations

from typing import Annotated

import typer

from llmops.cli import options as opt


def register(app: typer.Typer) -> None:
    """Add the command group."""
    group = typer.Typer(
        help="Show how llmops is configured", epilog="Example: llmops config show --origin", no_args_is_help=True
    )
    group.command("show", epilog="Example: llmops config show --origin")(show)
    app.add_typer(group, name="config")


@opt.shared
def show(
    answer: opt.Answer,
    origin: Annotated[bool, typer.Option("--origin", help="Say where each value comes from")] = False,
) -> None:
    """Every setting, its value, and with --origin where it comes from"""
    from llmops import config_report

    answer.run(
        lambda _progress: config_report.collect(),
        lambda collected: config_report.view(collected, origin=origin),
    )
