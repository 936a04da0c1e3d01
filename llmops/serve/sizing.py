"""The planner's decisions for one model on the chosen engine."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

from llmops.checkpoint.facts import ModelFacts
from llmops.errors import MachineError
from llmops.hardware.host import Host
from llmops.planning.plan import plan
from llmops.planning.types import EngineName, ModelPlan, PlanSpec
from llmops.serve.spec import ServeSpec

# With continuous batching more requests at once cost memory only when they come; llama.cpp divides its cache into slots.
_CPU_SEQUENCES = {"llamacpp": 8, "transformers": 32, "vllm": 32}


@dataclass(frozen=True, slots=True)
class Wanted:
    """One model with what is settled before the plan."""

    spec: ServeSpec
    facts: ModelFacts
    engine: EngineName
    port: int


def size(models: Sequence[Wanted], host: Host) -> tuple[ModelPlan, ...]:
    """Plan models together, and refuse what does not fit.

    Raises:
        UsageError: Something fixed in a spec is impossible for its model.
        MachineError: They do not fit this machine.
    """
    own: dict[str, dict[str, Any]] = {}
    for each in models:
        on_cpu = each.engine != "vllm" or not host.usable_gpus
        fixed = plan_spec(each.spec, each.engine, each.port, on_cpu=on_cpu)
        own[each.spec.served_name] = {
            name: getattr(fixed, name) for name in PlanSpec.model_fields if name != "per_model"
        }
    # The planner finds a model's own values by its name.
    named = [replace(each.facts, name=each.spec.served_name) for each in models]
    served = plan(PlanSpec(port=models[0].port, per_model=own), named, host)
    for each, one in zip(models, served.models, strict=True):
        if not one.fits:
            finding = next(finding for finding in served.findings if finding.severity == "error")
            raise MachineError(finding.message, finding.remedy)
        if each.spec.kv_cache_gib is not None and not one.gpus:
            _refuse_large_cache(each.spec.kv_cache_gib, one)
    return served.models


def _refuse_large_cache(wanted_gib: float, one: ModelPlan) -> None:
    room = one.memory.budget_gib - one.memory.weights_gib - one.memory.non_torch_gib
    if wanted_gib > room:
        raise MachineError(
            f"a KV cache of {wanted_gib:g} GiB does not fit: {max(0.0, room):.1f} GiB are left for it",
            f"--kv-cache-gib {max(1, int(room))}, or leave it to the plan",
        )


def plan_spec(spec: ServeSpec, engine: EngineName, port: int, *, on_cpu: bool) -> PlanSpec:
    """What the user fixed, in the planner's terms. Pure."""
    sequences = spec.max_num_seqs or (_CPU_SEQUENCES[engine] if on_cpu and spec.goal != "latency" else None)
    return PlanSpec(
        engine=engine,
        goal=spec.goal,
        served_name=spec.served_name,
        tensor_parallel=spec.tensor_parallel,
        replicas=None if on_cpu else 1,
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
        port=port,
    )
