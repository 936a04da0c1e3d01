"""The planner's decisions for one model on the chosen engine."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, cast

from llmops.checkpoint.facts import ModelFacts
from llmops.errors import MachineError
from llmops.hardware.host import Host
from llmops.planning import calibration
from llmops.planning.plan import plan
from llmops.planning.types import EngineName, ModelPlan, PlanSpec
from llmops.serve.spec import Engine, ServeSpec

# Both hold the same weights and the same cache as vLLM, which Ray runs and whose account TensorRT-LLM's resembles.
_PLANNED_AS: Mapping[Engine, EngineName] = {"ray": "vllm", "trtllm": "vllm"}
# With continuous batching more requests at once cost memory only when they come; llama.cpp divides its cache into slots.
_CPU_SEQUENCES: Mapping[EngineName, int] = {"llamacpp": 8, "transformers": 32, "vllm": 32}


@dataclass(frozen=True, slots=True)
class Wanted:
    """One model with what is settled before the plan."""

    spec: ServeSpec
    facts: ModelFacts
    engine: Engine
    port: int
    engine_version: str | None = None

    @property
    def planned_as(self) -> EngineName:
        """The engine whose account of memory the plan uses."""
        return _PLANNED_AS.get(self.engine) or cast("EngineName", self.engine)


def size(models: Sequence[Wanted], host: Host) -> tuple[ModelPlan, ...]:
    """Plan models together, and refuse what does not fit.

    Raises:
        UsageError: Something fixed in a spec is impossible for its model.
        MachineError: They do not fit this machine.
    """
    own: dict[str, dict[str, Any]] = {}
    for each in models:
        on_cpu = each.planned_as != "vllm" or not host.usable_gpus
        fixed = plan_spec(each, on_cpu=on_cpu)
        if on_cpu and (copies := each.spec.replicas or 1) > 1 and fixed.threads is None:
            fixed = fixed.model_copy(update={"threads": max(1, host.cpu.free // copies)})
        own[each.spec.served_name] = {
            name: getattr(fixed, name) for name in PlanSpec.model_fields if name != "per_model"
        }
    # The planner finds a model's own values by its name.
    named = [replace(each.facts, name=each.spec.served_name) for each in models]
    measured = calibration.load(calibration.default_path()) if host.source == "detected" else ()
    served = plan(PlanSpec(port=models[0].port, per_model=own), named, host, measured=measured)
    for each, one in zip(models, served.models, strict=True):
        if not one.fits:
            finding = next(finding for finding in served.findings if finding.severity == "error")
            raise MachineError(finding.message, finding.remedy)
        if each.spec.kv_cache_gib is not None and not one.gpus:
            _refuse_large_cache(each.spec.kv_cache_gib, one)
        if (each.spec.replicas or 1) > 1 and not one.gpus:
            _refuse_many_copies(each.spec.replicas or 1, one)
    return served.models


def _refuse_large_cache(wanted_gib: float, one: ModelPlan) -> None:
    room = one.memory.budget_gib - one.memory.weights_gib - one.memory.non_torch_gib
    if wanted_gib > room:
        raise MachineError(
            f"a KV cache of {wanted_gib:g} GiB does not fit: {max(0.0, room):.1f} GiB are left for it",
            f"--kv-cache-gib {max(1, int(room))}, or leave it to the plan",
        )


def _refuse_many_copies(copies: int, one: ModelPlan) -> None:
    memory = one.memory
    each = memory.weights_gib + memory.non_torch_gib + memory.kv_cache_gib
    if copies * each > memory.budget_gib:
        fit = max(1, int(memory.budget_gib / each))
        message = f"{copies} copies of {each:.1f} GiB do not fit: {memory.budget_gib:.1f} GiB are free"
        raise MachineError(message, f"--replicas {fit}")


def plan_spec(wanted: Wanted, *, on_cpu: bool) -> PlanSpec:
    """What the user fixed, in the planner's terms. Pure."""
    spec, engine = wanted.spec, wanted.planned_as
    sequences = spec.max_num_seqs or (_CPU_SEQUENCES[engine] if on_cpu and spec.goal != "latency" else None)
    return PlanSpec(
        engine=engine,
        engine_version=wanted.engine_version if wanted.engine in ("vllm", "ray") else None,
        goal=spec.goal,
        served_name=spec.served_name,
        tensor_parallel=spec.tensor_parallel,
        # Ray spreads copies over the machine's GPUs; the others are one process for one copy.
        replicas=None if on_cpu else spec.replicas if wanted.engine == "ray" else 1,
        max_model_len=spec.max_model_len,
        gpu_memory_utilization=None if on_cpu else spec.gpu_memory_utilization,
        max_num_seqs=sequences,
        dtype=spec.dtype,
        kv_cache_dtype=spec.kv_cache_dtype,
        quantization=spec.quantization,
        enforce_eager=bool(spec.enforce_eager),
        loras=spec.loras,
        max_lora_rank=spec.max_lora_rank,
        threads=spec.threads,
        kv_cache_gib=spec.kv_cache_gib,
        host=spec.host,
        port=wanted.port,
    )
