"""What ``llmops diagnose`` and ``llmops doctor`` were asked for, and the way to the answer."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

from llmops.diagnosis import explain
from llmops.diagnosis import view as diagnosis_view
from llmops.diagnosis.api import diagnose_files
from llmops.diagnosis.machine import MachineReport, examine, read_state
from llmops.diagnosis.machine import view as machine_view
from llmops.diagnosis.report import Diagnosis
from llmops.errors import UsageError
from llmops.progress import Progress
from llmops.report.document import Document

Answer = Diagnosis | MachineReport | explain.Pages


@dataclass(frozen=True, slots=True)
class Request:
    """The options of ``llmops diagnose``."""

    files: tuple[Path, ...] = ()
    explain: str | None = None
    list: bool = False
    machine: bool = False
    state: Path | None = None
    fix: bool = False


def answer(request: Request, progress: Progress) -> Answer:
    """Diagnose logs, examine the machine, or explain a cause.

    Raises:
        UsageError: The options contradict each other, or a file cannot be read.
    """
    _refuse_contradictions(request)
    if request.explain is not None:
        return explain.page(request.explain)
    if request.list:
        return explain.every()
    machine = None
    if request.state is not None:
        machine = read_state(request.state)
    elif request.machine or not request.files:
        machine = examine(progress)
    if machine is not None and request.fix:
        machine = _repaired(machine, progress)
    if not request.files:
        assert machine is not None
        return machine
    return diagnose_files(request.files, progress, machine)


def doctor(progress: Progress, *, fix: bool = False) -> MachineReport:
    """Examine this machine, and repair what is safe where that is asked."""
    found = examine(progress)
    return _repaired(found, progress) if fix else found


def _repaired(machine: MachineReport, progress: Progress) -> MachineReport:
    from llmops.diagnosis.machine import repair

    return replace(machine, done=repair.carry_out(repair.plan(machine.host), progress))


def _refuse_contradictions(request: Request) -> None:
    if request.explain is not None and (request.files or request.list):
        raise UsageError("--explain stands alone", "llmops diagnose --explain CAUSE")
    if request.state is not None and request.machine:
        raise UsageError("--state and --machine exclude each other", "keep one of the two")
    if request.fix and request.state is not None:
        raise UsageError("--fix works on this machine, not on a saved one", "leave out --state")
    if request.fix and request.files and not request.machine:
        raise UsageError("--fix changes this machine", "say so with --machine --fix")


def view(found: Answer) -> Document:
    """The document of any answer."""
    if isinstance(found, Diagnosis):
        return diagnosis_view.view(found)
    if isinstance(found, MachineReport):
        return machine_view.view(found)
    return explain.view(found)
