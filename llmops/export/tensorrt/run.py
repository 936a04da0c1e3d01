"""Carry an engine build out, and write the record beside the engine."""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from llmops import __version__
from llmops.checkpoint.engine_file import record_path, sha256
from llmops.checkpoint.onnx_facts import OnnxFacts
from llmops.checkpoint.onnx_file import read_onnx
from llmops.errors import UsageError
from llmops.export.children import run_worker
from llmops.export.tensorrt.plan import (
    RTX_CAPABILITIES,
    BuildMachine,
    BuildPlan,
    Exported,
    make_plan,
    parse_capability,
    profile_data,
    refusal,
)
from llmops.export.tensorrt.spec import EngineBuildSpec
from llmops.extras import available
from llmops.findings import Finding
from llmops.hardware.detect import detect
from llmops.hardware.host import Host
from llmops.progress import Progress
from llmops.report.files import write_whole


@dataclass(frozen=True, slots=True)
class EngineReport:
    """What a build did.

    Attributes:
        onnx: The graph that was read.
        built: What the builder reported: version, size, time, layers; empty in a dry run.
    """

    ok: bool
    findings: tuple[Finding, ...]
    onnx: Path
    out: Path
    plan: BuildPlan
    graph: OnnxFacts
    dry_run: bool = False
    built: Mapping[str, Any] = field(default_factory=dict)

    def data(self) -> dict[str, Any]:
        """Plan, profiles and the builder's figures."""
        return {
            "onnx": self.onnx,
            "engine": None if self.dry_run else self.out,
            "module": self.plan.module,
            "profiles": profile_data(self.plan.profiles),
            "workspace_bytes": self.plan.workspace_bytes,
            "precision": self.plan.precision,
            "ram_bytes": self.plan.ram_bytes,
            "dry_run": self.dry_run,
            **{key: value for key, value in self.built.items() if key != "tensors"},
        }


def build_tensorrt(spec: EngineBuildSpec, progress: Progress, *, dry_run: bool = False) -> EngineReport:
    """Build an engine, or say what would be built and what is missing.

    Raises:
        UsageError: The graph or the options cannot give an engine.
        MachineError: The machine lacks a driver, a GPU, a package or memory.
        OutsideError: TensorRT refused the graph.
    """
    onnx = graph_file(spec.onnx)
    if spec.out.exists() and not spec.force:
        raise UsageError(f"{spec.out} is there already", "--force replaces it, or give another -o")
    graph = read_onnx(onnx)
    host = detect()
    plan = make_plan(spec, graph, machine_of(host, spec.out), exported(onnx))
    if dry_run:
        findings = plan.findings + plan.missing
        return EngineReport(not plan.missing, findings, onnx, spec.out, plan, graph, dry_run=True)
    if plan.missing:
        for finding in plan.missing:
            progress.note(finding.message + (f": {finding.remedy}" if finding.remedy else ""))
        raise refusal(plan)
    built = _build(spec, plan, onnx, progress)
    findings = plan.findings + _outcome(built)
    record = sidecar(spec, plan, graph, built, host)
    write_whole(record_path(spec.out), json.dumps(record, indent=2) + "\n")
    if spec.layer_info is not None:
        _write_layers(spec, plan, progress)
    return EngineReport(True, findings, onnx, spec.out, plan, graph, built=built)


def _build(spec: EngineBuildSpec, plan: BuildPlan, onnx: Path, progress: Progress) -> dict[str, Any]:
    spec.out.parent.mkdir(parents=True, exist_ok=True)
    partial = spec.out.with_name(spec.out.name + ".partial")
    scratch = spec.out.with_name(spec.out.name + ".scratch")
    log = spec.out.with_name(spec.out.name + ".build.log")
    log.unlink(missing_ok=True)
    scratch.mkdir(exist_ok=True)
    job = {
        "kind": "tensorrt-build",
        "module": plan.module,
        "onnx": str(onnx.absolute()),
        "out": str(partial.absolute()),
        "scratch": str(scratch.absolute()),
        "profiles": profile_data(plan.profiles),
        "workspace_bytes": plan.workspace_bytes,
        "compute_capabilities": [parse_capability(text) for text in spec.compute_capabilities],
        **{key: getattr(spec, key) for key in ("precision", "opt_level", "timing_cache", "version_compatible",
                                               "hardware_compatible", "refit", "strip", "layer_info")},
    }  # fmt: skip
    try:
        built = run_worker(job, log, progress)
        record_path(spec.out).unlink(missing_ok=True)  # that of an engine that is replaced
        partial.replace(spec.out)
    finally:
        partial.unlink(missing_ok=True)
        shutil.rmtree(scratch, ignore_errors=True)
    log.unlink(missing_ok=True)
    return built


def _write_layers(spec: EngineBuildSpec, plan: BuildPlan, progress: Progress) -> None:
    """Load the engine, which its record now allows, and ask what its layers became."""
    log = spec.out.with_name(spec.out.name + ".build.log")
    job = {
        "kind": "tensorrt-run",
        "action": "layers",
        "module": plan.module,
        "engine": str(spec.out.absolute()),
        "layer_info": str(spec.layer_info),
    }
    run_worker(job, log, progress)
    log.unlink(missing_ok=True)


def _outcome(built: Mapping[str, Any]) -> tuple[Finding, ...]:
    cut = built.get("converted", {}).get("cut", 0)
    if not cut:
        return ()
    text = f"{cut} weights lie outside the range of float16 and were cut to it"
    return (Finding("fp16-range", "warning", text, "--precision bf16"),)


def sidecar(
    spec: EngineBuildSpec, plan: BuildPlan, graph: OnnxFacts, built: Mapping[str, Any], host: Host
) -> dict[str, Any]:
    """``ENGINE.json``: what the engine is, and where it may be loaded."""
    gpu = next(iter(host.usable_gpus), None)
    targets = [list(parse_capability(text)) for text in spec.compute_capabilities]
    if not targets:
        rtx = plan.module == "tensorrt_rtx"
        targets = (
            [list(each) for each in RTX_CAPABILITIES] if rtx else [list(gpu.compute_capability or ())] if gpu else []
        )
    return {
        "schema": "llmops.build.tensorrt/1",
        "llmops": __version__,
        "tensorrt": {"module": plan.module, "version": built["version"]},
        "gpu": None if gpu is None else {"name": gpu.name, "compute_capability": gpu.compute_capability},
        "compute_capabilities": targets,
        "version_compatible": spec.version_compatible,
        "hardware_compatible": spec.hardware_compatible,
        "precision": spec.precision,
        "workspace_bytes": plan.workspace_bytes,
        "flags": built["flags"],
        "profiles": profile_data(plan.profiles),
        "tensors": built["tensors"],
        "layers": built["layers"],
        "onnx": {"file": graph.path.name, "sha256": sha256(graph.path),
                 "external": {name: sha256(graph.path.parent / name) for name in graph.external}},
        "engine": {"file": spec.out.name, "sha256": sha256(spec.out), "size_bytes": built["size_bytes"]},
    }  # fmt: skip


def graph_file(path: Path) -> Path:
    """The .onnx file itself, or the one in an exported directory.

    Raises:
        UsageError: It is a checkpoint, which must be exported first.
    """
    if not path.is_dir():
        return path
    graph = path / "model.onnx"
    if not graph.is_file() and (path / "config.json").is_file():
        raise UsageError(f"{path} is a checkpoint, not an ONNX file", f"llmops export onnx {path} -o {path.name}-onnx")
    return graph


def exported(onnx: Path) -> Exported:
    """What the record beside a graph says of it."""
    record = onnx.parent / "export.json"
    if not record.is_file():
        return Exported()
    try:
        said = json.loads(record.read_text(encoding="utf-8"))
        return Exported(str(said["task"]), int(said["dimensions"]["sequence"][1]))
    except (ValueError, KeyError, TypeError, IndexError):
        return Exported()


def machine_of(host: Host, out: Path) -> BuildMachine:
    """What of the machine matters to a build."""
    gpu = next((gpu for gpu in host.usable_gpus if gpu.vendor == "nvidia"), None)
    place = out.absolute()
    while not place.exists():
        place = place.parent
    return BuildMachine(
        modules=frozenset(name for name in ("tensorrt", "tensorrt_rtx") if available(name)),
        memory_bytes=host.memory.available_bytes,
        disk_bytes=shutil.disk_usage(place).free,
        driver=host.driver.version,
        gpu=gpu.name if gpu else None,
        capability=gpu.compute_capability if gpu else None,
        gpu_bytes=gpu.total_bytes if gpu else 0,
    )
