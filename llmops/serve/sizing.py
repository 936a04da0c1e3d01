"""The planner's decisions for one model on the chosen engine."""

from __future__ import annotations

from llmops.checkpoint.facts import ModelFacts
from llmops.errors import MachineError
from llmops.hardware.host import Host
from llmops.planning.plan import plan
from llmops.planning.types import EngineName, ModelPlan, PlanSpec
from llmops.serve.spec import ServeSpec

# With continuous batching more requests at once cost memory only when they come; llama.cpp divides its cache into slots.
_CPU_SEQUENCES = {"llamacpp": 8, "transformers": 32, "vllm": 32}


def size(spec: ServeSpec, facts: ModelFacts, host: Host, engine: EngineName, port: int) -> ModelPlan:
    """Plan, and refuse what does not fit.

    Raises:
        UsageError: Something fixed in ``spec`` is impossible for this model.
        MachineError: It does not fit this machine.
    """
    on_cpu = engine != "vllm" or not host.usable_gpus
    served = plan(plan_spec(spec, engine, port, on_cpu=on_cpu), [facts], host)
    one = served.models[0]
    if not one.fits:
        finding = next(finding for finding in served.findings if finding.severity == "error")
        raise MachineError(finding.message, finding.remedy)
    if on_cpu and spec.kv_cache_gib is not None:
        room = one.memory.budget_gib - one.memory.weights_gib - one.memory.non_torch_gib
        if spec.kv_cache_gib > room:
            raise MachineError(
                f"a KV cache of {spec.kv_cache_gib:g} GiB does not fit: {max(0.0, room):.1f} GiB are left for it",
                f"--kv-cache-gib {max(1, int(room))}, or leave it to the plan",
            )
    return one


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
