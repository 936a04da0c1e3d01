"""``llmops inspect``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from llmops.cli import options as opt


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command("inspect", epilog="Example: llmops inspect ./SmolLM2-135M")(inspect)


def inspect(
    path: Annotated[
        Path,
        typer.Argument(metavar="DIR|FILE", help="A checkpoint directory, a .safetensors, .gguf, .onnx or .plan file"),
    ],
    json: opt.Json = False,
    report: opt.ReportFiles = None,
    quiet: opt.Quiet = False,
    verbose: opt.Verbose = 0,
) -> None:
    """Facts of a checkpoint from its headers: parameters, shape, KV cache, integrity"""
    from llmops.checkpoint import inspect as checkpoint
    from llmops.cli import output

    output.run(
        "inspect",
        lambda _progress: checkpoint.inspect(path),
        checkpoint.view,
        json=json,
        report=report,
        quiet=quiet,
        verbose=verbose,
    )
