"""Why an engine died: the one place where serving asks the diagnosis."""

from __future__ import annotations

import re
import signal
from pathlib import Path
from typing import TYPE_CHECKING

from llmops.errors import LlmopsError, OutsideError
from llmops.findings import Finding
from llmops.process import tail
from llmops.serve.preflight import full_disk
from llmops.serve.ready import EngineEndedError

if TYPE_CHECKING:
    from llmops.diagnosis import Cause, Diagnosis

# What stands before what a line says: vLLM's process, level, time and place in its source; an interpreter's own path.
_PREFIX = re.compile(
    r"(?:\((?:\w+ )?pid=\d+\) ?)?(?:(?:DEBUG|INFO|WARNING|ERROR|CRITICAL) [\d-]+ [\d:.,]+ \[[^\]]+\] ?)?(?:\S+/python[\d.]*: )?"
)


class EngineFailedError(OutsideError):
    """An engine that died, with what its log says.

    Attributes:
        cause: The likeliest cause; None when the log does not tell.
        diagnosis: All of what the log tells; None when it cannot be read.
        when: ``start``, ``first request`` or ``serving``.
        findings: Go into the JSON document of the failure.
        data: Likewise.
    """

    def __init__(
        self, message: str, hint: str, diagnosis: Diagnosis | None, log: Path, ended: EngineEndedError
    ) -> None:
        super().__init__(message, hint)
        self.diagnosis = diagnosis
        self.when = ended.when
        self.cause = cause = diagnosis.top if diagnosis else None
        self.log = log
        self.findings = (_finding(cause, message),)
        self.data = {
            "log": str(log),
            "engine_exit_code": ended.exit_code,
            "cause": cause.cause if cause else None,
            "confidence": cause.confidence if cause else None,
            "evidence": [{"line": line.line, "text": line.text} for line in cause.evidence] if cause else [],
        }


def explain(engine: str, error: EngineEndedError, log: Path) -> EngineFailedError:
    """The error to show: cause, the line that proves it, and what to do."""
    from llmops.diagnosis import diagnose_files  # of no use to an engine that lives

    try:
        diagnosis: Diagnosis | None = diagnose_files([log])
    except (LlmopsError, OSError):
        diagnosis = None
    cause = diagnosis.top if diagnosis else None
    how = _ending(error.exit_code)
    if cause is None and (full := full_disk(log.absolute().parent)):
        return EngineFailedError(f"{engine} {how}: {full}", f"free some; the log is {log}", diagnosis, log, error)
    if cause is None:
        last = _last_words(log)
        message = f"{engine} {how} during its {error.when}{f': {last}' if last else ''}"
        return EngineFailedError(message, f"the log is {log}", diagnosis, log, error)
    evidence = f' (line {cause.evidence[0].line}: "{shortened(cause.evidence[0].text)}")' if cause.evidence else ""
    message = f"{engine} {how}: {cause.title}{evidence}"
    fix = cause.fixes[0] if cause.fixes else None
    advice = f"{fix.title}{f': {fix.command}' if fix.command else ''}; " if fix else ""
    return EngineFailedError(message, f"{advice}the log is {log}", diagnosis, log, error)


def _ending(code: int) -> str:
    if code == 0:
        return "ended"
    if code > 128:
        try:
            return f"was ended by {signal.Signals(code - 128).name}"
        except ValueError:
            pass
    return f"ended with exit code {code}"


def _last_words(log: Path) -> str:
    """The last line that looks like an error, else the last line."""
    lines = [line.strip() for line in tail(log, 200) if line.strip()]
    errors = [line for line in lines if "Error" in line or "ERROR" in line or "error:" in line]
    return shortened((errors or lines or [""])[-1])


def shortened(text: str, most: int = 160) -> str:
    """A line of a log for an error: without the logger's words before it, and at most so long."""
    text = _PREFIX.sub("", " ".join(text.split()), count=1)
    return text if len(text) <= most else text[: most - 1] + "…"


def _finding(cause: Cause | None, message: str) -> Finding:
    if cause is None:
        return Finding("engine-ended", "error", message)
    fix = cause.fixes[0] if cause.fixes else None
    return Finding(cause.cause, "error", cause.title, (fix.command or fix.title) if fix else None)
