"""Sizes, memory and time of a quantisation before it runs. Pure; each coefficient says where it comes from."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from llmops.checkpoint.facts import Linear, ModelFacts
from llmops.units import GIB

# Peak of a process that has imported torch, transformers and the engine and loaded nothing: measured on the CPU.
_IMPORTS_BYTES: Final = {"gptqmodel": 0.9 * GIB, "bitsandbytes": 0.7 * GIB, "llmcompressor": 0.8 * GIB}
# Copies of the model's bytes that are in memory at the peak: measured with a 0.27 billion parameter model.
_COPIES: Final = {"gptqmodel": 2.5, "bitsandbytes": 1.2, "llmcompressor": 1.5}
# The comparison: one model at a time, the head of the other, and a slice of both distributions. Measured likewise.
_COMPARE_BYTES: Final = 0.9 * GIB
_COMPARE_COPIES: Final = 2.5
# CPU seconds a billion weights for one core, measured with GPTQ on a 0.1 billion weights of linear layers (the rest of
# that model is its vocabulary); they scale with width too, so a large model takes longer than this says.
_CPU_S_PER_BILLION: Final = {"gptqmodel": 850.0, "llmcompressor": 550.0, "bitsandbytes": 25.0}


@dataclass(frozen=True, slots=True)
class Scheme:
    """What a model is turned into, and by which engine. ``group_size`` -1 is one scale a row."""

    method: str
    engine: str
    bits: int
    group_size: int


@dataclass(frozen=True, slots=True)
class Estimate:
    """What a run needs.

    Attributes:
        before_bytes: Tensors of the original.
        after_bytes: Tensors of the result.
        disk_bytes: Result and scratch space at their peak, with a fifth for safety.
        memory_bytes: Peak of the engine's process in main memory.
        seconds: Quantising on this machine, without the comparison; within a factor of two. None on a GPU, where it
            was never measured.
    """

    before_bytes: int
    after_bytes: int
    disk_bytes: int
    memory_bytes: int
    seconds: float | None


def to_quantise(facts: ModelFacts) -> tuple[Linear, ...]:
    """The linear layers that get quantised: attention, feed-forward and experts, never the output head."""
    return tuple(linear for linear in facts.linears if linear.part in ("attention", "mlp", "experts"))


def quantised_bytes(linear: Linear, method: str, bits: int, group_size: int) -> int:
    """Stored bytes of one layer with its scales and, for GPTQ, zero points and group index."""
    weights = linear.in_features * linear.out_features
    if method in ("gptq", "awq"):
        groups = 1 if group_size == -1 else -(-linear.in_features // group_size)
        scales = groups * linear.out_features * 2
        zeros = groups * linear.out_features * bits // 8
        return weights * bits // 8 + scales + zeros + (4 * linear.in_features if method == "gptq" else 0)
    if method == "bnb-nf4":  # a scale of one byte for 64 weights, itself scaled in blocks of 256
        return weights // 2 + weights // 64 + weights // 64 // 256 * 4
    if method == "bnb-int8":
        return weights + 4 * linear.out_features
    return weights + 2 * linear.out_features


def estimate(facts: ModelFacts, scheme: Scheme, *, tokens: int, threads: int, on_gpu: bool, compared: bool) -> Estimate:
    """Everything that a plan says in advance.

    Args:
        facts: The model.
        scheme: What it is turned into.
        tokens: Size of the calibration text, 0 for none.
        threads: CPU threads.
        on_gpu: Whether a GPU does the work.
        compared: Whether the result is compared with the original afterwards.
    """
    engine = scheme.engine
    layers = to_quantise(facts)
    converted = facts.format == "gguf"  # turned into 16-bit safetensors beside the result first
    before = 2 * facts.parameters if converted else facts.size_bytes
    plain = sum(2 * layer.in_features * layer.out_features if converted else layer.size_bytes for layer in layers)
    # The rest is stored in 16 bit.
    kept = (before - plain) // 2 if facts.dtype == "float32" and not converted else before - plain
    after = kept + sum(quantised_bytes(layer, scheme.method, scheme.bits, scheme.group_size) for layer in layers)
    # GPTQModel moves finished and unfinished layers to disk: at the peak, the original once more.
    scratch = before * ((engine == "gptqmodel") + converted)
    widest = max((layer.in_features for layer in layers), default=0)
    # Inputs of a layer and its outputs are kept for every calibration token; a Hessian is in float32, twice.
    activations = 2 * tokens * facts.hidden * 2 + 3 * widest * widest * 4
    memory = _IMPORTS_BYTES[engine] + _COPIES[engine] * before + activations
    if compared:
        memory = max(memory, comparison_bytes(before))
    return Estimate(
        before_bytes=before,
        after_bytes=after,
        disk_bytes=int(1.2 * (after + scratch)),
        memory_bytes=int(memory),
        seconds=None if on_gpu else _seconds(layers, engine, tokens, threads),
    )


def comparison_bytes(original: int) -> int:
    """Peak memory of comparing a model of ``original`` bytes of tensors with its changed copy."""
    return int(_COMPARE_BYTES + _COMPARE_COPIES * original)


def _seconds(layers: tuple[Linear, ...], engine: str, tokens: int, threads: int) -> float:
    weights = sum(linear.in_features * linear.out_features for linear in layers) / 1e9
    fixed = 15.0  # imports and loading
    # Two passes over the text, two floating-point operations a weight, at about 40 GFLOP/s a core in bfloat16.
    passes = 2 * 2 * weights * tokens / 40.0
    return fixed + (weights * _CPU_S_PER_BILLION[engine] + passes) / max(1, threads)
