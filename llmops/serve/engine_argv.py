"""What each engine is told: a plan as argv and environment. Pure."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Final

from llmops.planning.argv import DEVICES, cuda_env
from llmops.planning.ray import Copies, Served, engine_kwargs, llm_config
from llmops.planning.types import ModelPlan
from llmops.serve import container
from llmops.serve.spec import ServeSpec

DEFAULT_BATCH_TOKENS: Final = 512
RAY_SERVER: Final = Path(__file__).parent / "servers" / "ray_server.py"
_QUIET: Final = {"VLLM_NO_USAGE_STATS": "1", "DO_NOT_TRACK": "1", "VLLM_LOGGING_COLOR": "0"}
# The third is Ray's only way to keep its own ports on the loopback address: a cluster of one machine, as on a desktop.
_RAY: Final = {"RAY_USAGE_STATS_ENABLED": "0", "RAY_DEDUP_LOGS": "0", "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0"}
Built = tuple[tuple[str, ...], Mapping[str, str | None]]


def _thread_variables(plan: ModelPlan) -> dict[str, str | None]:
    # Waiting threads must sleep: spinning ones starve the others on a machine that is not idle.
    return {"OMP_NUM_THREADS": str(plan.threads or 1), "OMP_WAIT_POLICY": "PASSIVE"}


def _common(spec: ServeSpec, plan: ModelPlan, port: int) -> tuple[str, ...]:
    return (
        *("--model", str(spec.model.absolute())),
        *("--served-model-name", spec.served_name),
        *("--host", spec.host),
        *("--port", str(port)),
        *("--max-model-len", str(plan.max_model_len)),
        *("--max-num-seqs", str(plan.max_num_seqs)),
        *(("--chat-template", str(spec.chat_template.absolute())) if spec.chat_template else ()),
    )


def llamacpp(spec: ServeSpec, plan: ModelPlan, python: Path, port: int) -> Built:
    """llama.cpp's server in a wheel, started by a module of ours."""
    argv = (
        *(str(python), "-m", "llmops.serve.servers.llamacpp_server"),
        *_common(spec, plan, port),
        *("--threads", str(plan.threads or 1)),
        *("--kv-tokens", str(_kv_tokens(plan))),
    )
    return argv, {}


def transformers(spec: ServeSpec, plan: ModelPlan, python: Path, port: int) -> Built:
    """Our own server over transformers' continuous batch."""
    batch_tokens = min(plan.max_num_batched_tokens or DEFAULT_BATCH_TOKENS, DEFAULT_BATCH_TOKENS)
    argv = (
        *(str(python), "-m", "llmops.serve.servers.transformers_server"),
        *_common(spec, plan, port),
        *("--dtype", plan.dtype),
        *(("--quantization", spec.quantization) if spec.quantization else ()),
        *("--threads", str(plan.threads or 1)),
        *("--kv-tokens", str(_kv_tokens(plan))),
        *("--max-num-batched-tokens", str(batch_tokens)),
    )
    return argv, _thread_variables(plan)


def _kv_tokens(plan: ModelPlan) -> int:
    """At least one whole context, and no more than all sequences could use."""
    most = plan.max_model_len * plan.max_num_seqs
    return max(plan.max_model_len, min(plan.kv_tokens or most, most))


def vllm(spec: ServeSpec, plan: ModelPlan, python: Path, port: int) -> Built:
    """``vllm serve``."""
    # The planner wrote the engine's own arguments; the address in them is where its first replica listens.
    argv = [str(python), "-m", "vllm.entrypoints.cli.main", *_at_port(plan.argv, port)]
    if plan.enforce_eager and spec.enforce_eager is False:
        argv.remove("--enforce-eager")
    if spec.chat_template:
        argv += ["--chat-template", str(spec.chat_template.absolute())]
    env = {**plan.env, **_QUIET}
    if spec.image is not None:
        inside = {**env, "HF_HUB_OFFLINE": "1"}
        return container.command(spec, plan, python, port, serve=tuple(argv[3:]), env=inside), {}
    return tuple(argv), env


def ray(spec: ServeSpec, plan: ModelPlan, python: Path, port: int) -> Built:
    """A local Ray with the model as a deployment of ``ray.serve.llm``; words after ``--`` are vLLM's flags."""
    kwargs = engine_kwargs((*plan.argv[2:], *spec.extra))
    if spec.enforce_eager is False:
        kwargs.pop("enforce_eager", None)
    if spec.chat_template:
        kwargs["chat_template"] = str(spec.chat_template.absolute())
    most = spec.replicas or plan.replicas
    served = Served(
        name=spec.served_name,
        source=str(spec.model.absolute()),
        kwargs=kwargs,
        env={**{name: value for name, value in plan.env.items() if name not in DEVICES}, **_QUIET},
        # One failed start is enough to read its log; Ray's own patience would repeat it many times.
        copies=Copies(least=spec.replicas or 1, most=most, cpus=1 + plan.tensor_parallel, tries=1),
    )
    argv = (
        *(str(python), str(RAY_SERVER)),
        *("--host", spec.host),
        *("--port", str(port)),
        *("--copies", str(most)),
        *("--config", json.dumps(llm_config(plan, served), sort_keys=True)),
    )
    devices = cuda_env(plan.gpus, amd="HIP_VISIBLE_DEVICES" in plan.env) if plan.gpus else {}
    return argv, {**devices, **_QUIET, **_RAY}


def trtllm(spec: ServeSpec, plan: ModelPlan, python: Path, port: int) -> Built:
    """``trtllm-serve`` with its PyTorch backend, which reads Hugging Face checkpoints as they are."""
    memory = plan.memory
    # Its share is of what is free after the weights and a trial run; ours is of the whole card.
    rest = memory.total_gib - memory.weights_gib - memory.activation_gib - memory.non_torch_gib
    share = max(0.05, min(0.95, memory.kv_cache_gib / rest)) if rest > 0 else 0.9
    argv = (
        *(str(python.parent / "trtllm-serve"), "serve", str(spec.model.absolute())),
        *("--backend", "pytorch"),
        *("--served_model_name", spec.served_name),
        *("--host", spec.host),
        *("--port", str(port)),
        *("--tp_size", str(plan.tensor_parallel)),
        *("--pp_size", str(plan.pipeline_parallel)),
        *("--max_seq_len", str(plan.max_model_len)),
        *("--max_batch_size", str(plan.max_num_seqs)),
        *("--max_num_tokens", str(plan.max_num_batched_tokens)),
        *("--kv_cache_free_gpu_memory_fraction", f"{share:.2f}"),
        *(("--chat_template", str(spec.chat_template.absolute())) if spec.chat_template else ()),
    )
    return argv, dict(plan.env)


def _at_port(argv: tuple[str, ...], port: int) -> tuple[str, ...]:
    at = argv.index("--port") + 1
    return (*argv[:at], str(port), *argv[at + 1 :])
