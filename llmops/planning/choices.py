"""Decisions about one model that do not depend on memory: type, quantisation, cache type, batch sizes."""

from __future__ import annotations

from dataclasses import dataclass

from llmops.checkpoint.facts import ModelFacts
from llmops.hardware.host import Gpu
from llmops.planning.coefficients import (
    BF16_FLOOR,
    BITSANDBYTES_LEFT,
    DEFAULT_VERSION,
    ENGINE_FLOOR,
    FP8_KV_FLOOR,
    GPTQ_NARROWED,
    Coefficients,
    Version,
    capability_floor,
    parse_version,
)
from llmops.planning.types import PlanSpec

_LARGE_GPU_GIB = 70.0
_HUGE_GPU_GIB = 160.0
# Methods that the engine applies to a plain checkpoint while it loads it.
ONLINE = ("fp8", "bitsandbytes")


@dataclass(frozen=True, slots=True)
class Choice:
    """A decision with its reason, and an obstacle when the hardware forbids it."""

    value: str
    reason: str
    obstacle: str | None = None


def choose_dtype(facts: ModelFacts, spec: PlanSpec, gpu: Gpu) -> Choice:
    """The type of plain weights and activations."""
    capability = gpu.compute_capability
    old = capability is not None and capability < BF16_FLOOR
    if spec.dtype != "auto":
        if spec.dtype == "bfloat16" and old:
            what = f"bfloat16 needs compute capability 8.0, {gpu.name} has {_dotted(capability)}"
            return Choice("bfloat16", "--dtype", what + ": use --dtype float16")
        return Choice(spec.dtype, "--dtype")
    if old:
        return Choice("float16", f"{gpu.name} (compute capability {_dotted(capability)}) has no bfloat16")
    stored = facts.dtype if facts.dtype in ("bfloat16", "float16") else "bfloat16"
    if facts.dtype == "float32":
        return Choice(stored, "the checkpoint's float32 is served in 16 bit")
    return Choice(stored, "as the checkpoint stores it")


def choose_quantization(facts: ModelFacts, spec: PlanSpec, gpu: Gpu) -> Choice | None:
    """The scheme served, None for plain weights. Checks that the card can run it."""
    method = facts.quantization.method if facts.quantization else None
    reason = "as the checkpoint is quantised"
    if spec.quantization and spec.quantization != "none":
        if facts.quantization is None and spec.quantization not in ONLINE:
            what = f"--quantization {spec.quantization}: the checkpoint is not quantised"
            remedy = "llmops quantize makes a quantised one; fp8 and bitsandbytes work on a plain one"
            return Choice(spec.quantization, "--quantization", f"{what}; {remedy}")
        method, reason = spec.quantization if facts.quantization is None else method, "--quantization"
    if method is None:
        return None
    floor = capability_floor("nf4" if method == "bitsandbytes" else method, spec.engine_version)
    capability = gpu.compute_capability
    if floor and capability and capability < floor.capability:
        what = f"{method} needs compute capability {_dotted(floor.capability)} ({floor.note})"
        return Choice(method, reason, f"{what}, {gpu.name} has {_dotted(capability)}")
    if obstacle := _narrowed(facts, spec):
        return Choice(method, reason, obstacle)
    if method in ("bitsandbytes", "nf4", "fp4", "int8") and _version(spec) >= BITSANDBYTES_LEFT:
        reason += f"; from {_dotted(BITSANDBYTES_LEFT[:2])} on vLLM needs the package vllm-bnb-plugin for it"
    return Choice(method, reason)


def _narrowed(facts: ModelFacts, spec: PlanSpec) -> str | None:
    """Why newer versions do not read a GPTQ checkpoint that older ones read."""
    stored = facts.quantization
    if stored is None or stored.method != "gptq" or _version(spec) < GPTQ_NARROWED:
        return None
    if stored.bits in (4, 8) and stored.symmetric is not False:
        return None
    kind = f"{stored.bits:g} bit" + ("" if stored.symmetric is not False else ", asymmetric")
    return f"from {_dotted(GPTQ_NARROWED[:2])} on vLLM reads symmetric GPTQ of 4 and 8 bits only, this is {kind}"


def engine_obstacle(gpu: Gpu) -> str | None:
    """Why vLLM does not run on this card at all."""
    capability = gpu.compute_capability
    if gpu.vendor == "nvidia" and capability and capability < ENGINE_FLOOR:
        return f"vLLM needs compute capability {_dotted(ENGINE_FLOOR)}, {gpu.name} has {_dotted(capability)}"
    return None


def choose_kv_dtype(facts: ModelFacts, spec: PlanSpec, gpu: Gpu) -> Choice:
    """The type of the KV cache."""
    capability = gpu.compute_capability
    if spec.kv_cache_dtype and spec.kv_cache_dtype != "auto":
        if spec.kv_cache_dtype.startswith("fp8") and capability and capability < FP8_KV_FLOOR:
            return Choice(
                "auto", "--kv-cache-dtype", f"an fp8 KV cache needs compute capability {_dotted(FP8_KV_FLOOR)}"
            )
        return Choice(spec.kv_cache_dtype, "--kv-cache-dtype")
    asked = facts.quantization.kv_cache if facts.quantization else None
    if asked and asked.startswith("fp8"):
        return Choice("fp8", "the checkpoint carries scales for an fp8 KV cache")
    return Choice("auto", "the model's own type")


def default_batched_tokens(spec: PlanSpec, gpu: Gpu, row: Coefficients, max_model_len: int) -> int:
    """The default of vLLM's API server: 8192 on large GPUs, 16384 from 160 GiB and 0.28 on, else 2048."""
    if spec.max_num_batched_tokens:
        return spec.max_num_batched_tokens
    if row.profile_whole_context:
        # Engine V0 computes a prompt at once; beyond 32768 tokens in pieces, where the card's kernels can.
        in_pieces = max_model_len > 32768 and (gpu.compute_capability or (8, 0)) >= (8, 0)
        return 2048 if in_pieces else max(max_model_len, 2048)
    if gpu.total_gib >= _HUGE_GPU_GIB and _version(spec) >= (0, 28, 0):
        return 16384
    return 8192 if is_large(gpu, spec) else 2048


def default_num_seqs(spec: PlanSpec, gpu: Gpu, row: Coefficients) -> int:
    """The default of vLLM's API server: 1024 on the same large GPUs, else 256; never more than the tokens of a step."""
    if spec.max_num_seqs:
        return spec.max_num_seqs
    most = spec.max_num_batched_tokens or row.large_gpu_seqs
    return min(most, row.large_gpu_seqs if is_large(gpu, spec) else 256)


def is_large(gpu: Gpu, spec: PlanSpec) -> bool:
    """Whether vLLM takes this card for a large one: 70 GiB and more, but no A100; H100 and H200 by name before 0.9."""
    name = gpu.name.lower()
    if _version(spec) < (0, 9, 0):
        return "h100" in name or "h200" in name
    return gpu.total_gib >= _LARGE_GPU_GIB and "a100" not in name


def _version(spec: PlanSpec) -> Version:
    return parse_version(spec.engine_version or DEFAULT_VERSION)


def _dotted(capability: tuple[int, int] | None) -> str:
    return ".".join(map(str, capability)) if capability else "unknown"
