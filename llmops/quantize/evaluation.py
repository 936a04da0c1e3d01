"""``evaluate``: the quality gate alone, on a model that exists."""

from __future__ import annotations

import tempfile
from pathlib import Path

from llmops.checkpoint.facts import ModelFacts
from llmops.checkpoint.legacy import as_read_today
from llmops.errors import MachineError, UsageError
from llmops.hardware.detect import detect
from llmops.progress import Progress
from llmops.quantize import options, preflight
from llmops.quantize.compare import Comparing, compare, shortage
from llmops.quantize.estimates import comparison_bytes
from llmops.quantize.gate import judge, thresholds
from llmops.quantize.material import TextFacts, evaluation_text
from llmops.quantize.methods import ENGINES, Engine
from llmops.quantize.plan import device_of, dtype_of, threads_of
from llmops.quantize.refusals import raise_first
from llmops.quantize.report import EvaluateReport
from llmops.quantize.runtime import find_runtime
from llmops.quantize.source import resolve
from llmops.quantize.spec import EvaluateSpec
from llmops.units import format_size


def evaluate(spec: EvaluateSpec, progress: Progress) -> EvaluateReport:
    """Compare ``spec.model`` with ``spec.against`` and judge it.

    Raises:
        UsageError: A model or the text cannot be used.
        MachineError: The engine that loads the model is not installed, or memory does not suffice.
        OutsideError: A model cannot be loaded or run.
    """
    progress.phase("Checking the models, the text and this machine")
    raise_first([*options.check_gate(spec.quality), *options.check_device(spec.device)])
    text = evaluation_text(spec.quality.eval_text)
    model, base = resolve(spec.model, progress), resolve(spec.against, progress)
    for source in (model, base):
        _refuse_unfit(source.name, source.facts)
    if model.facts.vocab != base.facts.vocab:
        raise UsageError(
            f"{spec.model} has {model.facts.vocab} tokens, {spec.against} has {base.facts.vocab}: they cannot be compared",
            "give the checkpoint that the model was made from with --against",
        )
    bits = spec.bits or (int(model.facts.quantization.bits) if model.facts.quantization else 8)
    how = _how(spec, text, model.facts, base.facts)
    with tempfile.TemporaryDirectory(prefix="llmops-evaluate-") as work:
        changed = as_read_today(model.path, Path(work))
        measured = compare(base.path, changed, how, work=Path(work), progress=progress)
    gate, findings = judge(measured.quality, thresholds(spec.quality, bits))
    return EvaluateReport(
        ok=gate.passed is True,
        findings=(*findings, *shortage(spec.quality, measured)),
        model=spec.model,
        against=spec.against,
        bits=bits,
        gate=gate,
        comparison=measured,
    )


def _how(spec: EvaluateSpec, text: TextFacts, model: ModelFacts, base: ModelFacts) -> Comparing:
    host = detect(sample_s=0)  # how busy the cores are now decides nothing here
    device = device_of(spec.device, host)
    raise_first(list(preflight.check_gpu(device, host, base.size_bytes)))
    need = comparison_bytes(base.size_bytes)
    if device == "cpu" and need > host.memory.available_bytes:
        raise MachineError(
            f"about {format_size(need)} of memory are needed, {format_size(host.memory.available_bytes)} are free",
            "stop other programs, or compare on a larger machine",
        )
    runtime = find_runtime(engine_for(model), spec.engine_python)
    threads = threads_of(spec.threads, host)
    return Comparing(text, spec.quality, runtime.python, device, dtype_of(base, device), threads, spec.seed)


def engine_for(facts: ModelFacts) -> Engine:
    """The engine whose environment can load a model: that of its format, else any that has transformers."""
    kind = facts.quantization.quant_method if facts.quantization else ""
    if kind == "compressed-tensors":
        return ENGINES["llmcompressor"]
    if kind == "bitsandbytes":
        return ENGINES["bitsandbytes"]
    if kind in ("gptq", "awq"):
        return ENGINES["gptqmodel"]
    return Engine("transformers", "transformers", "compare", own_environment=False, deterministic=True)


def _refuse_unfit(name: str, facts: ModelFacts) -> None:
    if facts.format != "hf":
        raise UsageError(
            f"{name} is not a model directory", "convert a GGUF file first: llmops convert gguf FILE -o DIR"
        )
    if not facts.complete:
        raise_first([preflight.incomplete(name, facts)])
    if not facts.tokenizer.present:
        raise UsageError(f"{name} has no tokenizer", "copy tokenizer.json beside the weights")
