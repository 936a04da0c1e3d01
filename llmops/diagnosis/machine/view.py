"""An examined machine for a person."""

from __future__ import annotations

from typing import Final

from llmops.diagnosis.machine.state import MachineReport
from llmops.report.document import Block, Document, Table, Text
from llmops.units import counted

_MARK: Final = {
    "ok": "ok",
    "note": "note",
    "skipped": "-",
    "warning": "warning",
    "error": "ERROR",
    "crashed": "crashed",
    "late": "late",
}


def view(report: MachineReport) -> Document:
    """A row a check, then what to do."""
    rows = tuple((check.name, _MARK[check.outcome], check.summary) for check in report.checks)
    blocks: list[Block] = [Table(("check", "result", "found"), rows)]
    todo = [c for c in report.checks if c.remedy and c.outcome in ("error", "warning", "note")]
    blocks += [Text(f"{check.name}: {check.remedy}") for check in todo]
    blocks += [Text(f"done: {line}", "good") for line in report.done]
    errors = sum(check.outcome == "error" for check in report.checks)
    warnings = sum(check.outcome in ("warning", "crashed", "late") for check in report.checks)
    if errors:
        verdict = Text(f"{counted(errors, 'error')}, {counted(warnings, 'warning')}", "bad")
    else:
        verdict = Text(f"no error, {counted(warnings, 'warning')}", "warn" if warnings else "good")
    name = report.host.name if report.host else "the saved machine"
    return Document(f"Examination of {name}", tuple(blocks), verdict)
