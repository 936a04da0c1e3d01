"""``llmops gpus``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from llmops.cli import options as opt


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command("gpus", epilog="Example: llmops gpus --json > host.json")(gpus)


@opt.shared
def gpus(
    answer: opt.Answer,
    host: Annotated[
        Path | None, typer.Option("--host", metavar="FILE", help="Show a machine described in a file")
    ] = None,
    gpu: Annotated[
        str | None, typer.Option("--gpu", metavar="LIST", help="Show one on paper, such as 'A100-40GB*4,nvlink'")
    ] = None,
) -> None:
    """The machine's GPUs and their links, its processors and memory"""
    from llmops.hardware import report as hardware

    answer.run(
        lambda _progress: hardware.show(host, gpu),
        hardware.view,
    )
