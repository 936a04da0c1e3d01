"""``llmops plan``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from llmops.cli import options as opt


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command("plan", epilog="Example: llmops plan ./Llama-3.1-8B --gpu 'A100-40GB*4,nvlink' --explain")(plan)


@opt.shared
def plan(
    answer: opt.Answer,
    models: Annotated[
        list[Path] | None, typer.Argument(metavar="MODEL", help="Checkpoint directories or files")
    ] = None,
    config: Annotated[
        Path | None, typer.Option("--config", "-c", metavar="FILE", help="Instead: a site, such as configs/hybrid.yaml")
    ] = None,
    host: Annotated[Path | None, typer.Option("--host", metavar="FILE", help="Plan for a machine in a file")] = None,
    gpu: Annotated[
        str | None, typer.Option("--gpu", metavar="LIST", help="… or on paper: 'H100-80GB*4,nvlink'")
    ] = None,
    engine: Annotated[str | None, typer.Option(metavar="NAME", help="vllm, transformers or llamacpp")] = None,
    engine_version: Annotated[str | None, typer.Option(metavar="X.Y.Z", help="Memory rules of this vLLM")] = None,
    goal: Annotated[
        str, typer.Option("--for", metavar="GOAL", show_default=False, help="latency, throughput or context")
    ] = "throughput",
    concurrency: Annotated[int | None, typer.Option(metavar="N", help="Full-length requests at once")] = None,
    max_model_len: Annotated[int | None, typer.Option(metavar="TOKENS", help="Context length")] = None,
    tensor_parallel: Annotated[int | None, typer.Option(metavar="N", help="Fix the tensor-parallel degree")] = None,
    pipeline_parallel: Annotated[int | None, typer.Option(metavar="N", help="Fix the pipeline depth")] = None,
    replicas: Annotated[int | None, typer.Option(metavar="N", help="Fix the number of replicas")] = None,
    gpu_memory_utilization: Annotated[float | None, typer.Option(metavar="SHARE", help="Fix the share taken")] = None,
    max_num_seqs: Annotated[int | None, typer.Option(metavar="N", help="Fix the sequences in a step")] = None,
    max_num_batched_tokens: Annotated[int | None, typer.Option(metavar="N", help="Fix the tokens in a step")] = None,
    dtype: Annotated[
        str, typer.Option(metavar="TYPE", show_default=False, help="bfloat16, float16 or float32")
    ] = "auto",
    kv_cache_dtype: Annotated[str | None, typer.Option(metavar="TYPE", help="auto or fp8")] = None,
    quantization: Annotated[str | None, typer.Option(metavar="NAME", help="fp8 or bitsandbytes while loading")] = None,
    quantize: Annotated[
        str, typer.Option(metavar="WHEN", show_default=False, help="allow: when needed; never (default)")
    ] = "never",
    weights_gib: Annotated[float | None, typer.Option(metavar="GIB", help="Weights on one GPU, when known")] = None,
    lora: Annotated[list[str] | None, typer.Option(metavar="NAME=DIR", help="Serve an adapter too")] = None,
    threads: Annotated[int | None, typer.Option(metavar="N", help="Threads on the CPU")] = None,
    enforce_eager: Annotated[bool, typer.Option("--enforce-eager", help="No CUDA graphs")] = False,
    explain: Annotated[bool, typer.Option("--explain", help="Show every term with its source")] = False,
) -> None:
    """Decide how to serve models, on this machine or one on paper"""
    from llmops.planning.command import make_plan
    from llmops.planning.view import view

    if config is not None:
        _plan_site(answer, config, models or [], explain)
    options = {
        "engine": engine,
        "engine_version": engine_version,
        "goal": goal,
        "concurrency": concurrency,
        "max_model_len": max_model_len,
        "tensor_parallel": tensor_parallel,
        "pipeline_parallel": pipeline_parallel,
        "replicas": replicas,
        "gpu_memory_utilization": gpu_memory_utilization,
        "max_num_seqs": max_num_seqs,
        "max_num_batched_tokens": max_num_batched_tokens,
        "dtype": dtype,
        "kv_cache_dtype": kv_cache_dtype,
        "quantization": quantization,
        "quantize": quantize,
        "weights_gib": weights_gib,
        "threads": threads,
        "enforce_eager": enforce_eager,
    }
    answer.run(
        lambda _progress: make_plan(models or [], options, loras=lora or (), host_file=host, gpu=gpu, explain=explain),
        view,
    )


def _plan_site(answer: opt.Answer, config: Path, models: list[Path], explain: bool) -> None:
    from llmops.deploy import plans

    answer.run(lambda _progress: plans.plan_site(config, models, explain=explain), plans.view)
