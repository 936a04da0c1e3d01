"""``llmops doctor``."""

from __future__ import annotations

from typing import Annotated

import typer

from llmops.cli import options as opt


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command("doctor", epilog="Example: llmops doctor --json > state.json")(doctor)


def doctor(
    fix: Annotated[bool, typer.Option("--fix", help="Apply safe local remedies after showing them")] = False,
    json: opt.Json = False,
    report: opt.ReportFiles = None,
    quiet: opt.Quiet = False,
    verbose: opt.Verbose = 0,
) -> None:
    """Examine this machine: driver, GPUs, memory, limits, packages, ports, hub"""
    from llmops.cli import output
    from llmops.diagnosis import command

    output.run(
        "doctor",
        lambda progress: command.doctor(progress, fix=fix),
        command.view,
        json=json,
        report=report,
        quiet=quiet,
        verbose=verbose,
    )
