"""One model on GPUs with vLLM: the smallest split that serves what is asked, then replicas."""

from __future__ import annotations

from dataclasses import replace

from llmops.checkpoint.facts import ModelFacts
from llmops.errors import UsageError
from llmops.hardware.host import Host
from llmops.planning import cache as kv
from llmops.planning.argv import VllmFlags, cuda_env, vllm_argv
from llmops.planning.calibration import Measured
from llmops.planning.candidates import Candidate, Request, choose, evaluate, held, prepare, smaller
from llmops.planning.parallel import Split, splits, tensor_parallel_obstacle
from llmops.planning.remedies import remedies_for
from llmops.planning.types import ModelPlan, PlanSpec
from llmops.units import counted


def plan_on_gpus(
    facts: ModelFacts,
    spec: PlanSpec,
    host: Host,
    gpus: tuple[int, ...],
    *,
    port: int,
    measured: tuple[Measured, ...] = (),
) -> ModelPlan:
    """Plan one model on some of a host's GPUs, using as many as make sense.

    Raises:
        UsageError: A value fixed by the user is impossible for this model.
        MachineError: The GPUs cannot run this engine or this kind of model at all.
    """
    request = replace(prepare(facts, spec, host, gpus), measured=measured)
    candidates = [
        evaluate(request, split)
        for split in splits(facts, host, gpus, tensor=spec.tensor_parallel, pipeline=spec.pipeline_parallel)
    ]
    if not candidates:
        raise _no_split(facts, spec, len(gpus))
    best = choose(request, candidates)
    if best.shortfall_gib is not None and spec.quantize == "allow":
        request, best = smaller(request, best, [candidate.split for candidate in candidates])
    replicas = _replicas(request, best, gpus)
    return finish(request, best, assign(host, gpus, best.split, replicas), len(gpus), port=port)


def _replicas(request: Request, best: Candidate, gpus: tuple[int, ...]) -> int:
    possible = len(gpus) // best.split.size
    if request.spec.replicas:
        if request.spec.replicas > possible:
            raise UsageError(
                f"{request.spec.replicas} replicas of {best.split.size} GPUs need more than the {len(gpus)} there are",
                f"--replicas {possible}" if possible else "use a machine with more GPUs",
            )
        return request.spec.replicas
    if best.shortfall_gib is not None or request.spec.goal == "latency":
        return 1
    if request.spec.concurrency:
        each = max(1.0, held(best))
        return max(1, min(possible, int(-(-request.spec.concurrency // each))))
    return max(1, possible)


def finish(request: Request, best: Candidate, used: tuple[int, ...], available: int, *, port: int) -> ModelPlan:
    """Put a chosen candidate into the form that is shown and launched."""
    facts, spec, setting, split = request.facts, request.spec, best.setting, best.split
    batched = setting.max_num_batched_tokens
    name = spec.served_name or facts.name
    replicas = len(used) // split.size
    tokens = kv.tokens_in(
        best.pool_bytes, best.cache, setting.max_model_len, batched, derived=request.row.derived_tokens
    )
    typical = min(spec.average_tokens, setting.max_model_len)
    return ModelPlan(
        name=name,
        path=str(facts.path),
        engine="vllm",
        engine_version=spec.engine_version,
        gpus=used,
        tensor_parallel=split.tensor_parallel,
        pipeline_parallel=split.pipeline_parallel,
        replicas=replicas,
        dtype=setting.dtype,
        quantization=request.quantization.value if request.quantization else None,
        kv_cache_dtype=setting.kv_cache_dtype,
        max_model_len=setting.max_model_len,
        max_num_seqs=setting.max_num_seqs,
        max_num_batched_tokens=batched,
        gpu_memory_utilization=setting.utilization,
        enforce_eager=setting.enforce_eager,
        kv_tokens=tokens,
        max_concurrency=round(held(best), 2),
        typical_concurrency=round(kv.concurrency(best.pool_bytes, best.cache, typical, batched), 1),
        threads=None,
        ports=tuple(port + n for n in range(replicas)),
        argv=vllm_argv(_flags(request, best, port)),
        env=cuda_env(used[: split.size], amd=request.gpu.vendor == "amd"),
        memory=best.memory,
        reasons=_reasons(request, best, replicas, available),
        remedies=remedies_for(request, best) if best.shortfall_gib else (),
        shortfall_gib=best.shortfall_gib,
        loras=spec.loras,
    )


def _flags(request: Request, best: Candidate, port: int) -> VllmFlags:
    spec, setting = request.spec, best.setting
    return VllmFlags(
        path=str(request.facts.path),
        served_name=spec.served_name or request.facts.name,
        host=spec.host,
        port=port,
        dtype=setting.dtype,
        tensor_parallel=setting.tensor_parallel,
        pipeline_parallel=setting.pipeline_parallel,
        max_model_len=setting.max_model_len,
        utilization=setting.utilization,
        max_num_seqs=setting.max_num_seqs,
        max_num_batched_tokens=setting.max_num_batched_tokens,
        kv_cache_dtype=setting.kv_cache_dtype,
        quantization=setting.online_quantization,
        enforce_eager=setting.enforce_eager,
        loras=spec.loras,
        max_lora_rank=setting.lora_rank,
        max_loras=max(1, setting.lora_count),
    )


def assign(host: Host, gpus: tuple[int, ...], split: Split, replicas: int) -> tuple[int, ...]:
    """GPU indices of all replicas: each takes whole places inside an island before the next begins."""
    order = [index for island in host.islands() for index in island if index in gpus]
    chosen = list(split.gpus)
    for _ in range(replicas - 1):
        rest = [index for index in order if index not in chosen]
        chosen += rest[: split.size]
    return tuple(chosen)


def _reasons(request: Request, best: Candidate, replicas: int, available: int) -> tuple[str, ...]:
    setting, split = best.setting, best.split
    reasons = [
        "engine vllm: there are GPUs",
        f"dtype {setting.dtype}: {request.dtype.reason}",
        f"KV cache {setting.kv_cache_dtype}: {request.kv_dtype.reason}",
    ]
    if request.quantization:
        reasons.append(f"quantisation {request.quantization.value}: {request.quantization.reason}")
    if request.spec.tensor_parallel or request.spec.pipeline_parallel:
        reasons.append(f"TP {split.tensor_parallel}, PP {split.pipeline_parallel}: as fixed")
    elif request.spec.goal == "latency":
        reasons.append(f"TP {split.tensor_parallel}: the widest split inside one NVLink island, for latency")
    else:
        reasons.append(
            f"TP {split.tensor_parallel}, PP {split.pipeline_parallel}: the smallest split that holds the model"
        )
    if split.tensor_parallel > 1 and not split.island:
        reasons.append("tensor parallelism crosses PCIe: expect slower decoding than with NVLink")
    reasons.append(f"{counted(replicas, 'replica')} of {counted(split.size, 'GPU')} on {available} available")
    if setting.max_model_len < request.target_len:
        reasons.append(f"context {setting.max_model_len}: what fits; {request.target_len} was aimed at")
    return tuple(reasons)


def _no_split(facts: ModelFacts, spec: PlanSpec, available: int) -> UsageError:
    if spec.tensor_parallel:
        why = tensor_parallel_obstacle(facts, spec.tensor_parallel)
        valid = [n for n in range(1, available + 1) if tensor_parallel_obstacle(facts, n) is None]
        if why:
            return UsageError(
                f"--tensor-parallel {spec.tensor_parallel}: {why}", f"valid here: {', '.join(map(str, valid))}"
            )
    size = (spec.tensor_parallel or 1) * (spec.pipeline_parallel or 1)
    return UsageError(
        f"the plan asks for {size} GPUs, {available} can be used", "lower --tensor-parallel or --pipeline-parallel"
    )
