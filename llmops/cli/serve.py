"""``llmops serve``."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated, Any, Literal

import typer

from llmops.cli import options as opt


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command(
        "serve",
        epilog="Example: llmops serve ./SmolLM2-135M --port 8000 -- --seed 1",
        context_settings={"allow_extra_args": True},
    )(serve)


@opt.shared
def serve(
    answer: opt.Answer,
    context: typer.Context,
    model: Annotated[
        Path | None, typer.Argument(metavar="MODEL", help="A checkpoint directory or a .gguf file")
    ] = None,
    config: Annotated[
        Path | None, typer.Option("--config", "-c", metavar="FILE", help="Several models: see docs/serve.md")
    ] = None,
    engine: Annotated[
        Literal["auto", "llamacpp", "transformers", "vllm", "triton", "ray", "trtllm"],
        typer.Option(
            metavar="ENGINE",
            show_default=False,
            help="llamacpp, transformers, vllm, triton, ray, trtllm; default: fitting",
        ),
    ] = "auto",
    name: Annotated[str | None, typer.Option(help="The model name that clients use")] = None,
    host: Annotated[str, typer.Option(help="Address to listen on")] = "127.0.0.1",
    port: Annotated[int, typer.Option(help="0 picks a free one")] = 8000,
    max_model_len: Annotated[int | None, typer.Option(metavar="N", help="Longest prompt plus answer, tokens")] = None,
    max_num_seqs: Annotated[int | None, typer.Option(metavar="N", help="Requests in a batch")] = None,
    dtype: Annotated[
        Literal["auto", "bfloat16", "float16", "float32"],
        typer.Option(metavar="TYPE", show_default=False, help="bfloat16, float16 or float32"),
    ] = "auto",
    quantization: Annotated[
        str | None, typer.Option(metavar="NAME", help="While loading: bnb-nf4, bnb-int8, fp8")
    ] = None,
    threads: Annotated[int | None, typer.Option(metavar="N", help="CPU threads; default: the free cores")] = None,
    kv_cache_gib: Annotated[float | None, typer.Option(metavar="GIB", help="KV cache memory on the CPU")] = None,
    gpu_memory_utilization: Annotated[float | None, typer.Option(metavar="SHARE")] = None,
    tensor_parallel: Annotated[int | None, typer.Option(metavar="N", help="GPUs that share one copy")] = None,
    lora: Annotated[list[str] | None, typer.Option(metavar="NAME=DIR", help="Adapter; repeatable; vllm")] = None,
    max_lora_rank: Annotated[int | None, typer.Option(metavar="N", hidden=True)] = None,
    eager: Annotated[bool | None, typer.Option("--eager/--compile", help="vllm; default: eager on the CPU")] = None,
    chat_template: Annotated[Path | None, typer.Option(metavar="FILE", help="Instead of the model's own")] = None,
    engine_python: Annotated[Path | None, typer.Option(metavar="PYTHON", help="Interpreter of the engine")] = None,
    api_key_env: Annotated[str | None, typer.Option(metavar="VAR", help="Variable with the clients' key")] = None,
    replicas: Annotated[int | None, typer.Option(metavar="N", help="Copies of the model; ray")] = None,
    ready_timeout: Annotated[float | None, typer.Option(metavar="S", hidden=True)] = None,
    ready_file: Annotated[Path | None, typer.Option(metavar="FILE", help="Written when requests can be sent")] = None,
    heal: Annotated[
        bool, typer.Option("--heal/--no-heal", show_default=False, help="Restart with advised flags (default)")
    ] = True,
    log: Annotated[Path | None, typer.Option(metavar="FILE", help="The engine's output")] = None,
    detach: Annotated[bool, typer.Option("--detach", help="Return when it answers; then: llmops ps")] = False,
    gateway: Annotated[
        Path | None, typer.Option(metavar="FILE", help="With -c: a gateway config for all, to write")
    ] = None,
    repository: Annotated[
        Path | None, typer.Option(metavar="DIR", help="triton: where the model repository is or will be")
    ] = None,
    mode: Annotated[
        Literal["auto", "local", "docker"] | None, typer.Option(metavar="MODE", help="triton: auto, local or docker")
    ] = None,
    triton_backend: Annotated[
        Literal["auto", "python", "onnxruntime", "tensorrt", "vllm"] | None,
        typer.Option(metavar="NAME", help="triton: python, onnxruntime, tensorrt or vllm"),
    ] = None,
    http_port: Annotated[int | None, typer.Option(metavar="N", help="triton: like --port")] = None,
    grpc_port: Annotated[int | None, typer.Option(metavar="N", help="triton: 8001 by default")] = None,
    metrics_port: Annotated[int | None, typer.Option(metavar="N", help="triton: 8002 by default")] = None,
    queue_delay_ms: Annotated[
        float | None, typer.Option(metavar="MS", help="triton: longest wait for a batch (100)")
    ] = None,
    preferred: Annotated[str | None, typer.Option(metavar="N,N", help="triton: batches run at once (8,16)")] = None,
    instances: Annotated[int | None, typer.Option(metavar="N", help="triton: copies of the model")] = None,
    image: Annotated[str | None, typer.Option(metavar="NAME", help="vllm, triton: container image")] = None,
    dry_run: opt.DryRun = False,
) -> None:
    """Serve a model over OpenAI's API; words after -- go to the engine"""
    from llmops import serve as package

    for_triton: dict[str, Any] = {
        "repository": repository,
        "mode": mode,
        "middle": triton_backend,
        "http_port": http_port,
        "grpc_port": grpc_port,
        "metrics_port": metrics_port,
        "queue_delay_ms": queue_delay_ms,
        "preferred": preferred,
        "instances": instances,
    }
    values: dict[str, Any] = {
        "model": model,
        "engine": engine,
        "name": name,
        "host": host,
        "port": port,
        "max_model_len": max_model_len,
        "max_num_seqs": max_num_seqs,
        "dtype": dtype,
        "quantization": quantization,
        "threads": threads,
        "kv_cache_gib": kv_cache_gib,
        "gpu_memory_utilization": gpu_memory_utilization,
        "tensor_parallel": tensor_parallel,
        "loras": tuple(lora or ()),
        "max_lora_rank": max_lora_rank,
        "enforce_eager": eager,
        "chat_template": chat_template,
        "engine_python": engine_python,
        "image": image,
        "api_key_env": api_key_env,
        "replicas": replicas,
        "ready_timeout_s": ready_timeout,
        "log": log,
        "extra": tuple(context.args),
    }
    if engine == "triton":
        from llmops.serve import triton

        wanted = {**values, **for_triton, "config": config}
        if detach:
            answer.run(
                lambda progress: triton.serve_detached(triton.spec_from(wanted), sys.argv, progress),
                package.view_started,
            )
        answer.run(
            lambda progress: triton.serve(triton.spec_from(wanted), progress, dry_run=dry_run, ready_file=ready_file),
            triton.view,
        )
    if config is not None:
        answer.run(
            lambda progress: package.serve_fleet(
                config, progress, dry_run=dry_run, ready_file=ready_file, heal=heal, gateway=gateway
            ),
            package.view_fleet,
        )
    if detach:
        words = sys.argv
        answer.run(
            lambda progress: package.serve_detached(package.spec_from(values, for_triton), words, progress),
            package.view_started,
        )
    answer.run(
        lambda progress: package.serve(
            package.spec_from(values, for_triton), progress, dry_run=dry_run, ready_file=ready_file, heal=heal
        ),
        package.view,
    )
