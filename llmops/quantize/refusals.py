"""A reason not to begin, and how it becomes the command's error. Pure."""

from __future__ import annotations

from dataclasses import dataclass

from llmops.errors import ExitCode, LlmopsError, MachineError, UsageError
from llmops.findings import Finding


@dataclass(frozen=True, slots=True)
class Refusal:
    """One reason not to begin."""

    rule: str
    message: str
    remedy: str
    code: ExitCode = ExitCode.USAGE

    @property
    def finding(self) -> Finding:
        """The same as a finding."""
        return Finding(self.rule, "error", self.message, self.remedy)


def raise_first(refusals: list[Refusal]) -> None:
    """Raise the first refusal; the error carries all of them as findings.

    Raises:
        UsageError: The input is wrong.
        MachineError: The machine cannot.
    """
    if not refusals:
        return
    first = refusals[0]
    kind: type[LlmopsError] = MachineError if first.code is ExitCode.MACHINE else UsageError
    error = kind(first.message, first.remedy)
    error.findings = tuple(refusal.finding for refusal in refusals)  # type: ignore[attr-defined]  # read by the JSON envelope
    raise error
