"""The one exception tree of llmops: a message, a hint with what to do next, and an exit code.

LlmopsError
├── UsageError        2   the command line, a recipe, a config or an input file is wrong
├── MachineError      3   this environment cannot: missing extra, GPU, memory, disk, driver, port
├── AccessError       4   credentials or budget
├── OutsideError      5   something outside failed: provider, engine, download
└── InconclusiveError 6   the measurement or the log cannot support a verdict
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable
from enum import IntEnum


class ExitCode(IntEnum):
    """Process exit codes, the same for every command."""

    OK = 0
    NO = 1
    USAGE = 2
    MACHINE = 3
    ACCESS = 4
    OUTSIDE = 5
    INCONCLUSIVE = 6
    BUG = 70
    INTERRUPTED = 130
    TERMINATED = 143


class LlmopsError(Exception):
    """A failure that a user can act on.

    Args:
        message: One line: what is wrong, with the name of the thing.
        hint: What to do next, as a command or a flag where there is one.
        exit_code: Overrides the code of the class.
    """

    exit_code: ExitCode = ExitCode.BUG

    def __init__(self, message: str, hint: str | None = None, *, exit_code: ExitCode | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint
        if exit_code is not None:
            self.exit_code = exit_code


class UsageError(LlmopsError):
    """The command line, a recipe, a config or an input file is wrong."""

    exit_code = ExitCode.USAGE


class MachineError(LlmopsError):
    """The environment cannot do what was asked."""

    exit_code = ExitCode.MACHINE


class AccessError(LlmopsError):
    """Credentials are missing or refused, or a budget is used up."""

    exit_code = ExitCode.ACCESS


class OutsideError(LlmopsError):
    """A provider, an engine or a download failed."""

    exit_code = ExitCode.OUTSIDE


class InconclusiveError(LlmopsError):
    """The measurement or the log cannot support a verdict."""

    exit_code = ExitCode.INCONCLUSIVE


def did_you_mean(word: str, choices: Iterable[str]) -> str | None:
    """Return a hint naming the closest of ``choices``, or all of them when none is close and they are few."""
    known = sorted(choices)
    close = difflib.get_close_matches(word, known, n=1, cutoff=0.6)
    if close:
        return f"did you mean {close[0]!r}?"
    return f"one of: {', '.join(known)}" if known and len(known) <= 12 else None
