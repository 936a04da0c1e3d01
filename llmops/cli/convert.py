"""``llmops convert``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from llmops.cli import options as opt


def register(app: typer.Typer) -> None:
    """Add the command group."""
    group = typer.Typer(
        help="Convert a checkpoint to another format",
        epilog="Example: llmops convert gguf model-Q4_K_M.gguf -o ./model",
        no_args_is_help=True,
        rich_markup_mode=None,
    )
    group.command("gguf", epilog="Example: llmops convert gguf model-Q4_K_M.gguf -o ./model")(gguf)
    app.add_typer(group, name="convert")


@opt.shared
def gguf(
    answer: opt.Answer,
    file: Annotated[Path, typer.Argument(metavar="FILE", help="A .gguf file")],
    out: Annotated[Path, typer.Option("--out", "-o", metavar="DIR", help="The directory to make")],
    dtype: Annotated[str, typer.Option(metavar="TYPE", help="bfloat16, float16 or float32")] = "bfloat16",
    force: Annotated[bool, typer.Option("--force", help="Replace DIR")] = False,
) -> None:
    """GGUF to a Hugging Face directory with safetensors"""
    from llmops.checkpoint import convert

    answer.run(
        lambda progress: convert.convert_gguf(file, out, progress, dtype=dtype, force=force),
        convert.view,
    )
