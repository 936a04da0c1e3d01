"""The planner's numbers for one model on one engine."""

from __future__ import annotations

from llmops.checkpoint.facts import ModelFacts
from llmops.hardware.host import Host
from llmops.planning.types import EngineName, MemoryPlan, ModelPlan
from llmops.serve.spec import ServeSpec


def size(spec: ServeSpec, facts: ModelFacts, host: Host, engine: EngineName) -> ModelPlan:
    context = spec.max_model_len or min(facts.context_length or 2048, 4096)
    seqs = spec.max_num_seqs or 32
    kv = facts.kv_bytes_per_token
    return ModelPlan(
        name=spec.served_name,
        path=str(spec.model),
        engine=engine,
        engine_version=None,
        gpus=(),
        tensor_parallel=1,
        pipeline_parallel=1,
        replicas=1,
        dtype=spec.dtype,
        quantization=None,
        kv_cache_dtype="auto",
        max_model_len=context,
        max_num_seqs=seqs,
        max_num_batched_tokens=0,
        gpu_memory_utilization=None,
        enforce_eager=True,
        kv_tokens=int(2**30 / max(kv, 1)),
        max_concurrency=None,
        typical_concurrency=None,
        threads=spec.threads or host.cpu.free,
        ports=(8000,),
        argv=(),
        env={},
        memory=MemoryPlan(0, 0, 0, 0, 0, 0, 1.0, kv),
        reasons=(),
    )
