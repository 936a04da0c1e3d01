"""Why an engine failed, from its log: the one place where quantising asks the diagnosis rules."""

from __future__ import annotations

from pathlib import Path
from typing import Final

from llmops.diagnosis.api import explain_log

# From here on a cause rests on a message that only it prints; engines warn of much that has nothing to do with a failure.
_SURE: Final = 0.9


def explain(log: Path) -> tuple[str, str | None] | None:
    """Cause and remedy of the failure that a log shows; None when no rule knows it."""
    cause = explain_log(log)
    if cause is None or cause.severity != "fatal" or cause.confidence < _SURE:
        return None
    if not cause.fixes:
        return cause.title, None
    fix = cause.fixes[0]
    return cause.title, f"{fix.title}: {fix.command}" if fix.command else fix.title
