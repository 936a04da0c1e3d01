"""``llmops quantize``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from llmops.cli import options as opt


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command("quantize", epilog="Example: llmops quantize ./SmolLM2-135M -o smol-gptq4 --method gptq")(quantize)


@opt.shared
def quantize(
    answer: opt.Answer,
    model: Annotated[str, typer.Argument(metavar="MODEL", help="Directory, .gguf file or hub id")],
    out: Annotated[Path, typer.Option("--out", "-o", metavar="DIR", help="Directory to make")],
    method: Annotated[str | None, typer.Option(help="gptq awq w8a8 fp8 bnb-nf4 bnb-int8")] = None,
    bits: Annotated[int | None, typer.Option(help="4 or 8, where the method has both")] = None,
    group_size: Annotated[int | None, typer.Option(help="32, 64, 128, -1: a row; else what fits")] = None,
    desc_act: Annotated[bool, typer.Option("--desc-act", help="GPTQ activation order")] = False,
    calibration: Annotated[str, typer.Option(metavar="FILE", help="Text, or .jsonl")] = "builtin:ja-en",
    samples: Annotated[int, typer.Option(help="Rows of calibration text")] = 128,
    seq_len: Annotated[int, typer.Option(help="Tokens of a row")] = 512,
    seed: Annotated[int, typer.Option(help="Order of the text")] = 0,
    engine: Annotated[str, typer.Option(help="Library that does it")] = "auto",
    engine_python: Annotated[Path | None, typer.Option(metavar="FILE", help="Interpreter of the engine")] = None,
    device: Annotated[str, typer.Option(help="cpu or cuda:N")] = "auto",
    threads: Annotated[int | None, typer.Option(help="CPU threads")] = None,
    target: Annotated[str | None, typer.Option(help="Must load in vllm, transformers, triton")] = None,
    tensor_parallel: Annotated[list[int] | None, typer.Option(help="Must divide so; repeatable")] = None,
    gate: Annotated[bool, typer.Option("--gate/--no-gate", help="Compare with the original")] = True,
    max_kl: Annotated[float | None, typer.Option(help="Largest mean KL divergence")] = None,
    max_ppl_ratio: Annotated[float | None, typer.Option(help="Largest perplexity ratio")] = None,
    min_agreement: Annotated[float | None, typer.Option(help="Least top-1 agreement, 0 to 1")] = None,
    eval_text: Annotated[Path | None, typer.Option(metavar="FILE", help="Held-out text")] = None,
    chunks: Annotated[int, typer.Option(help="Chunks of it to compare on")] = 8,
    chunk_tokens: Annotated[int, typer.Option(help="Tokens of a chunk")] = 512,
    model_card: Annotated[bool, typer.Option("--model-card", help="Also write README.md")] = False,
    force: Annotated[bool, typer.Option("--force", help="Replace an existing --out")] = False,
    dry_run: opt.DryRun = False,
) -> None:
    """Quantise a checkpoint, and keep it only if it is still good"""
    from llmops import quantize as package

    spec = package.QuantizeSpec(
        model=model,
        out=out,
        method=method,
        bits=bits,
        group_size=group_size,
        desc_act=desc_act,
        calibration=calibration,
        samples=samples,
        seq_len=seq_len,
        seed=seed,
        engine=engine,
        engine_python=engine_python,
        device=device,
        target=target,
        tensor_parallel=tuple(tensor_parallel or (1,)),
        gate=gate,
        quality=package.GateSpec(
            eval_text=eval_text,
            chunks=chunks,
            chunk_tokens=chunk_tokens,
            max_kl=max_kl,
            max_ppl_ratio=max_ppl_ratio,
            min_agreement=min_agreement,
        ),
        threads=threads,
        model_card=model_card,
        force=force,
    )
    answer.run(
        lambda progress: package.plan_or_quantize(spec, progress, dry_run=dry_run),
        package.view,
    )
