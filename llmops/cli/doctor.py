"""``llmops doctor``."""

from __future__ import annotations

from typing import Annotated

import typer

from llmops.cli import options as opt


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command("doctor", epilog="Example: llmops doctor --json > state.json")(doctor)


@opt.shared
def doctor(
    answer: opt.Answer,
    fix: Annotated[bool, typer.Option("--fix", help="Apply safe local remedies after showing them")] = False,
) -> None:
    """Examine this machine: driver, GPUs, limits, packages, ports"""
    from llmops.diagnosis import command

    answer.run(
        lambda progress: command.doctor(progress, fix=fix),
        command.view,
    )
