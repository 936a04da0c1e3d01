"""``llmops diagnose``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from llmops.cli import options as opt


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command("diagnose", epilog="Example: llmops diagnose vllm.log")(diagnose)


@opt.shared
def diagnose(
    answer: opt.Answer,
    files: Annotated[
        list[Path] | None, typer.Argument(metavar="FILE|-", help="Logs of one run; none: this machine")
    ] = None,
    explain: Annotated[str | None, typer.Option("--explain", metavar="CAUSE", help="A page on one cause")] = None,
    list_: Annotated[bool, typer.Option("--list", help="All causes that it knows")] = False,
    machine: Annotated[bool, typer.Option("--machine", help="Also examine this machine")] = False,
    state: Annotated[
        Path | None, typer.Option("--state", metavar="FILE", help="A machine saved by: llmops doctor --json")
    ] = None,
    fix: Annotated[bool, typer.Option("--fix", help="Apply safe local remedies after showing them")] = False,
) -> None:
    """Root cause of a failure from its log, offline, with evidence"""
    from llmops.diagnosis import command

    request = command.Request(tuple(files or ()), explain, list_, machine, state, fix)
    answer.run(
        lambda progress: command.answer(request, progress),
        command.view,
    )
