"""A plan in the words of ``ray.serve.llm``: what ``serve --engine ray`` runs here and ``deploy ray`` sends to a cluster. Pure.

Ray's own builder makes the OpenAI-compatible application; what is written here are its arguments.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Final

from llmops.planning.types import ModelPlan

BUILDER: Final = "ray.serve.llm:build_openai_app"
# What Ray says itself, or answers for in its own front.
_NOT_THE_ENGINES: Final = ("--served-model-name", "--host", "--port", "--lora-modules")
# Ray's names of GPUs; it schedules by these without being told of the machines.
_ACCELERATORS: Final = (
    "B300",
    "B200",
    "GB200",
    "H200",
    "H100",
    "H20",
    "A100",
    "A10G",
    "L40S",
    "L4",
    "T4",
    "V100",
    "P100",
)


@dataclass(frozen=True, slots=True)
class Copies:
    """How many replicas run, and what one asks of its machine.

    Attributes:
        least, most: Equal for a fixed number; otherwise Ray scales between them.
        waiting: Requests that may wait at a replica before one more is started.
        cpus: Cores of one replica, its workers included.
        memory_bytes: Main memory of one replica; None: not asked for.
        tries: Failed starts before Ray gives the deployment up; None: Ray's own patience.
    """

    least: int = 1
    most: int = 1
    waiting: int = 4
    cpus: int = 2
    memory_bytes: int | None = None
    tries: int | None = None


@dataclass(frozen=True, slots=True)
class Place:
    """On which machines replicas may run.

    Attributes:
        accelerator: Ray's name of the GPU; None: any, or none on the CPU.
        resource: A custom resource that only the right machines offer (``ray start --resources``).
    """

    accelerator: str | None = None
    resource: str | None = None


@dataclass(frozen=True, slots=True)
class Served:
    """One model for Ray.

    Attributes:
        source: Hub id or directory, as the replicas see it.
        kwargs: vLLM's engine arguments.
        env: Variables of a replica and its workers.
    """

    name: str
    source: str
    kwargs: Mapping[str, Any]
    env: Mapping[str, str]
    copies: Copies = Copies()
    place: Place = field(default_factory=Place)


def llm_config(plan: ModelPlan, served: Served) -> dict[str, Any]:
    """One entry of ``llm_configs``. Without GPUs it says so: Ray's builder asks for one otherwise."""
    copies = served.copies
    degree = plan.tensor_parallel * plan.pipeline_parallel
    worker: dict[str, float] = {"CPU": 1}
    if plan.gpus:
        worker["GPU"] = 1
    if served.place.resource:
        worker[served.place.resource] = 0.001
    options: dict[str, Any] = {"num_cpus": max(1, copies.cpus - degree)}
    if copies.memory_bytes:
        options["memory"] = copies.memory_bytes
    config: dict[str, Any] = {
        "model_loading_config": {"model_id": served.name, "model_source": served.source},
        "engine_kwargs": dict(served.kwargs),
        "accelerator_config": {"kind": "gpu" if plan.gpus else "cpu"},
        "placement_group_config": {"bundle_per_worker": worker},
        "deployment_config": {"ray_actor_options": options, **_scale(plan, copies)},
        "runtime_env": {"env_vars": dict(served.env)},
    }
    if served.place.accelerator:
        config["accelerator_type"] = served.place.accelerator
    return config


def _scale(plan: ModelPlan, copies: Copies) -> dict[str, Any]:
    tries = {"max_constructor_retry_count": copies.tries} if copies.tries else {}
    if copies.least == copies.most:
        return {"num_replicas": copies.most, **tries}
    # Ray counts what a replica has in hand, running or waiting; vLLM runs as many as its batch and its cache hold.
    running = min(plan.max_num_seqs, math.ceil(plan.typical_concurrency or plan.max_num_seqs))
    scale = {
        "min_replicas": copies.least,
        "max_replicas": copies.most,
        "target_ongoing_requests": running + copies.waiting,
    }
    return {"autoscaling_config": scale, "max_ongoing_requests": 2 * (running + copies.waiting), **tries}


def accelerator_of(gpu_name: str) -> str | None:
    """Ray's name for a GPU; None where Ray has none (consumer cards)."""
    words = gpu_name.upper().replace("-", " ").split()
    return next((name for name in _ACCELERATORS if name in words), None)


def engine_kwargs(argv: tuple[str, ...]) -> dict[str, Any]:
    """Flags of ``vllm serve`` as engine arguments: ``--max-model-len 8192`` is ``max_model_len: 8192``."""
    found: dict[str, Any] = {}
    words = list(argv)
    while words:
        flag, equals, attached = words.pop(0).partition("=")
        values = [attached] if equals else []
        while words and not words[0].startswith("--"):
            values.append(words.pop(0))
        if flag not in _NOT_THE_ENGINES:
            name = flag.removeprefix("--").replace("-", "_")
            found[name] = _value(values)
    return found


def _value(values: list[str]) -> Any:
    if not values:
        return True
    text = values[0]
    for kind in (int, float):
        try:
            return kind(text)
        except ValueError:
            continue
    return text
