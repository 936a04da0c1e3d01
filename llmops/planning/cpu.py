"""One model on the CPU: llama.cpp for GGUF, transformers otherwise, vLLM's CPU build on request."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

from llmops.checkpoint.facts import ModelFacts
from llmops.errors import UsageError
from llmops.hardware.host import Host
from llmops.planning import cache as kv
from llmops.planning import calibration
from llmops.planning.argv import VllmFlags, vllm_argv, vllm_cpu_env
from llmops.planning.limits import BLOCK_TOKENS, next_lora_rank
from llmops.planning.memory import FLOAT_BYTES, total_weight_bytes
from llmops.planning.types import EngineName, MemoryPlan, ModelPlan, PlanSpec, Term
from llmops.units import GIB, counted

# Resident memory beyond weights and cache, measured with a 268 M parameter model: interpreter, libraries, buffers.
_OVERHEAD_GIB: Mapping[str, float] = {"llamacpp": 0.3, "transformers": 1.0, "vllm": 4.5}
# Head sizes that vLLM's CPU attention has kernels for; with another it reports healthy and dies on the first request.
CPU_HEAD_DIMS = (32, 64, 80, 96, 112, 128, 160, 192, 224, 256, 512)
# transformers unpacks these to plain floats when it loads them on the CPU.
_UNPACKED = ("compressed-tensors", "mxfp4", "fp8", "fbgemm_fp8", "modelopt", "modelopt_fp4")
# Bytes a weight of what transformers quantises while it loads: 4 bit with a scale of one byte for 64, int8.
_ONLINE_BYTES = {"bnb-nf4": 0.5 + 1 / 64, "bnb-int8": 1.0}
_SHRINKING = ("attention", "mlp", "experts")
# vLLM's CPU attention works on blocks of this many tokens.
_VLLM_BLOCK = 128
_RESERVE = 0.10
_COMFORTABLE_CONTEXT = 4096
_DEFAULT_SEQS = 8
_DEFAULT_BATCHED = 512


def choose_cpu_engine(facts: ModelFacts, spec: PlanSpec) -> tuple[EngineName, str]:
    """The engine with its reason."""
    if spec.engine:
        if spec.engine == "llamacpp" and facts.format != "gguf":
            raise UsageError(f"llama.cpp serves .gguf files, {facts.name} is not one", "--engine transformers")
        if spec.engine != "llamacpp" and facts.format == "gguf":
            raise UsageError(
                f"{spec.engine} does not serve .gguf files",
                f"--engine llamacpp, or: llmops convert gguf {facts.path} -o DIR",
            )
        return spec.engine, "--engine"
    if facts.format == "gguf":
        return "llamacpp", "the model is a .gguf file"
    return "transformers", "there is no GPU to use"


def plan_on_cpu(
    facts: ModelFacts,
    spec: PlanSpec,
    host: Host,
    *,
    port: int,
    memory_share: float = 1.0,
    measured: tuple[calibration.Measured, ...] = (),
) -> ModelPlan:
    """Plan one model on the CPU with a cache of bounded size.

    Args:
        facts: The model.
        spec: What the user fixes.
        host: The machine.
        port: Of the first replica.
        memory_share: How much of the free memory and cores this model may use when several share them.
        measured: Earlier starts on this machine.

    Raises:
        UsageError: The engine cannot serve this model.
    """
    engine, why = choose_cpu_engine(facts, spec)
    if engine == "vllm" and facts.head_dim and facts.head_dim not in CPU_HEAD_DIMS:
        raise UsageError(f"vLLM on the CPU has no attention for heads of {facts.head_dim}", "--engine transformers")
    dtype, dtype_why = _dtype(facts, spec, engine)
    length = _length(facts, spec)
    seqs = spec.max_num_seqs or spec.concurrency or _DEFAULT_SEQS
    cache = kv.layout(
        facts,
        kv_bytes=2.0 if engine == "llamacpp" else FLOAT_BYTES[dtype],
        block=_VLLM_BLOCK if engine == "vllm" else BLOCK_TOKENS,
    )
    free = host.memory.available_bytes / GIB * memory_share
    weights = _weights_gib(facts, spec, dtype, engine)
    key = _key(facts, spec, engine, dtype=dtype, seqs=seqs)
    overhead = _overhead(engine, calibration.find(measured, key))
    room = free * (1 - _RESERVE) - weights - overhead.gib
    one = kv.request_bytes(cache, length, length) / GIB
    wanted = spec.kv_cache_gib or _wanted_cache_gib(engine, one, seqs, cache, spec)
    if engine == "vllm":
        wanted = max(1.0, float(math.ceil(wanted)))
    given = min(wanted, room) if spec.kv_cache_gib is None else wanted
    if engine == "vllm":
        given = float(math.floor(given)) if given >= 1 else given
    length = _shorten(length, given, cache, spec)
    need = max(kv.request_bytes(cache, length, length) / GIB, 1.0 if engine == "vllm" else 0.0)
    shortfall = max(0.0, max(need, given if spec.kv_cache_gib is not None else 0.0) - room)
    threads = spec.threads or max(1, int(host.cpu.free * memory_share))
    memory = _memory(facts, _Shares(free, weights, overhead, given), cache, engine)
    name = spec.served_name or facts.name
    pool = max(0.0, given) * GIB
    return ModelPlan(
        name=name, path=str(facts.path), engine=engine, engine_version=spec.engine_version, gpus=(), tensor_parallel=1,
        pipeline_parallel=1, replicas=1, dtype=dtype,
        quantization=_quantization(facts, spec), kv_cache_dtype="auto",
        max_model_len=length, max_num_seqs=seqs, max_num_batched_tokens=spec.max_num_batched_tokens or _DEFAULT_BATCHED,
        gpu_memory_utilization=None, enforce_eager=engine == "vllm", kv_tokens=kv.tokens_in(pool, cache, length, length, derived=engine == "vllm"),
        max_concurrency=round(kv.concurrency(pool, cache, length, length), 2),
        typical_concurrency=round(kv.concurrency(pool, cache, min(spec.average_tokens, length), length), 1),
        threads=threads, ports=(port,),
        argv=_argv(facts, spec, port=port, dtype=dtype, length=length, seqs=seqs) if engine == "vllm" else (), env=_env(engine, given, threads, alone=_alone(spec, host, memory_share)), memory=memory,
        reasons=(
            f"engine {engine}: {why}", f"dtype {dtype}: {dtype_why}",
            f"{counted(threads, 'thread')}: {'as fixed' if spec.threads else 'the cores that are free' if memory_share == 1 else 'its share of the free cores'}",
            f"KV cache {max(0.0, given):.2f} GiB: {seqs} requests of {length} tokens, within free memory",
        ),
        remedies=_remedies(shortfall, facts) if shortfall > 0 else (),
        shortfall_gib=round(shortfall, 4) if shortfall > 0 else None, loras=spec.loras,
    )  # fmt: skip


def _dtype(facts: ModelFacts, spec: PlanSpec, engine: str) -> tuple[str, str]:
    if spec.dtype != "auto":
        return spec.dtype, "--dtype"
    if engine == "llamacpp":
        return "float16", "llama.cpp computes in its own types"
    if facts.hidden and facts.hidden < 256:
        return "float32", "tiny models run safest in float32"
    if facts.dtype == "float16":
        return "bfloat16", "processors have no fast float16"
    return (facts.dtype, "as the checkpoint stores it") if facts.dtype in FLOAT_BYTES else ("bfloat16", "16 bit")


def _length(facts: ModelFacts, spec: PlanSpec) -> int:
    limit = facts.context_length
    if spec.max_model_len and limit and spec.max_model_len > limit:
        raise UsageError(
            f"--max-model-len {spec.max_model_len} is more than {facts.name} was made for ({limit})",
            f"--max-model-len {limit}",
        )
    return spec.max_model_len or min(limit or _COMFORTABLE_CONTEXT, _COMFORTABLE_CONTEXT)


def _shorten(length: int, given_gib: float, cache: kv.CacheLayout, spec: PlanSpec) -> int:
    if spec.max_model_len or given_gib <= 0:
        return length
    longest = kv.longest_request(given_gib * GIB, cache, length, length)
    return longest // 256 * 256 if 512 <= longest < length else length


def _weights_gib(facts: ModelFacts, spec: PlanSpec, dtype: str, engine: str) -> float:
    if spec.weights_gib is not None:
        return spec.weights_gib
    if facts.format == "gguf":
        return facts.size_bytes / GIB
    if engine == "transformers" and facts.quantization and facts.quantization.quant_method in _UNPACKED:
        return facts.parameters * FLOAT_BYTES[dtype] / GIB
    whole = total_weight_bytes(facts, FLOAT_BYTES[dtype])
    if spec.quantization in _ONLINE_BYTES and facts.quantization is None:
        # Quantised while it loads: the linear layers shrink, the vocabulary does not.
        linears = sum(
            layer.in_features * layer.out_features * layer.copies for layer in facts.linears if layer.part in _SHRINKING
        )
        whole -= linears * (FLOAT_BYTES[dtype] - _ONLINE_BYTES[spec.quantization])
    return whole / GIB


def _quantization(facts: ModelFacts, spec: PlanSpec) -> str | None:
    """As the checkpoint is, or as it becomes while it is loaded."""
    return facts.quantization.method if facts.quantization else spec.quantization


def _wanted_cache_gib(engine: str, one_gib: float, seqs: int, cache: kv.CacheLayout, spec: PlanSpec) -> float:
    if engine == "llamacpp":  # one unified cache that the slots share
        return one_gib * max(1, seqs // 2)
    typical = kv.request_bytes(cache, spec.average_tokens, spec.average_tokens) / GIB
    return max(one_gib, min(one_gib * seqs, typical * seqs))


def _key(facts: ModelFacts, spec: PlanSpec, engine: str, *, dtype: str, seqs: int) -> calibration.Key:
    """As ``calibration.key_of`` makes it from the plan; the same start has the same one."""
    return calibration.Key(
        model=spec.served_name or facts.name,
        size_bytes=facts.size_bytes,
        engine_version=calibration.on_cpu(engine, spec.engine_version),
        gpu=calibration.CPU,
        tensor_parallel=1,
        pipeline_parallel=1,
        dtype=dtype,
        kv_cache_dtype="auto",
        quantization=_quantization(facts, spec),
        max_num_seqs=seqs,
        max_num_batched_tokens=spec.max_num_batched_tokens or _DEFAULT_BATCHED,
        enforce_eager=engine == "vllm",
        loras=len(spec.loras),
    )


@dataclass(frozen=True, slots=True)
class _Overhead:
    """Memory of the engine itself, and how it is known."""

    gib: float
    source: str


def _overhead(engine: str, measured: calibration.Measured | None) -> _Overhead:
    if measured is None:
        return _Overhead(_OVERHEAD_GIB[engine], "measured with a small model")
    return _Overhead(measured.non_torch_gib, "measured on this machine")


@dataclass(frozen=True, slots=True)
class _Shares:
    """Main memory divided, in GiB."""

    free: float
    weights: float
    overhead: _Overhead
    cache: float


def _memory(facts: ModelFacts, shares: _Shares, cache: kv.CacheLayout, engine: str) -> MemoryPlan:
    where = "file size" if facts.format == "gguf" else "tensor sizes"
    terms = (
        Term("free memory", shares.free, "GiB", "available within the cgroup limit", "this machine"),
        Term("weights", shares.weights, "GiB", "all tensors in the serving type", where),
        Term("overhead", shares.overhead.gib, "GiB", f"{engine}'s own memory", shares.overhead.source),
        Term("reserve", shares.free * _RESERVE, "GiB", f"{_RESERVE:.0%} of free memory left alone", "choice"),
        Term("KV cache", shares.cache, "GiB", "what the requests need, within the rest", "bounded by the plan"),
        Term("KV bytes a token", cache.bytes_per_token, "B", cache.formula, "the cache's layout"),
    )
    return MemoryPlan(
        total_gib=round(shares.free, 4),
        budget_gib=round(shares.free * (1 - _RESERVE), 4),
        weights_gib=round(shares.weights, 4),
        activation_gib=0.0,
        non_torch_gib=shares.overhead.gib,
        cudagraph_gib=0.0,
        kv_cache_gib=round(shares.cache, 4),
        kv_bytes_per_token=round(cache.bytes_per_token),
        terms=terms,
    )


def _argv(facts: ModelFacts, spec: PlanSpec, *, port: int, dtype: str, length: int, seqs: int) -> tuple[str, ...]:
    """Arguments of vLLM; the two embedded engines take the plan's values directly."""
    flags = VllmFlags(
        path=str(facts.path),
        served_name=spec.served_name or facts.name,
        host=spec.host,
        port=port,
        dtype=dtype,
        tensor_parallel=1,
        pipeline_parallel=1,
        max_model_len=length,
        utilization=None,
        max_num_seqs=seqs,
        max_num_batched_tokens=spec.max_num_batched_tokens,
        kv_cache_dtype="auto",
        quantization=None,
        enforce_eager=True,
        loras=spec.loras,
        max_lora_rank=next_lora_rank(spec.max_lora_rank or 16) or 512,
        max_loras=max(1, len(spec.loras)),
    )
    return vllm_argv(flags)


def _alone(spec: PlanSpec, host: Host, memory_share: float) -> bool:
    """Whether all of the machine's cores are for this one server."""
    return spec.threads is None and memory_share == 1.0 and host.cpu.free >= host.cpu.allowed


def _env(engine: str, given_gib: float, threads: int, *, alone: bool) -> Mapping[str, str]:
    if engine == "vllm":
        return vllm_cpu_env(max(1, int(given_gib)), threads, alone=alone)
    return {"OMP_NUM_THREADS": str(threads), "OMP_WAIT_POLICY": "PASSIVE"}


def cache_blocks(plan: ModelPlan) -> int:
    """Blocks of 16 tokens that the plan's cache has, for engines that count in blocks."""
    return max(1, (plan.kv_tokens or plan.max_model_len * plan.max_num_seqs) // BLOCK_TOKENS)


def _remedies(shortfall: float, facts: ModelFacts) -> tuple[str, ...]:
    lines = [f"free {shortfall:.1f} GiB of memory, or use a machine with more"]
    if facts.quantization is None:
        lines.append("llmops quantize makes the weights smaller; a .gguf of the model needs least")
    return tuple(lines)
