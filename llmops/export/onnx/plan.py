"""Decide an export from facts: the task, the dimensions, what memory and disk it takes, and what is refused. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from llmops.checkpoint.facts import ModelFacts
from llmops.errors import LlmopsError, MachineError, UsageError
from llmops.export.onnx.spec import DTYPE_BYTES, MIN_AGREEMENT, OnnxSpec, Pooling, Task, parse_range
from llmops.findings import Finding
from llmops.units import format_size

# What is asked for, over the weights in the export's own type, for tracing, conversion and saving. Measured is less
# (benchmarks/export/exporting.py, tests/export/test_onnx_export.py; torch 2.13): Gemma-3-270M in float32, with a cache, has 1.07 GB
# of weights and peaked at 2.16 GB, twice. Exporters have taken 6.7 times with the comparison in the same process, and a pass that
# copies weights (constants folded, tied ones split) adds one time each: five leaves room for three of them.
RAM_FACTOR: Final = 5.0
# Interpreter, torch and the graph itself: a model of 1 MB peaks at 0.5 GB.
RAM_BASE_BYTES: Final = 1_200_000_000
DISK_FACTOR: Final = 1.05
OPSETS: Final = {"dynamo": (18, 25), "torchscript": (14, 20)}


@dataclass(frozen=True, slots=True)
class Sentence:
    """How the model's own files say that its embeddings are made; None where they say nothing."""

    pooling: Pooling | None = None
    normalize: bool | None = None


@dataclass(frozen=True, slots=True)
class Machine:
    """What the machine has free, in bytes."""

    memory_bytes: int
    disk_bytes: int
    cores: int = 1


@dataclass(frozen=True, slots=True)
class OnnxPlan:
    """What will be done.

    Attributes:
        batch: Least and most rows.
        seq: Least and most tokens, within the model's own limit.
        ram_bytes: Memory that the export needs at its peak.
        check_bytes: Memory that the check needs, in its own process: the reference runs in float32.
        disk_bytes: Size of the result.
        min_agreement: Below this the export is rejected.
        notes: What the plan changed or what the user should know.
        precision: Of the weights in the result: ``dtype``, or the builder's own word.
    """

    task: Task
    dtype: str
    batch: tuple[int, int]
    seq: tuple[int, int]
    opset: int | None
    exporter: str
    pooling: Pooling | None
    normalize: bool
    ram_bytes: int
    check_bytes: int
    disk_bytes: int
    min_agreement: float
    threads: int
    notes: tuple[Finding, ...] = ()
    precision: str = ""


def cases(
    batch: tuple[int, int], seq: tuple[int, int], window: int | None, *, padding: bool = True
) -> list[tuple[int, ...]]:
    """Row lengths of each test batch: length 1, one row, padding by different amounts, and past a sliding window."""
    top, rows = seq[1], batch[1]
    low = seq[0]

    def fit(*lengths: int) -> tuple[int, ...]:
        wanted = lengths if padding else (lengths[0],) * len(lengths)
        return tuple(max(1, low, min(length, top)) for length in wanted[:rows])

    found = [fit(1), fit(8), fit(13, 8), fit(3, 17, 32, 1)]
    if window and window + 8 <= top and window <= 4096:
        found.append(fit(window + 8))
    else:
        found.append(fit(48))
    return found


def smallest_window(facts: ModelFacts) -> int | None:
    """Of the layers that see a sliding window; None where all see everything."""
    return min((group.window for group in facts.groups if group.window), default=None)


def check_memory(facts: ModelFacts, task: Task, weights_bytes: int, shapes: Sequence[tuple[int, ...]]) -> int:
    """What the comparison takes at its peak, in bytes.

    The reference in float32, ONNX Runtime's copy beside the mapped file, and for text generators the logits: those of the
    reference for all shapes, and of the largest one three times over (PyTorch's or ONNX Runtime's output and its arena).
    Gemma-3-270M with a cache, whose vocabulary of 262,144 makes 2.4 GB of logits: 4.37 GB measured, 5.70 GB asked for.
    """
    tokens = [len(lengths) * max(lengths) for lengths in shapes]
    logits = 4 * (facts.vocab or 0) * (sum(tokens) + 3 * max(tokens)) if task.startswith("causal-lm") else 0
    return facts.parameters * 4 + weights_bytes + logits + RAM_BASE_BYTES


def choose_task(facts: ModelFacts) -> Task:
    """The task that the model's class stands for."""
    if "SequenceClassification" in facts.architecture:
        return "classification"
    return "causal-lm" if facts.is_generative else "embedding"


def make_plan(spec: OnnxSpec, facts: ModelFacts, machine: Machine, sentence: Sentence = Sentence()) -> OnnxPlan:
    """Decide everything before anything heavy starts.

    Raises:
        UsageError: The request does not fit the model.
        MachineError: Memory or disk do not suffice.
    """
    _refuse_model(spec, facts)
    task = choose_task(facts) if spec.task == "auto" else spec.task
    if spec.format == "genai":
        task = _genai_task(spec, task)
    _refuse_task(task, facts)
    _refuse_opset(spec)
    seq, notes = _clamp(parse_range(spec.seq, "--seq"), facts)
    weights = facts.parameters * DTYPE_BYTES[spec.dtype]
    batch = parse_range(spec.batch, "--batch")
    shapes = cases(batch, seq, smallest_window(facts), padding=spec.format == "onnx")
    check = check_memory(facts, task, weights, shapes) if spec.check else 0
    plan = OnnxPlan(
        task=task,
        dtype=spec.dtype,
        batch=batch,
        seq=seq,
        opset=spec.opset,
        exporter=spec.exporter if spec.format == "onnx" else "onnxruntime-genai",
        precision=spec.dtype if spec.format == "onnx" else genai_precision(spec),
        pooling=_pooling(spec, facts, sentence) if task == "embedding" else None,
        normalize=_normalize(spec, sentence) if task == "embedding" else False,
        ram_bytes=int(RAM_FACTOR * weights) + RAM_BASE_BYTES,
        check_bytes=check,
        disk_bytes=int(DISK_FACTOR * weights),
        min_agreement=spec.min_agreement if spec.min_agreement is not None else least_agreement(spec),
        threads=spec.threads or machine.cores,
        notes=notes + _advice(task, spec),
    )
    refusal = refuse_machine(plan, machine)
    if refusal is not None:
        raise refusal
    return plan


def least_agreement(spec: OnnxSpec) -> float:
    """The default threshold: rounding may swap near-equal logits, 4-bit weights may do more."""
    if spec.format == "genai":
        return MIN_AGREEMENT[{"int4": "int4", "fp16": "float16", "fp32": "float32"}[genai_precision(spec)]]
    return MIN_AGREEMENT[spec.dtype]


def genai_precision(spec: OnnxSpec) -> str:
    """The builder's word for the precision."""
    return spec.precision or {"float32": "fp32", "float16": "fp16", "bfloat16": "bf16"}[spec.dtype]


def _genai_task(spec: OnnxSpec, task: Task) -> Task:
    if task not in ("causal-lm", "causal-lm-cache") or (spec.task == "causal-lm"):
        raise UsageError("onnxruntime-genai's builder writes text generators with a KV cache only", "--format onnx")
    if genai_precision(spec) not in ("int4", "fp16", "fp32"):
        raise UsageError("onnxruntime-genai's builder has no bfloat16 for the CPU", "--precision fp16 or int4")
    return "causal-lm-cache"


def refuse_machine(plan: OnnxPlan, machine: Machine) -> LlmopsError | None:
    """The error for too little memory or disk, None when both suffice."""
    need = max(plan.ram_bytes, plan.check_bytes)
    if need > machine.memory_bytes:
        smaller = "" if plan.dtype != "float32" else "; --dtype float16 halves the need"
        if plan.check_bytes > plan.ram_bytes:
            smaller += "; --no-check skips the comparison, which needs the most"
        return MachineError(
            f"the export needs about {format_size(need)} of memory at its peak, {format_size(machine.memory_bytes)} are free",
            f"use a machine with more memory{smaller}",
        )
    if plan.disk_bytes > machine.disk_bytes:
        return MachineError(
            f"the result needs {format_size(plan.disk_bytes)} of disk, {format_size(machine.disk_bytes)} are free",
            "free some space, or give another -o",
        )
    return None


def _refuse_model(spec: OnnxSpec, facts: ModelFacts) -> None:
    if facts.format != "hf":
        hint = "llmops convert gguf makes such a directory" if facts.format == "gguf" else "give the directory"
        raise UsageError(f"{spec.model} is not a Hugging Face checkpoint directory ({facts.format})", hint)
    if facts.quantization is not None:
        raise UsageError(
            f"{facts.name} is quantised already ({facts.quantization.method}); ONNX export needs the original weights",
            "export the checkpoint that it was made from; --format genai --precision int4 quantises while exporting",
        )
    if facts.multimodal:
        kinds = " and ".join(facts.multimodal)
        raise UsageError(f"{facts.name} takes {kinds} input; only text models can be exported", "serve it with vLLM")
    damage = [finding for finding in facts.findings if finding.severity == "error"]
    if damage:
        raise UsageError(f"{facts.name}: {damage[0].message}", damage[0].remedy or f"llmops inspect {spec.model}")
    if not facts.complete:
        raise UsageError(f"the weights of {facts.name} are not all there", f"llmops inspect {spec.model}")


def _refuse_task(task: Task, facts: ModelFacts) -> None:
    if task.startswith("causal-lm") and not facts.is_generative:
        raise UsageError(f"{facts.architecture} does not generate text, so {task} cannot be exported",
                         f"--task {choose_task(facts)}")  # fmt: skip
    if task == "classification" and "SequenceClassification" not in facts.architecture:
        raise UsageError(
            f"{facts.architecture} has no classification head, and a new one would be random", "leave --task at auto"
        )
    if task == "causal-lm-cache" and any(group.kind in ("linear", "mla") for group in facts.groups):
        kinds = sorted({group.kind for group in facts.groups})
        raise UsageError(f"{facts.architecture} keeps another state than keys and values ({', '.join(kinds)})",
                         "--task causal-lm")  # fmt: skip


def _refuse_opset(spec: OnnxSpec) -> None:
    low, high = OPSETS[spec.exporter]
    if spec.opset is not None and not low <= spec.opset <= high:
        other = " or --exporter torchscript" if spec.exporter == "dynamo" and spec.opset >= 14 else ""
        raise UsageError(f"the {spec.exporter} exporter writes opset {low} to {high}, not {spec.opset}",
                         f"leave --opset out{other}")  # fmt: skip


def _clamp(seq: tuple[int, int], facts: ModelFacts) -> tuple[tuple[int, int], tuple[Finding, ...]]:
    """The model's own limit bounds the sequence: beyond it an export runs into a broadcast error, or quietly into nonsense."""
    limit = facts.context_length
    if not limit or seq[1] <= limit:
        return seq, ()
    if seq[0] > limit:
        raise UsageError(f"--seq starts at {seq[0]}, but {facts.name} takes at most {limit} tokens", f"--seq 1:{limit}")
    note = Finding("seq-clamped", "note", f"sequences end at {limit} tokens, the model's own limit (asked: {seq[1]})")
    return (seq[0], limit), (note,)


def _pooling(spec: OnnxSpec, facts: ModelFacts, sentence: Sentence) -> Pooling:
    if spec.pooling != "auto":
        return spec.pooling
    return sentence.pooling or ("last" if facts.is_generative else "mean")


def _normalize(spec: OnnxSpec, sentence: Sentence) -> bool:
    if spec.normalize is not None:
        return spec.normalize
    return True if sentence.normalize is None else sentence.normalize


def _advice(task: Task, spec: OnnxSpec) -> tuple[Finding, ...]:
    found = []
    if task == "causal-lm":
        text = "this graph has no KV cache: each new token computes the whole text again"
        found.append(Finding("no-kv-cache", "note", text, "--task causal-lm-cache keeps keys and values"))
    if spec.exporter == "torchscript":
        text = "the TorchScript exporter is deprecated in PyTorch"
        found.append(Finding("torchscript", "note", text, "leave --exporter out where dynamo can trace the model"))
    if spec.dtype == "bfloat16":
        text = "ONNX Runtime's CPU kernels do not know bfloat16: the check runs on a float32 copy of the graph"
        found.append(Finding("bfloat16-check", "note", text))
    return tuple(found)
