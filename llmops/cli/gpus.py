"""``llmops gpus``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from llmops.cli import options as opt


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command("gpus", epilog="Example: llmops gpus --json > host.json")(gpus)


def gpus(
    host: Annotated[
        Path | None, typer.Option("--host", metavar="FILE", help="Show a machine described in a file")
    ] = None,
    gpu: Annotated[
        str | None, typer.Option("--gpu", metavar="LIST", help="Show one on paper, such as 'A100-40GB*4,nvlink'")
    ] = None,
    json: opt.Json = False,
    report: opt.ReportFiles = None,
    quiet: opt.Quiet = False,
    verbose: opt.Verbose = 0,
) -> None:
    """The machine's GPUs, how they are linked, and its CPU, memory and limits"""
    from llmops.cli import output
    from llmops.hardware import report as hardware

    output.run(
        "gpus",
        lambda _progress: hardware.show(host, gpu),
        hardware.view,
        json=json,
        report=report,
        quiet=quiet,
        verbose=verbose,
    )
