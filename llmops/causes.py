"""Known failures of one tool, told from its own lines: a record for each, and the reader of such tables. Pure."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from llmops.errors import ExitCode


@dataclass(frozen=True, slots=True)
class Cause:
    """One known failure.

    Attributes:
        rule: Stable name.
        pattern: Found in a line that the tool logs, or in an exception's text.
        message: What it means; ``{1}`` and ``{2}`` are what the pattern's groups found.
        hint: What to do.
        code: Whose fault it is.
        example: A real line that it matches, and that no earlier record of its table matches.
    """

    rule: str
    pattern: str
    message: str
    hint: str
    code: ExitCode
    example: str


@dataclass(frozen=True, slots=True)
class Found:
    """A known failure and the line that shows it.

    Attributes:
        named: What the groups of the pattern found, those that took no part left out.
    """

    cause: Cause
    line: str
    named: tuple[str, ...]


def find(causes: Sequence[Cause], lines: Iterable[str]) -> Found | None:
    """The first line that shows a known failure; of several records that match it, the first."""
    for line in lines:
        for cause in causes:
            match = re.search(cause.pattern, line)
            if match:
                return Found(cause, line, tuple(group for group in match.groups() if group))
    return None


def fill(text: str, named: Sequence[str], otherwise: str = "") -> str:
    """``{1}`` and ``{2}`` of a message or hint with what was found; ``otherwise`` stands for a first one that is missing."""
    words = [*(named or (otherwise,)), ""]
    return text.replace("{1}", words[0][:200]).replace("{2}", words[1][:200])
