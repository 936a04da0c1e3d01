"""Ways to serve one model on GPUs, each with its memory, and the choice between them."""

from __future__ import annotations

from dataclasses import dataclass, replace

from llmops.checkpoint.facts import ModelFacts
from llmops.errors import MachineError, UsageError
from llmops.hardware.host import Gpu, Host
from llmops.planning import cache as kv
from llmops.planning.calibration import Key, Measured, find
from llmops.planning.choices import (
    Choice,
    choose_dtype,
    choose_kv_dtype,
    choose_quantization,
    default_batched_tokens,
    default_num_seqs,
    engine_obstacle,
)
from llmops.planning.coefficients import (
    DEFAULT_VERSION,
    ONLINE_STREAMED,
    RESERVE_GIB,
    Coefficients,
    coefficients,
    parse_version,
)
from llmops.planning.limits import largest_utilization, next_lora_rank
from llmops.planning.memory import Setting, account, weights_per_gpu
from llmops.planning.parallel import Split
from llmops.planning.types import MemoryPlan, PlanSpec

# Below this share of full-length requests at once the next larger split is tried.
_WANTED_CONCURRENCY = 1.2
# What the engine takes at most when its default is not enough: graphs and fragments need the rest.
_HIGHEST_UTILIZATION = 0.95
_MIN_USEFUL_CONTEXT = 2048
_COMFORTABLE_CONTEXT = {"latency": 8192, "throughput": 8192, "context": 131072}


@dataclass(frozen=True, slots=True)
class Candidate:
    """One way to serve the model, with its memory and what it holds."""

    split: Split
    setting: Setting
    memory: MemoryPlan
    cache: kv.CacheLayout
    shortfall_gib: float | None

    @property
    def pool_bytes(self) -> float:
        """The KV cache of one GPU in bytes."""
        return max(0.0, self.memory.kv_cache_gib) * 2**30


@dataclass(frozen=True, slots=True)
class Request:
    """A model with what is already decided about it."""

    facts: ModelFacts
    spec: PlanSpec
    gpu: Gpu
    row: Coefficients
    dtype: Choice
    quantization: Choice | None
    kv_dtype: Choice
    target_len: int
    lora_rank: int
    measured: tuple[Measured, ...] = ()


def prepare(facts: ModelFacts, spec: PlanSpec, host: Host, gpus: tuple[int, ...]) -> Request:
    """Decide what does not depend on memory; refuse what cannot be."""
    gpu = min((g for g in host.gpus if g.index in gpus), key=lambda g: (g.total_bytes, g.free_bytes))
    dtype, kv_dtype = choose_dtype(facts, spec, gpu), choose_kv_dtype(facts, spec, gpu)
    quantization = choose_quantization(facts, spec, gpu)
    for choice in (dtype, kv_dtype, quantization):
        if choice and choice.obstacle:
            raise MachineError(choice.obstacle, "choose another --dtype, --quantization, --kv-cache-dtype or GPU")
    if obstacle := engine_obstacle(gpu):
        raise MachineError(obstacle, "use --engine llamacpp with a .gguf, or another GPU")
    limit = facts.context_length
    if spec.max_model_len and limit and spec.max_model_len > limit:
        raise UsageError(
            f"--max-model-len {spec.max_model_len} is more than {facts.name} was made for ({limit})",
            f"--max-model-len {limit}",
        )
    if spec.max_num_seqs and spec.max_num_batched_tokens and spec.max_num_batched_tokens < spec.max_num_seqs:
        raise UsageError(
            f"{spec.max_num_batched_tokens} tokens a step are too few for {spec.max_num_seqs} sequences, each takes one",
            f"--max-num-seqs {spec.max_num_batched_tokens}, or more --max-num-batched-tokens",
        )
    rank = 0
    if spec.loras:
        wanted = spec.max_lora_rank or 16
        rank = next_lora_rank(wanted) or 0
        if not rank:
            raise UsageError(f"no engine serves LoRA adapters of rank {wanted}", "the largest is 512")
    comfortable = _COMFORTABLE_CONTEXT[spec.goal]
    target = spec.max_model_len or min(limit or comfortable, comfortable)
    return Request(
        facts,
        spec,
        gpu,
        coefficients(spec.engine_version, gpu.compute_capability),
        dtype,
        quantization,
        kv_dtype,
        target,
        rank,
    )


def evaluate(request: Request, split: Split) -> Candidate:
    """Account for the memory of one split, and lower what may be lowered until a request fits."""
    spec, gpu, facts = request.spec, request.gpu, request.facts
    batched = default_batched_tokens(spec, gpu, request.row, request.target_len)
    online = request.quantization.value if request.quantization and facts.quantization is None else None
    setting = Setting(
        tensor_parallel=split.tensor_parallel,
        pipeline_parallel=split.pipeline_parallel,
        dtype=request.dtype.value,
        kv_cache_dtype=request.kv_dtype.value,
        online_quantization=online,
        max_model_len=request.target_len,
        max_num_seqs=default_num_seqs(spec, gpu, request.row),
        max_num_batched_tokens=batched,
        utilization=_utilization(request, split),
        enforce_eager=spec.enforce_eager,
        lora_rank=request.lora_rank,
        lora_count=max(1, len(spec.loras)) if request.lora_rank else 0,
        weights_gib=spec.weights_gib,
    )
    return _relax(request, split, setting)


def _relax(request: Request, split: Split, setting: Setting) -> Candidate:
    """More of the card, fewer sequences, a shorter context, until a request fits; never what the user fixed."""
    candidate = _measure(request, split, setting)
    if held(candidate) < _WANTED_CONCURRENCY and request.spec.gpu_memory_utilization is None:
        possible = largest_utilization(free_at_start(request, split), request.gpu.total_gib)
        setting = replace(setting, utilization=max(setting.utilization, min(_HIGHEST_UTILIZATION, possible)))
        candidate = _measure(request, split, setting)
    while candidate.shortfall_gib and request.spec.max_num_seqs is None and setting.max_num_seqs > 16:
        fewer = replace(setting, max_num_seqs=setting.max_num_seqs // 2)
        tried = _measure(request, split, fewer)
        if tried.memory.kv_cache_gib <= candidate.memory.kv_cache_gib:
            break  # the warm-up's peak is no longer the sampler's
        setting, candidate = fewer, tried
    if not candidate.shortfall_gib or request.spec.max_model_len is not None:
        return candidate
    room = max(0.0, candidate.pool_bytes - RESERVE_GIB * 2**30)
    longest = kv.longest_request(room, candidate.cache, setting.max_model_len, setting.max_num_batched_tokens)
    if longest >= min(_MIN_USEFUL_CONTEXT, request.facts.context_length or _MIN_USEFUL_CONTEXT):
        shorter = _measure(request, split, replace(setting, max_model_len=longest // 256 * 256))
        return shorter if shorter.shortfall_gib is None else candidate
    return candidate


def _measure(request: Request, split: Split, setting: Setting) -> Candidate:
    memory, cache = account(request.facts, setting, request.gpu.total_gib, request.row, _measured(request, setting))
    needed = kv.request_bytes(cache, setting.max_model_len, setting.max_num_batched_tokens) / 2**30
    if request.spec.max_model_len is None:
        needed += RESERVE_GIB
    # The engine also refuses to start when less is free than the share it was told to take.
    free = free_at_start(request, split)
    loading = loading_gib(request, setting)
    shortfall = max(0.0, needed - memory.kv_cache_gib, memory.budget_gib - free, loading - free)
    return Candidate(split, setting, memory, cache, round(shortfall, 4) if shortfall > 1e-9 else None)


def loading_gib(request: Request, setting: Setting) -> float:
    """What the weights take at once while they are loaded, where that is more than afterwards; else nothing."""
    version = parse_version(request.spec.engine_version or DEFAULT_VERSION)
    if setting.online_quantization != "fp8" or setting.weights_gib is not None or version >= ONLINE_STREAMED:
        return 0.0
    return weights_per_gpu(request.facts, replace(setting, online_quantization=None))[0]


def _measured(request: Request, setting: Setting) -> Measured | None:
    """What the same start logged before; nothing when the user states the weights."""
    if not request.measured or setting.weights_gib is not None:
        return None
    key = Key(
        model=request.spec.served_name or request.facts.name,
        size_bytes=request.facts.size_bytes,
        engine_version=request.spec.engine_version or DEFAULT_VERSION,
        gpu=request.gpu.name,
        tensor_parallel=setting.tensor_parallel,
        pipeline_parallel=setting.pipeline_parallel,
        dtype=setting.dtype,
        kv_cache_dtype=setting.kv_cache_dtype,
        quantization=request.quantization.value if request.quantization else None,
        max_num_seqs=setting.max_num_seqs,
        max_num_batched_tokens=setting.max_num_batched_tokens,
        enforce_eager=setting.enforce_eager,
        loras=len(request.spec.loras),
    )
    return find(request.measured, key)


def _utilization(request: Request, split: Split) -> float:
    """The share of the card that the engine may take: what the user fixes, else its default within what is free."""
    if request.spec.gpu_memory_utilization is not None:
        return request.spec.gpu_memory_utilization
    largest = largest_utilization(free_at_start(request, split), request.gpu.total_gib)
    # A card that also draws a desktop, or runs something else, has less than it says.
    return max(0.01, min(request.row.default_utilization, largest))


def smaller(request: Request, best: Candidate, ways: list[Split]) -> tuple[Request, Candidate]:
    """Quantise when plain weights do not fit: to fp8 while loading where the card can, else to 4 bit beforehand."""
    facts, capability = request.facts, request.gpu.compute_capability
    if facts.quantization is not None or request.spec.quantization:
        return request, best
    options = (
        [Choice("fp8", "plain weights do not fit; quantised while loading")] if (capability or (9, 0)) >= (8, 0) else []
    )
    four = Choice("gptq", "plain weights do not fit; first: llmops quantize --method gptq, then serve its output")
    for choice in (*options, four):
        changed = replace(request, quantization=choice)
        fitting = [c for c in (evaluate(changed, way) for way in ways) if c.shortfall_gib is None]
        if fitting:
            return changed, choose(changed, fitting)
    return request, best


def free_at_start(request: Request, split: Split) -> float:
    """GiB that the engine finds free on the fullest GPU once its own context is there."""
    return request.gpu.free_gib - request.row.start_gib[1 if split.size > 1 else 0]


def choose(request: Request, candidates: list[Candidate]) -> Candidate:
    """The smallest split that holds what is wanted; latency takes the widest tensor parallelism inside one island."""
    fitting = [candidate for candidate in candidates if candidate.shortfall_gib is None]
    if not fitting:
        return min(candidates, key=lambda c: (c.shortfall_gib or 0.0, c.split.size))
    good = [candidate for candidate in fitting if _satisfies(request, candidate)]
    if request.spec.goal == "latency":
        fast = [c for c in good or fitting if c.split.pipeline_parallel == 1 and c.split.island]
        return max(fast or good or fitting, key=lambda c: c.split.tensor_parallel)
    if good:
        return good[0]
    return max(fitting, key=lambda c: (c.setting.max_model_len, held(c), -c.split.size))


def _satisfies(request: Request, candidate: Candidate) -> bool:
    wanted = float(request.spec.concurrency or 0)
    if request.spec.goal == "context" and candidate.setting.max_model_len < request.target_len:
        return False
    short = candidate.setting.max_model_len < request.target_len
    return not short and held(candidate) >= max(_WANTED_CONCURRENCY, wanted)


def held(candidate: Candidate) -> float:
    setting = candidate.setting
    return kv.concurrency(candidate.pool_bytes, candidate.cache, setting.max_model_len, setting.max_num_batched_tokens)
