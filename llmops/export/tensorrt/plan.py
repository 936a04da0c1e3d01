"""Decide an engine build from the graph's facts and the machine, without TensorRT and without a GPU. Pure."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Final, Literal

from llmops.checkpoint.onnx_facts import OnnxFacts
from llmops.errors import ExitCode, LlmopsError, UsageError
from llmops.export.tensorrt.profiles import Profile, resolve
from llmops.export.tensorrt.spec import EngineBuildSpec
from llmops.findings import Finding
from llmops.units import format_size, parse_size

Module = Literal["tensorrt", "tensorrt_rtx"]
# Compute capabilities that TensorRT-RTX builds for; data-centre Hopper and Blackwell want the full TensorRT.
RTX_CAPABILITIES: Final = ((7, 5), (8, 0), (8, 6), (8, 9), (12, 0), (12, 1))
# Peak of a build over the weights, as measured with TensorRT-RTX: graph, parsed network, engine.
RAM_FACTOR: Final = 3.5
RAM_BASE_BYTES: Final = 700_000_000
INSTALL: Final = {
    "tensorrt": "pip install tensorrt (its libraries come from NVIDIA's own package index, not from PyPI)",
    "tensorrt_rtx": "pip install 'llmops[tensorrt]'",
}


@dataclass(frozen=True, slots=True)
class BuildMachine:
    """What the machine has.

    Attributes:
        modules: Which of the two packages can be imported.
        driver: Version of the NVIDIA driver.
        gpu: Name of the first usable GPU; ``capability`` and ``gpu_bytes`` are its own.
        memory_bytes: Free main memory.
    """

    modules: frozenset[str]
    memory_bytes: int
    disk_bytes: int
    driver: str | None = None
    gpu: str | None = None
    capability: tuple[int, int] | None = None
    gpu_bytes: int = 0


@dataclass(frozen=True, slots=True)
class BuildPlan:
    """What will be built. ``missing`` is not empty when this machine cannot build it."""

    module: Module
    profiles: tuple[Profile, ...]
    workspace_bytes: int
    precision: str
    ram_bytes: int
    findings: tuple[Finding, ...] = ()
    missing: tuple[Finding, ...] = ()


@dataclass(frozen=True, slots=True)
class Exported:
    """What the record of an export says of its graph; None where there is none."""

    task: str | None = None
    longest: int | None = None


def make_plan(
    spec: EngineBuildSpec, facts: OnnxFacts, machine: BuildMachine, exported: Exported = Exported()
) -> BuildPlan:
    """Decide everything that needs no builder.

    Args:
        spec: What was asked.
        facts: The graph.
        machine: The machine.
        exported: What the graph was exported for.

    Raises:
        UsageError: The graph or the options cannot give an engine.
    """
    _refuse_graph(facts)
    _refuse_options(spec, facts)
    module = choose_module(spec, machine)
    workspace = parse_size(spec.workspace)
    if workspace <= 0:
        raise UsageError(f"--workspace {spec.workspace}: not a size that holds anything", "--workspace 4GiB")
    profiles = resolve(facts.inputs, spec, exported.longest)
    ram = int(facts.weights_bytes * (RAM_FACTOR + (1.5 if spec.precision in ("fp16", "bf16") else 0))) + RAM_BASE_BYTES
    findings = (*_advice(spec, facts, machine, exported.task), *_workspace(workspace, machine, module))
    return BuildPlan(module, profiles, workspace, spec.precision, ram, findings, lacking(spec, module, machine, ram))


def choose_module(spec: EngineBuildSpec, machine: BuildMachine) -> Module:
    """The package that builds: full TensorRT where it and a GPU are there, else TensorRT-RTX."""
    if spec.backend != "auto":
        return "tensorrt" if spec.backend == "tensorrt" else "tensorrt_rtx"
    return "tensorrt" if machine.gpu and "tensorrt" in machine.modules else "tensorrt_rtx"


def lacking(spec: EngineBuildSpec, module: Module, machine: BuildMachine, ram_bytes: int) -> tuple[Finding, ...]:
    """What this machine lacks for the build, one line each."""
    found = []
    if module == "tensorrt":
        if machine.driver is None:
            found.append(Finding("no-driver", "error", "there is no NVIDIA driver", "install the NVIDIA driver"))
        if machine.gpu is None:
            found.append(Finding("no-gpu", "error", "there is no usable GPU, and full TensorRT measures kernels on one",
                                 "--backend rtx builds without a GPU, for compute capability 7.5 to 8.9 and 12"))  # fmt: skip
    elif spec.timing_cache is not None and machine.gpu is None:
        found.append(Finding("no-gpu", "error", "a timing cache holds times measured on a GPU, and there is none",
                             "leave --timing-cache out"))  # fmt: skip
    elif (spec.refit or spec.strip) and machine.gpu is None:
        option = "--refit" if spec.refit else "--strip"
        found.append(Finding("no-gpu", "error", f"TensorRT-RTX builds with {option} only where there is a GPU",
                             f"leave {option} out"))  # fmt: skip
    if spec.layer_info is not None and machine.gpu is None:
        found.append(Finding("no-gpu", "error", "layer information is read from the loaded engine, which needs a GPU",
                             "leave --layer-info out"))  # fmt: skip
    if module not in machine.modules:
        found.append(Finding("no-package", "error", f"the package {module} is not installed", INSTALL[module]))
    if ram_bytes > machine.memory_bytes:
        text = f"the build needs about {format_size(ram_bytes)} of memory, {format_size(machine.memory_bytes)} are free"
        found.append(Finding("no-memory", "error", text, "use a machine with more memory, or a smaller type"))
    return tuple(found)


def refusal(plan: BuildPlan) -> LlmopsError:
    """All that is missing, in one line; the findings have a line each."""
    error = LlmopsError(
        f"this machine cannot build the engine: {'; '.join(finding.message for finding in plan.missing)}",
        next((finding.remedy for finding in plan.missing if finding.rule == "no-gpu"), plan.missing[0].remedy),
        exit_code=ExitCode.MACHINE,
    )
    error.findings = plan.missing  # type: ignore[attr-defined]  # the JSON envelope takes an error's own findings
    return error


def is_causal_lm(facts: OnnxFacts) -> bool:
    """Whether the graph looks like a text generator: token ids and positions to logits over a vocabulary."""
    names = {tensor.name for tensor in facts.inputs}
    logits = [tensor for tensor in facts.outputs if tensor.name == "logits"]
    return "input_ids" in names and bool(logits) and len(logits[0].dims or ()) == 3


def profile_data(profiles: tuple[Profile, ...]) -> list[dict[str, Any]]:
    """Profiles as plain data: input -> min, opt, max."""
    return [
        {name: {"min": list(b.min), "opt": list(b.opt), "max": list(b.max)} for name, b in each.items()}
        for each in profiles
    ]


def _refuse_graph(facts: OnnxFacts) -> None:
    for finding in facts.findings:
        if finding.severity == "error" or finding.rule in ("tensorrt-operator", "tensorrt-type"):
            raise UsageError(finding.message, finding.remedy)
    if not facts.inputs:
        raise UsageError(f"{facts.path} has no inputs", "export it again")
    unranked = [tensor.name for tensor in facts.inputs if tensor.dims is None]
    if unranked:
        raise UsageError(f"the input {unranked[0]} has no known rank", "export it with named dimensions")


def _refuse_options(spec: EngineBuildSpec, facts: OnnxFacts) -> None:
    quantised = any(
        name in facts.operators for name in ("QuantizeLinear", "DequantizeLinear", "trt::TRT_FP8QuantizeLinear")
    )
    if spec.precision == "fp8" and not quantised:
        raise UsageError(
            "--precision fp8 needs a graph with quantise and dequantise nodes, and this one has none",
            "quantise the ONNX file with nvidia-modelopt first, then build it with --precision fp8",
        )
    if spec.opt_level is not None and not 0 <= spec.opt_level <= 5:
        raise UsageError(f"--opt-level {spec.opt_level}: not between 0 and 5", "--opt-level 3")
    if spec.refit and spec.strip:
        raise UsageError("--refit and --strip exclude each other: a stripped engine is refitted when it is loaded",
                         "give one of them")  # fmt: skip
    for text in spec.compute_capabilities:
        capability = parse_capability(text)
        if capability not in RTX_CAPABILITIES:
            known = ", ".join(f"{major}.{minor}" for major, minor in RTX_CAPABILITIES)
            raise UsageError(
                f"--compute-capability {text}: TensorRT-RTX builds for {known}", "--backend tensorrt on such a GPU"
            )
    if spec.compute_capabilities and spec.backend == "tensorrt":
        raise UsageError("--compute-capability is of --backend rtx; full TensorRT builds for the GPU it runs on",
                         "--hardware-compatible widens that")  # fmt: skip


def parse_capability(text: str) -> tuple[int, int]:
    """``8.9`` or ``89`` -> (8, 9).

    Raises:
        UsageError: It is no compute capability.
    """
    digits = text.lower().removeprefix("sm").lstrip("_").replace(".", "")
    if not digits.isdigit() or len(digits) < 2:
        raise UsageError(f"--compute-capability {text}: not a compute capability", "write it as 8.9")
    return int(digits[:-1]), int(digits[-1])


def _advice(spec: EngineBuildSpec, facts: OnnxFacts, machine: BuildMachine, task: str | None) -> tuple[Finding, ...]:
    found = []
    if is_causal_lm(facts):
        cache = (
            "" if task == "causal-lm-cache" or any("past" in t.name for t in facts.inputs) else " without a KV cache"
        )
        found.append(Finding(
            "causal-lm-engine", "warning",
            f"this is a text generator{cache}: as a TensorRT engine it is slower than vLLM or TensorRT-LLM, which keep the cache in pages",
            "llmops serve MODEL --engine vllm, or trtllm-serve MODEL",
        ))  # fmt: skip
    found += [finding for finding in facts.findings if finding.rule == "tensorrt-custom-operator"]
    if spec.precision == "as-is" and set(facts.weight_dtypes) <= {"FLOAT", "INT64", "INT32", "BOOL"}:
        found.append(
            Finding("engine-float32", "note", "the engine will compute in float32", "--precision fp16 halves it")
        )
    rtx = choose_module(spec, machine) == "tensorrt_rtx"
    if rtx:
        text = (
            "only TensorRT-RTX loads this engine; Triton's tensorrt backend and trtexec load those of the full TensorRT"
        )
        found.append(Finding("rtx-engine", "note", text, "--backend tensorrt, on the machine with the GPU"))
    if rtx and machine.capability and machine.capability not in RTX_CAPABILITIES:
        text = f"TensorRT-RTX has no kernels for this GPU (compute capability {machine.capability[0]}.{machine.capability[1]})"
        found.append(Finding("rtx-gpu", "warning", text, "--backend tensorrt"))
    return tuple(found)


def _workspace(workspace: int, machine: BuildMachine, module: Module) -> tuple[Finding, ...]:
    if machine.gpu and workspace > machine.gpu_bytes:
        text = f"--workspace {format_size(workspace)} is more than the GPU has ({format_size(machine.gpu_bytes)})"
        return (Finding("workspace", "warning", text, f"--workspace {max(1, machine.gpu_bytes // 2**31)}GiB"),)
    if not machine.gpu and module == "tensorrt_rtx":
        return (Finding("no-gpu", "note", "built without a GPU: the workspace is checked where the engine is loaded"),)
    return ()
