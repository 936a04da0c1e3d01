"""What a check found, in one shape that every report format can render."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, Protocol, runtime_checkable

Severity = Literal["error", "warning", "note", "ok"]


@dataclass(frozen=True, slots=True)
class Finding:
    """One statement about the work or its input.

    Attributes:
        rule: Stable identifier in kebab-case, used as SARIF ruleId and JUnit test name.
        severity: ``error`` makes the answer "no"; ``ok`` records a check that passed.
        message: One or two plain sentences.
        remedy: What to do, as a command or flag to paste where there is one.
        file: The file it is about, relative to the working directory where possible.
        line: 1-based line in ``file``.
        column: 1-based column in that line, where it is known.
    """

    rule: str
    severity: Severity
    message: str
    remedy: str | None = None
    file: str | None = None
    line: int | None = None
    column: int | None = None


@runtime_checkable
class Report(Protocol):
    """What every verb returns. ``exit_code`` may be added as a property when 0/1 by ``ok`` is not enough."""

    @property
    def ok(self) -> bool: ...
    @property
    def findings(self) -> tuple[Finding, ...]: ...
