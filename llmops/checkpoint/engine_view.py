"""How ``llmops inspect`` shows a TensorRT engine: its record, and whether the file still is the one that was built."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from llmops.checkpoint.engine_file import damage_of, other_graph, read_record, record_path
from llmops.errors import UsageError
from llmops.findings import Finding
from llmops.report.document import Block, Document, Facts, Table, Text
from llmops.report.told import told
from llmops.units import format_size


@dataclass(frozen=True, slots=True)
class EngineFileReport:
    """An engine's record; ``ok`` is False when the file is not the one that was built."""

    engine: Path
    record: dict[str, Any]
    findings: tuple[Finding, ...]

    @property
    def ok(self) -> bool:
        """Whether no finding is an error."""
        return not any(finding.severity == "error" for finding in self.findings)

    def data(self) -> dict[str, Any]:
        """The record as it is."""
        return {"format": "tensorrt", "engine": self.engine, "record": self.record}


def read_engine(engine: Path) -> EngineFileReport:
    """Compare an engine with its record. Loads nothing and needs neither TensorRT nor a GPU.

    Raises:
        UsageError: There is no such file, or no record beside it.
    """
    if not engine.is_file():
        raise UsageError(f"there is no engine {engine}", "check the path")
    record = read_record(engine)
    if record is None:
        raise UsageError(
            f"{engine} has no record beside it ({record_path(engine).name})",
            "llmops build tensorrt writes it; only the TensorRT that built the engine can say more",
        )
    damage, other = damage_of(engine, record), other_graph(engine, record)
    findings = [Finding("engine-damaged", "error", damage, "copy it again, or llmops build tensorrt")] if damage else []
    findings += [Finding("engine-other-graph", "warning", other, "llmops build tensorrt --force")] if other else []
    return EngineFileReport(engine, record, tuple(findings))


def view(report: EngineFileReport) -> Document:
    """Facts, profiles, tensors and the verdict."""
    record = report.record
    built = record["tensorrt"]
    wider = [name for name in ("version_compatible", "hardware_compatible") if record.get(name)]
    targets = ", ".join(".".join(map(str, each)) for each in record.get("compute_capabilities", []))
    rows = [
        ("format", f"engine of {built['module']} {built.get('version', '')}".strip()),
        ("size", format_size(report.engine.stat().st_size)),
        ("runs on", f"compute capability {targets}" + (f" ({', '.join(wider).replace('_', ' ')})" if wider else "")),
        ("built on", str((record.get("gpu") or {}).get("name") or "a machine without a GPU")),
        ("precision", str(record.get("precision", ""))),
        ("workspace", format_size(int(record.get("workspace_bytes") or 0))),
    ]
    blocks: list[Block] = [Facts(tuple(rows))]
    for number, profile in enumerate(record.get("profiles", [])):
        shapes = tuple(
            (name, *("x".join(map(str, b[w])) for w in ("min", "opt", "max"))) for name, b in profile.items()
        )
        blocks.append(Table(("input", "min", "opt", "max"), shapes, title=f"profile {number}"))
    blocks += told(report.findings)
    verdict = Text("it is the file that was built", "good") if report.ok else Text("it must not be loaded", "bad")
    return Document(report.engine.name, tuple(blocks), verdict)
