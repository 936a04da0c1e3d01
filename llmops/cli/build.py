"""``llmops build``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import typer

from llmops.cli import options as opt

build = typer.Typer(
    name="build",
    help="Build an engine for one kind of GPU",
    epilog="Example: llmops build tensorrt ./llama-onnx -o llama.plan --batch 1:8:16 --seq 1:512:2048",
    no_args_is_help=True,
)


def register(app: typer.Typer) -> None:
    """Add the commands."""
    app.add_typer(build)


@build.command("tensorrt", epilog="Example: llmops build tensorrt ./minilm-onnx -o minilm.plan --backend rtx")
@opt.shared
def tensorrt(
    answer: opt.Answer,
    onnx: Annotated[Path, typer.Argument(metavar="ONNX", help="A .onnx file or an exported directory")],
    out: Annotated[Path, typer.Option("--out", "-o", metavar="ENGINE", help="File to write; ENGINE.json beside it")],
    batch: Annotated[str | None, typer.Option(metavar="MIN:OPT:MAX", help="Rows, such as 1:8:16")] = None,
    seq: Annotated[str | None, typer.Option(metavar="MIN:OPT:MAX", help="Tokens, such as 1:512:2048")] = None,
    past: Annotated[
        str | None, typer.Option(metavar="MIN:OPT:MAX", help="Cached tokens, with a KV cache; default: --seq")
    ] = None,
    min: Annotated[list[str] | None, typer.Option(metavar="NAME:1x1", help="Least shape; repeatable")] = None,
    opt_: Annotated[list[str] | None, typer.Option("--opt", metavar="NAME:8x512", help="Usual shape")] = None,
    max: Annotated[list[str] | None, typer.Option(metavar="NAME:16x2048", help="Largest shape")] = None,
    profile: Annotated[
        list[str] | None, typer.Option(metavar="SHAPES", help="All inputs: 1x1/8x512/16x2048; repeatable")
    ] = None,
    workspace: Annotated[str, typer.Option(metavar="SIZE", help="Device memory a layer may use")] = "16GiB",
    precision: Annotated[
        Literal["as-is", "fp16", "bf16", "fp8"],
        typer.Option(help="Of matrix products: as-is, fp16, bf16 or fp8", metavar="TYPE"),
    ] = "as-is",
    opt_level: Annotated[int | None, typer.Option(metavar="0-5", help="Effort of the builder; 3 by default")] = None,
    timing_cache: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Kernel times, read and written; needs a GPU")
    ] = None,
    version_compatible: Annotated[
        bool, typer.Option("--version-compatible", help="Loads in later versions too")
    ] = False,
    hardware_compatible: Annotated[bool, typer.Option("--hardware-compatible", help="Runs on other GPUs too")] = False,
    refit: Annotated[bool, typer.Option("--refit", help="Weights can be replaced")] = False,
    strip: Annotated[bool, typer.Option("--strip", help="Leave the weights out of the file")] = False,
    layer_info: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Write what layers became; needs a GPU")
    ] = None,
    backend: Annotated[Literal["auto", "tensorrt", "rtx"], typer.Option(help="rtx needs no GPU")] = "auto",
    compute_capability: Annotated[list[str] | None, typer.Option(metavar="8.9", help="For rtx; repeatable")] = None,
    force: Annotated[bool, typer.Option("--force", help="Replace ENGINE")] = False,
    dry_run: opt.DryRun = False,
) -> None:
    """Build a TensorRT engine from an ONNX file, without a GPU too (--backend rtx)"""
    from llmops import export as package

    spec = package.EngineBuildSpec(
        onnx=onnx,
        out=out,
        min=tuple(min or ()),
        opt=tuple(opt_ or ()),
        max=tuple(max or ()),
        batch=batch,
        seq=seq,
        past=past,
        profiles=tuple(profile or ()),
        workspace=workspace,
        precision=precision,
        opt_level=opt_level,
        timing_cache=timing_cache,
        version_compatible=version_compatible,
        hardware_compatible=hardware_compatible,
        refit=refit,
        strip=strip,
        layer_info=layer_info,
        backend=backend,
        compute_capabilities=tuple(compute_capability or ()),
        force=force,
    )
    answer.run(
        lambda progress: package.build_tensorrt(spec, progress, dry_run=dry_run),
        package.view_tensorrt,
    )
