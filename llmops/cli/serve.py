"""``llmops serve``."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated, Any, Literal

import typer

from llmops.cli import options as opt
from llmops.cli.panels import PanelCommand

_MODEL, _ENGINE, _ENDPOINT, _RUNNING = "Model", "Engine", "Endpoint", "While it runs"
_TRITON = "With --engine triton"


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command(
        "serve",
        epilog="Example: llmops serve ./SmolLM2-135M --port 8000 -- --seed 1",
        context_settings={"allow_extra_args": True},
        cls=PanelCommand,
    )(serve)


@opt.shared
def serve(
    answer: opt.Answer,
    context: typer.Context,
    model: Annotated[
        Path | None, typer.Argument(metavar="MODEL", help="A checkpoint directory or a .gguf file")
    ] = None,
    config: Annotated[
        Path | None,
        typer.Option(
            "--config", "-c", metavar="FILE", help="Several models, as in configs/serve.yaml", rich_help_panel=_MODEL
        ),
    ] = None,
    name: Annotated[str | None, typer.Option(help="The model name that clients use", rich_help_panel=_MODEL)] = None,
    max_model_len: Annotated[
        int | None, typer.Option(metavar="N", help="Longest prompt plus answer, tokens", rich_help_panel=_MODEL)
    ] = None,
    max_num_seqs: Annotated[
        int | None, typer.Option(metavar="N", help="Requests in a batch", rich_help_panel=_MODEL)
    ] = None,
    dtype: Annotated[
        Literal["auto", "bfloat16", "float16", "float32"],
        typer.Option(metavar="TYPE", show_default=False, help="bfloat16, float16 or float32", rich_help_panel=_MODEL),
    ] = "auto",
    quantization: Annotated[
        str | None, typer.Option(metavar="NAME", help="While loading: bnb-nf4, bnb-int8, fp8", rich_help_panel=_MODEL)
    ] = None,
    lora: Annotated[
        list[str] | None, typer.Option(metavar="NAME=DIR", help="Adapter (vllm); repeatable", rich_help_panel=_MODEL)
    ] = None,
    max_lora_rank: Annotated[int | None, typer.Option(metavar="N", hidden=True, rich_help_panel=_MODEL)] = None,
    chat_template: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Instead of the model's own", rich_help_panel=_MODEL)
    ] = None,
    engine: Annotated[
        Literal["auto", "llamacpp", "transformers", "vllm", "triton", "ray", "trtllm"],
        typer.Option(
            metavar="ENGINE",
            show_default=False,
            help="llamacpp, transformers, vllm, triton, ray or trtllm; default: what fits",
            rich_help_panel=_ENGINE,
        ),
    ] = "auto",
    engine_python: Annotated[
        Path | None, typer.Option(metavar="PYTHON", help="Interpreter of the engine", rich_help_panel=_ENGINE)
    ] = None,
    image: Annotated[
        str | None, typer.Option(metavar="NAME", help="vllm, triton: container image", rich_help_panel=_ENGINE)
    ] = None,
    threads: Annotated[
        int | None, typer.Option(metavar="N", help="CPU threads; default: the free cores", rich_help_panel=_ENGINE)
    ] = None,
    kv_cache_gib: Annotated[
        float | None, typer.Option(metavar="GIB", help="KV cache memory on the CPU", rich_help_panel=_ENGINE)
    ] = None,
    gpu_memory_utilization: Annotated[
        float | None, typer.Option(metavar="SHARE", help="Of each GPU's memory, as in 0.9", rich_help_panel=_ENGINE)
    ] = None,
    tensor_parallel: Annotated[
        int | None, typer.Option(metavar="N", help="GPUs that share one copy", rich_help_panel=_ENGINE)
    ] = None,
    replicas: Annotated[
        int | None, typer.Option(metavar="N", help="Copies of the model; ray", rich_help_panel=_ENGINE)
    ] = None,
    eager: Annotated[
        bool | None, typer.Option("--eager/--compile", help="vllm; default: eager on the CPU", rich_help_panel=_ENGINE)
    ] = None,
    host: Annotated[str, typer.Option(help="Address to listen on", rich_help_panel=_ENDPOINT)] = "127.0.0.1",
    port: Annotated[int, typer.Option(help="0 picks a free one", rich_help_panel=_ENDPOINT)] = 8000,
    api_key_env: Annotated[
        str | None, typer.Option(metavar="VAR", help="Variable with the clients' key", rich_help_panel=_ENDPOINT)
    ] = None,
    ready_file: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Written when requests can be sent", rich_help_panel=_ENDPOINT)
    ] = None,
    ready_timeout: Annotated[float | None, typer.Option(metavar="S", hidden=True, rich_help_panel=_ENDPOINT)] = None,
    heal: Annotated[
        bool,
        typer.Option(
            "--heal/--no-heal",
            show_default=False,
            help="Restart with advised flags (default)",
            rich_help_panel=_RUNNING,
        ),
    ] = True,
    log: Annotated[
        Path | None, typer.Option(metavar="FILE", help="The engine's output", rich_help_panel=_RUNNING)
    ] = None,
    detach: Annotated[
        bool, typer.Option("--detach", help="Return when it answers; then: llmops ps", rich_help_panel=_RUNNING)
    ] = False,
    gateway: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="With -c: write a gateway config for all", rich_help_panel=_RUNNING),
    ] = None,
    repository: Annotated[
        Path | None,
        typer.Option(metavar="DIR", help="Where the model repository is or will be", rich_help_panel=_TRITON),
    ] = None,
    mode: Annotated[
        Literal["auto", "local", "docker"] | None,
        typer.Option(metavar="MODE", help="auto, local or docker", rich_help_panel=_TRITON),
    ] = None,
    triton_backend: Annotated[
        Literal["auto", "python", "onnxruntime", "tensorrt", "vllm"] | None,
        typer.Option(metavar="NAME", help="python, onnxruntime, tensorrt or vllm", rich_help_panel=_TRITON),
    ] = None,
    http_port: Annotated[
        int | None, typer.Option(metavar="N", help="Like --port", hidden=True, rich_help_panel=_TRITON)
    ] = None,
    grpc_port: Annotated[
        int | None, typer.Option(metavar="N", help="8001 by default; --metrics-port: 8002", rich_help_panel=_TRITON)
    ] = None,
    metrics_port: Annotated[
        int | None, typer.Option(metavar="N", help="8002 by default", hidden=True, rich_help_panel=_TRITON)
    ] = None,
    queue_delay_ms: Annotated[
        float | None, typer.Option(metavar="MS", help="Longest wait for a batch (100)", rich_help_panel=_TRITON)
    ] = None,
    preferred: Annotated[
        str | None, typer.Option(metavar="N,N", help="Batch sizes that are run at once (8,16)", rich_help_panel=_TRITON)
    ] = None,
    instances: Annotated[
        int | None, typer.Option(metavar="N", help="Copies of the model", rich_help_panel=_TRITON)
    ] = None,
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
