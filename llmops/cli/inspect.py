"""``llmops inspect``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from llmops.cli import options as opt


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command("inspect", epilog="Example: llmops inspect ./SmolLM2-135M")(inspect)


@opt.shared
def inspect(
    answer: opt.Answer,
    path: Annotated[
        Path,
        typer.Argument(metavar="DIR|FILE", help="A checkpoint directory, a .safetensors, .gguf, .onnx or .plan file"),
    ],
) -> None:
    """Facts of a checkpoint, read from its headers alone"""
    from llmops.checkpoint import inspect as checkpoint

    answer.run(
        lambda _progress: checkpoint.inspect(path),
        checkpoint.view,
    )
