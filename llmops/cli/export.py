"""``llmops export``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import typer

from llmops.cli import options as opt

export = typer.Typer(
    name="export",
    help="Write a checkpoint for another runtime, and prove it agrees",
    epilog="Example: llmops export onnx ./Llama-3.1-8B -o ./llama-onnx --dtype float16",
    no_args_is_help=True,
)


def register(app: typer.Typer) -> None:
    """Add the commands."""
    app.add_typer(export)


@export.command("onnx", epilog="Example: llmops export onnx ./all-MiniLM-L6-v2 -o ./minilm-onnx")
@opt.shared
def onnx(
    answer: opt.Answer,
    model: Annotated[Path, typer.Argument(metavar="MODEL", help="A Hugging Face checkpoint directory")],
    out: Annotated[Path, typer.Option("--out", "-o", metavar="DIR", help="Directory to make")],
    task: Annotated[
        Literal["auto", "causal-lm", "causal-lm-cache", "embedding", "classification"],
        typer.Option(help="causal-lm, causal-lm-cache (with the KV cache), embedding, classification", metavar="TASK"),
    ] = "auto",
    dtype: Annotated[Literal["float32", "float16", "bfloat16"], typer.Option(help="Type in the graph")] = "float32",
    batch: Annotated[str, typer.Option(metavar="MIN:MAX", help="Rows")] = "1:16",
    seq: Annotated[str, typer.Option(metavar="MIN:MAX", help="Tokens; cut to the model's limit")] = "1:2048",
    opset: Annotated[int | None, typer.Option(metavar="N", help="Operator set; the exporter's own by default")] = None,
    format: Annotated[
        Literal["onnx", "genai"], typer.Option(help="genai: onnxruntime-genai's builder, with a cache")
    ] = "onnx",
    exporter: Annotated[
        Literal["dynamo", "torchscript"], typer.Option(help="torchscript: for what dynamo cannot trace")
    ] = "dynamo",
    pooling: Annotated[
        Literal["auto", "mean", "cls", "last"], typer.Option(help="Of embeddings; auto: as the model's files say")
    ] = "auto",
    normalize: Annotated[bool | None, typer.Option(help="Scale embeddings to length 1")] = None,
    precision: Annotated[
        Literal["int4", "fp16", "fp32"] | None, typer.Option(help="Of weights, with --format genai")
    ] = None,
    check: Annotated[bool, typer.Option(help="Compare with PyTorch")] = True,
    min_agreement: Annotated[
        float | None, typer.Option(metavar="SHARE", help="Reject below this; default by type: 0.99, 0.97, 0.95")
    ] = None,
    provider: Annotated[str, typer.Option(metavar="NAME", help="ONNX Runtime provider of the check")] = "CPU",
    threads: Annotated[int | None, typer.Option(metavar="N", help="CPU threads")] = None,
    force: Annotated[bool, typer.Option("--force", help="Replace DIR")] = False,
    dry_run: opt.DryRun = False,
) -> None:
    """Export to ONNX with dynamic batch and length, and compare with PyTorch"""
    from llmops import export as package

    spec = package.OnnxSpec(
        model=model,
        out=out,
        task=task,
        dtype=dtype,
        batch=batch,
        seq=seq,
        opset=opset,
        format=format,
        exporter=exporter,
        pooling=pooling,
        normalize=normalize,
        precision=precision,
        check=check,
        min_agreement=min_agreement,
        provider=provider,
        threads=threads,
        force=force,
    )
    answer.run(
        lambda progress: package.export_onnx(spec, progress, dry_run=dry_run),
        package.view_onnx,
    )
