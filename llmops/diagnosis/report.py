"""What a diagnosis is: a status, causes in order of likelihood, and the lines that prove them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Final, Literal

from llmops.errors import ExitCode
from llmops.findings import Finding

Status = Literal["healthy", "failed", "unknown"]
_EXIT: Final[dict[Status, ExitCode]] = {
    "healthy": ExitCode.OK,
    "failed": ExitCode.NO,
    "unknown": ExitCode.INCONCLUSIVE,
}


@dataclass(frozen=True, slots=True)
class Evidence:
    """One line of the input. ``text`` is a part of that line, unchanged; ``line`` is 1-based."""

    file: str
    line: int
    text: str


@dataclass(frozen=True, slots=True)
class Fix:
    """What to do about a cause.

    Attributes:
        title: The advice in one sentence.
        command: A command or a flag to paste; None where no command can do it.
        values: Numbers that were read from the log or computed for the command.
    """

    title: str
    command: str | None = None
    values: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Cause:
    """One root cause.

    Attributes:
        cause: Its slug, stable.
        family: The group of causes it belongs to.
        confidence: 0 to 1; 0.9 and above: a message that only this cause prints.
        title: The cause in a few words.
        explanation: One or two plain sentences.
        evidence: The lines that prove it, the strongest first.
        fixes: What to do, the best first.
        explains: Messages of the log that are consequences of this cause.
        severity: ``fatal``, ``degraded`` (serves, but badly) or ``info``.
    """

    cause: str
    family: str
    confidence: float
    title: str
    explanation: str
    evidence: tuple[Evidence, ...]
    fixes: tuple[Fix, ...] = ()
    explains: tuple[str, ...] = ()
    severity: str = "fatal"


@dataclass(frozen=True, slots=True)
class Diagnosis:
    """The answer to "why did it fail?".

    Attributes:
        status: ``healthy`` no failure seen; ``failed`` at least one cause; ``unknown`` a failure without a known cause.
        causes: Ranked; the first is the answer.
        unexplained: For ``unknown``: the lines that show the failure.
        sources: Names of what was read.
        lines: Number of lines read.
    """

    status: Status
    causes: tuple[Cause, ...] = ()
    unexplained: tuple[Evidence, ...] = ()
    sources: tuple[str, ...] = ()
    lines: int = 0

    @property
    def ok(self) -> bool:
        return self.status == "healthy"

    @property
    def exit_code(self) -> ExitCode:
        """0 healthy, 1 a cause was found, 6 a failure is visible and its cause is not known."""
        return _EXIT[self.status]

    @property
    def top(self) -> Cause | None:
        """The answer, or None."""
        return self.causes[0] if self.causes else None

    @property
    def findings(self) -> tuple[Finding, ...]:
        """The same answer in the shape that JUnit, SARIF and annotations are written from."""
        return tuple(_as_finding(cause) for cause in self.causes) or tuple(
            Finding(
                "unknown-failure",
                "error",
                f"a failure is visible, its cause is not known: {e.text}",
                None,
                e.file,
                e.line,
            )
            for e in self.unexplained[:1]
        )

    def data(self) -> dict[str, Any]:
        """The JSON ``data`` of the command."""
        return {
            "status": self.status,
            "findings": list(self.causes),
            "unexplained": list(self.unexplained),
            "sources": list(self.sources),
            "lines": self.lines,
        }


def _as_finding(cause: Cause) -> Finding:
    first = cause.evidence[0] if cause.evidence else None
    fix = cause.fixes[0] if cause.fixes else None
    remedy = None if fix is None else (f"{fix.title}: {fix.command}" if fix.command else fix.title)
    return Finding(
        rule=cause.cause,
        severity="error" if cause.severity == "fatal" else "warning",
        message=f"{cause.title}. {cause.explanation}",
        remedy=remedy,
        file=first.file if first else None,
        line=first.line if first else None,
    )
