"""What an examined machine looks like, as a value that can be saved and read again."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final, Literal

from llmops.errors import UsageError, did_you_mean
from llmops.findings import Finding, Severity
from llmops.hardware import Host

Outcome = Literal["ok", "note", "warning", "error", "skipped", "crashed", "late"]
_SEVERITY: Final[dict[Outcome, Severity]] = {
    "ok": "ok", "note": "note", "skipped": "note", "warning": "warning", "error": "error", "crashed": "warning", "late": "warning",
}  # fmt: skip


@dataclass(frozen=True, slots=True)
class Check:
    """The result of one check.

    Attributes:
        name: Of the check.
        outcome: ``skipped`` where there is nothing to check, ``crashed`` and ``late`` where the check itself failed.
        summary: What was found, in one sentence.
        remedy: What to do about it.
        causes: Tags of rules that this result makes likelier (``no-gpu``, ``shm-small`` …).
        clears: Tags that it makes less likely.
    """

    name: str
    outcome: Outcome
    summary: str
    remedy: str | None = None
    causes: tuple[str, ...] = ()
    clears: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class MachineReport:
    """All checks. ``ok`` unless one says ``error``."""

    checks: tuple[Check, ...]
    host: Host | None = None
    done: tuple[str, ...] = field(default=())

    @property
    def ok(self) -> bool:
        return not any(check.outcome == "error" for check in self.checks)

    @property
    def findings(self) -> tuple[Finding, ...]:
        """One finding a check, passed ones too."""
        return tuple(Finding(c.name, _SEVERITY[c.outcome], c.summary, c.remedy) for c in self.checks)

    @property
    def signals(self) -> frozenset[str]:
        """Tags of rules that this machine makes likelier."""
        return frozenset(tag for check in self.checks for tag in check.causes)

    @property
    def cleared(self) -> frozenset[str]:
        """Tags of rules that this machine speaks against."""
        return frozenset(tag for check in self.checks for tag in check.clears) - self.signals

    def data(self) -> dict[str, Any]:
        """The JSON ``data``."""
        return {"checks": list(self.checks), "host": self.host, "done": list(self.done)}


def read_state(path: Path) -> MachineReport:
    """A machine that ``llmops doctor --json`` saved.

    Raises:
        UsageError: The file is not such a document.
    """
    hint = "make one with: llmops doctor --json > state.json"
    try:
        document = json.loads(path.read_text("utf-8"))
        checks = document["data"]["checks"]
        return MachineReport(tuple(_check(item) for item in checks))
    except OSError as error:
        raise UsageError(f"cannot read {path}: {error.strerror}", hint) from error
    except (ValueError, KeyError, TypeError) as error:
        raise UsageError(f"{path} is no saved machine state: {error or type(error).__name__}", hint) from error


def _check(item: dict[str, Any]) -> Check:
    outcome = item["outcome"]
    if outcome not in _SEVERITY:
        raise ValueError(f"outcome {outcome!r}: {did_you_mean(str(outcome), _SEVERITY) or 'not known'}")
    return Check(
        name=str(item["name"]),
        outcome=outcome,
        summary=str(item["summary"]),
        remedy=item.get("remedy"),
        causes=tuple(map(str, item.get("causes") or ())),
        clears=tuple(map(str, item.get("clears") or ())),
    )
