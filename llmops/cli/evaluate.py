"""``llmops evaluate``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from llmops.cli import options as opt


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command("evaluate", epilog="Example: llmops evaluate smol-gptq4 --against ./SmolLM2-135M")(evaluate)


@opt.shared
def evaluate(
    answer: opt.Answer,
    model: Annotated[str, typer.Argument(metavar="MODEL", help="The changed model's directory")],
    against: Annotated[str, typer.Option(metavar="BASE", help="The original's directory")],
    bits: Annotated[int | None, typer.Option(help="Default thresholds of 4 or 8 bit; read from MODEL")] = None,
    max_kl: Annotated[float | None, typer.Option(help="Largest mean KL divergence")] = None,
    max_ppl_ratio: Annotated[float | None, typer.Option(help="Largest perplexity ratio")] = None,
    min_agreement: Annotated[float | None, typer.Option(help="Least top-1 agreement, 0 to 1")] = None,
    eval_text: Annotated[Path | None, typer.Option(metavar="FILE", help="Held-out text")] = None,
    chunks: Annotated[int, typer.Option(help="Chunks of it to compare on")] = 8,
    chunk_tokens: Annotated[int, typer.Option(help="Tokens of a chunk")] = 512,
    engine_python: Annotated[Path | None, typer.Option(metavar="FILE", help="Interpreter that loads both")] = None,
    device: Annotated[str, typer.Option(help="cpu or cuda:N")] = "auto",
    threads: Annotated[int | None, typer.Option(help="CPU threads")] = None,
) -> None:
    """Compare a model with its original: perplexity, KL, agreement"""
    from llmops import quantize as package

    spec = package.EvaluateSpec(
        model=model,
        against=against,
        bits=bits,
        quality=package.GateSpec(
            eval_text=eval_text,
            chunks=chunks,
            chunk_tokens=chunk_tokens,
            max_kl=max_kl,
            max_ppl_ratio=max_ppl_ratio,
            min_agreement=min_agreement,
        ),
        engine_python=engine_python,
        device=device,
        threads=threads,
    )
    answer.run(
        lambda progress: package.evaluate(spec, progress),
        package.evaluate_view,
    )
