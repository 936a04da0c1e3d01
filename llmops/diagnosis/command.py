"""What ``llmops diagnose`` was asked for, and the way to its answer."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from llmops.diagnosis.api import diagnose_files
from llmops.diagnosis.report import Diagnosis
from llmops.errors import UsageError
from llmops.progress import Progress


@dataclass(frozen=True, slots=True)
class Request:
    """The options of ``llmops diagnose``."""

    files: tuple[Path, ...] = ()
    explain: str | None = None
    list: bool = False
    machine: bool = False
    state: Path | None = None
    fix: bool = False


def answer(request: Request, progress: Progress) -> Diagnosis:
    """Diagnose what was given."""
    if not request.files:
        raise UsageError("there is no log to read", "llmops diagnose FILE")
    return diagnose_files(request.files, progress)
