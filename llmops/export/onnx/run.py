"""Carry an export out: export and check in processes of their own, then move the result into place, whole."""

from __future__ import annotations

import json
import os
import shutil
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from llmops.checkpoint.onnx_facts import OnnxFacts
from llmops.checkpoint.onnx_file import read_onnx
from llmops.checkpoint.reader import read_model
from llmops.errors import UsageError
from llmops.export.children import run_worker
from llmops.export.onnx.plan import Machine, OnnxPlan, make_plan, smallest_window
from llmops.export.onnx.record import SIDECAR, Work, copy_companions, read_sentence, sidecar, verdicts
from llmops.export.onnx.spec import OnnxSpec
from llmops.extras import require_installed
from llmops.findings import Finding
from llmops.progress import Progress
from llmops.report.files import write_whole


@dataclass(frozen=True, slots=True)
class ExportReport:
    """What an export did; ``ok`` is False when the graph does not agree with the checkpoint.

    Attributes:
        out: Where the result is: the directory asked for, or ``NAME.rejected``.
        parity: The check's measurements; empty when it was not asked for or in a dry run.
        graph: Inputs, outputs and sizes of the written graph; None in a dry run.
    """

    ok: bool
    findings: tuple[Finding, ...]
    model: Path
    out: Path
    plan: OnnxPlan
    dry_run: bool = False
    parity: Mapping[str, Any] = field(default_factory=dict)
    timing: Mapping[str, Any] = field(default_factory=dict)
    graph: OnnxFacts | None = None

    def data(self) -> dict[str, Any]:
        """Everything but the findings, the graph's list of operators among it."""
        left_out = ("ok", "findings", "graph")
        values: dict[str, Any] = {k: getattr(self, k) for k in self.__slots__ if k not in left_out}
        return values | {"graph": None if self.graph is None else graph_data(self.graph)}


def export_onnx(spec: OnnxSpec, progress: Progress, *, dry_run: bool = False) -> ExportReport:
    """Export a checkpoint and compare the result with it.

    Raises:
        UsageError: The request does not fit the model, or ``out`` is there already.
        MachineError: Memory, disk or a package is missing.
        OutsideError: The exporter or ONNX Runtime failed.
    """
    _refuse_out(spec)
    facts = read_model(spec.model)
    plan = make_plan(spec, facts, machine_now(spec.out), read_sentence(spec.model))
    for module in ("torch", "transformers", "onnx", "onnxscript", *(["onnxruntime"] if spec.check else [])):
        require_installed(module, "exporting to ONNX")
    if spec.check and not spec.provider.upper().startswith("CPU"):
        refuse_provider(spec.provider)
    if dry_run:
        return ExportReport(True, plan.notes, spec.model, spec.out, plan, dry_run=True)
    partial = spec.out.with_name(spec.out.name + ".partial")
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir(parents=True)
    work = Work(spec, facts, plan, partial, spec.out.with_name(spec.out.name + ".export.log"))
    work.log.unlink(missing_ok=True)  # of an earlier run that failed
    try:
        report = _produce(work, progress)
    except BaseException:
        shutil.rmtree(partial, ignore_errors=True)
        raise
    work.log.unlink(missing_ok=True)
    return report


def _produce(work: Work, progress: Progress) -> ExportReport:
    spec, plan = work.spec, work.plan
    if spec.format == "genai":
        from llmops.export.onnx.genai import build

        timing = build(work, progress)
    else:
        timing = run_worker(export_job(spec.model, plan, work.partial), work.log, progress, threads=plan.threads)
    graph = read_onnx(work.partial / "model.onnx")
    copied = copy_companions(spec.model, work.partial)
    parity = check(work, progress) if spec.check else {}
    findings = plan.notes + tuple(verdicts(plan, parity))
    ok = not any(finding.severity == "error" for finding in findings)
    progress.phase("writing the record")
    record = sidecar(work, graph, parity, timing, copied)
    write_whole(work.partial / SIDECAR, json.dumps(record, indent=2, ensure_ascii=False) + "\n")
    final = _move(spec, work.partial, ok=ok)
    return ExportReport(
        ok, findings, spec.model, final, plan, parity=parity, timing=timing, graph=read_onnx(final / "model.onnx")
    )


def export_job(model: Path, plan: OnnxPlan, out: Path) -> dict[str, Any]:
    """The exporting worker's job."""
    keys = ("task", "dtype", "opset", "exporter", "pooling", "normalize", "threads")
    return {"kind": "onnx-export", "model": str(model.absolute()), "out": str(out)} | {
        k: getattr(plan, k) for k in keys
    }


def check(work: Work, progress: Progress) -> dict[str, Any]:
    """Compare an exported directory with its checkpoint, in a process of its own."""
    spec, plan, out = work.spec, work.plan, work.partial
    scratch = out.with_name(out.name + ".scratch")
    scratch.mkdir(exist_ok=True)
    keys = ("task", "dtype", "batch", "seq", "pooling", "normalize", "threads")
    job = {k: getattr(plan, k) for k in keys} | {
        "kind": "onnx-check",
        "model": str(spec.model.absolute()),
        "out": str(out),
        "vocab": work.facts.vocab,
        "window": smallest_window(work.facts),
        "provider": spec.provider,
        "scratch": str(scratch),
        "format": spec.format,
        "head_dim": work.facts.head_dim,
    }
    try:
        return run_worker(job, work.log, progress, threads=plan.threads)
    finally:
        shutil.rmtree(scratch, ignore_errors=True)


def machine_now(out: Path) -> Machine:
    """Free memory, disk where ``out`` will be, and cores."""
    import psutil

    place = out.absolute()
    while not place.exists():
        place = place.parent
    return Machine(psutil.virtual_memory().available, shutil.disk_usage(place).free, len(os.sched_getaffinity(0)))


def graph_data(graph: OnnxFacts) -> dict[str, Any]:
    """The graph's facts for JSON."""
    keys = (
        "opset",
        "ir_version",
        "inputs",
        "outputs",
        "operators",
        "parameters",
        "external",
        "weight_dtypes",
        "size_bytes",
    )
    return {key: getattr(graph, key) for key in keys}


def refuse_provider(provider: str) -> None:
    """Refuse an execution provider that ONNX Runtime does not have, before the export.

    Raises:
        MachineError: It is not there.
    """
    from llmops.export.onnx.providers import require_provider

    require_provider(provider)


def _refuse_out(spec: OnnxSpec) -> None:
    if spec.out.is_file():
        raise UsageError(f"{spec.out} is a file", "give a directory with -o")
    if spec.out.is_dir() and any(spec.out.iterdir()) and not spec.force:
        raise UsageError(f"{spec.out} is there already", "--force replaces it, or give another -o")
    if spec.out.absolute() == spec.model.absolute():
        raise UsageError("the output would overwrite the model", "give another -o")


def _move(spec: OnnxSpec, partial: Path, *, ok: bool) -> Path:
    """Into place; a rejected export goes beside it and leaves what is there alone."""
    final = spec.out if ok else spec.out.with_name(spec.out.name + ".rejected")
    old = final.with_name(f"{final.name}.old.{time.monotonic_ns()}")
    if final.exists():
        final.rename(old)
    partial.rename(final)
    shutil.rmtree(old, ignore_errors=True)
    return final
