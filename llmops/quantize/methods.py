"""The methods, engines and targets as data: what each can do, and what cannot be loaded where."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from llmops.hardware.host import Gpu, Host


@dataclass(frozen=True, slots=True)
class Method:
    """One way to store weights in fewer bits.

    Attributes:
        bits: Bits it can store, its own default first.
        engines: Engines that make it, preferred first.
        calibrated: Whether it needs text.
        grouped: Whether ``group_size`` applies.
        min_capability: Of the GPUs on which vLLM runs it.
        vllm_cpu_bits: The bits that vLLM runs on a CPU.
    """

    name: str
    summary: str
    bits: tuple[int, ...]
    engines: tuple[str, ...]
    min_capability: tuple[int, int]
    calibrated: bool = False
    grouped: bool = False
    vllm_cpu_bits: tuple[int, ...] = ()


METHODS: Final[dict[str, Method]] = {
    method.name: method
    for method in (
        Method(
            "gptq",
            "weights fitted layer by layer on text",
            (4, 8),
            ("gptqmodel", "llmcompressor"),
            calibrated=True,
            grouped=True,
            min_capability=(7, 5),
            vllm_cpu_bits=(4,),
        ),
        Method(
            "awq",
            "weights scaled by how much activations use them",
            (4,),
            ("llmcompressor",),
            calibrated=True,
            grouped=True,
            min_capability=(7, 5),
            vllm_cpu_bits=(4,),
        ),
        Method(
            "w8a8", "int8 weights and activations", (8,), ("llmcompressor",), min_capability=(7, 5), vllm_cpu_bits=(8,)
        ),
        Method(
            "fp8", "float8 weights and activations", (8,), ("llmcompressor",), min_capability=(8, 0), vllm_cpu_bits=(8,)
        ),
        Method("bnb-nf4", "normal-float weights, no text", (4,), ("bitsandbytes",), min_capability=(7, 0)),
        Method("bnb-int8", "int8 with float16 outliers, no text", (8,), ("bitsandbytes",), min_capability=(7, 5)),
    )
}
GROUP_SIZES: Final = (32, 64, 128, -1)
TARGETS: Final = ("vllm", "transformers", "triton")


@dataclass(frozen=True, slots=True)
class Engine:
    """A library that quantises.

    Attributes:
        module: What must be importable in its interpreter; its package's name too, as an extra brings it.
        adapter: Module of ``adapters/`` that drives it.
        deterministic: Whether the same input, seed and threads give the same bytes.
        needs: Further modules without which its checkpoints cannot be reloaded for the comparison.
    """

    name: str
    module: str
    adapter: str
    own_environment: bool
    deterministic: bool
    needs: tuple[str, ...] = ()


ENGINES: Final[dict[str, Engine]] = {
    engine.name: engine
    for engine in (
        Engine("gptqmodel", "gptqmodel", "with_gptqmodel", False, True, ("optimum",)),
        Engine("bitsandbytes", "bitsandbytes", "with_bitsandbytes", False, True, ("accelerate",)),
        Engine("llmcompressor", "llmcompressor", "with_llmcompressor", True, True),
    )
}


def default_method(host: Host) -> tuple[str, str]:
    """The method for this machine, and why: fp8 where the GPU computes in it, else GPTQ 4 bit."""
    capable = [gpu for gpu in host.usable_gpus if gpu.compute_capability and gpu.compute_capability >= (8, 9)]
    if capable and len(capable) == len(host.usable_gpus):
        return "fp8", f"{capable[0].name} computes in float8"
    if host.usable_gpus:
        return "gptq", f"{host.usable_gpus[0].name} has no float8; 4-bit GPTQ serves on every recent GPU"
    return "gptq", "no GPU; 4-bit GPTQ serves on CPUs and on every recent GPU"


@dataclass(frozen=True, slots=True)
class Format:
    """What a checkpoint will be, as far as it decides who can load it. ``ordered`` is GPTQ's activation order."""

    method: Method
    bits: int
    ordered: bool = False


def target_refusal(made: Format, target: str, host: Host) -> tuple[str, str] | None:
    """Why ``target`` on this machine cannot load a checkpoint, and what to use instead; None when it can.

    ``triton`` means Triton's vLLM backend, so what vLLM cannot load, Triton cannot. What vLLM loads is read from
    version 0.32, and tried on a CPU: no activation order over groups; on a CPU no 8-bit weights with 16-bit activations.
    """
    if target == "transformers":
        return None
    name = "vLLM" if target == "vllm" else "Triton's vLLM backend"
    if made.ordered:
        return f"{name} no longer loads GPTQ in activation order", "leave --desc-act out, or use --target transformers"
    if not host.usable_gpus:
        if made.bits in made.method.vllm_cpu_bits:
            return None
        what = f"{made.bits}-bit {made.method.name}" if made.method.vllm_cpu_bits else made.method.name
        return f"{name} on a CPU cannot load {what}", "use 4-bit gptq or w8a8, or --target transformers"
    for gpu in host.usable_gpus:
        problem = _gpu_refusal(made.method, gpu)
        if problem:
            return f"{name} cannot run {made.method.name} on {gpu.name}: {problem}", "use --method gptq"
    return None


def _gpu_refusal(method: Method, gpu: Gpu) -> str | None:
    capability = gpu.compute_capability
    if capability is None:
        return None
    if capability < method.min_capability:
        need = ".".join(map(str, method.min_capability))
        return f"it needs compute capability {need}, this one has {capability[0]}.{capability[1]}"
    if method.name == "w8a8" and capability[0] >= 10:
        return "its int8 kernels do not exist for Blackwell"
    return None
