"""The neutral document: what a verb's ``view(report)`` returns and every renderer takes.

A view is a pure function from a report to a ``Document``; the terminal, Markdown and HTML renderers know the blocks
below and nothing of the verbs.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

Tone = Literal["plain", "good", "bad", "warn", "dim"]


@dataclass(frozen=True, slots=True)
class Heading:
    """A section title."""

    text: str


@dataclass(frozen=True, slots=True)
class Text:
    """A paragraph. ``tone`` colours it where colour exists; the words alone must carry the meaning."""

    text: str
    tone: Tone = "plain"


@dataclass(frozen=True, slots=True)
class Facts:
    """Label and value pairs."""

    rows: tuple[tuple[str, str], ...]


@dataclass(frozen=True, slots=True)
class Table:
    """A table of strings. Columns whose name is in ``right`` are right-aligned (numbers)."""

    columns: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    right: frozenset[str] = frozenset()
    title: str | None = None


@dataclass(frozen=True, slots=True)
class Code:
    """Text to copy or a log extract, kept as it is."""

    text: str
    language: str = ""


@dataclass(frozen=True, slots=True)
class Series:
    """One line or one set of bars. ``points`` are (x, y); ``x`` may be a category name for bars."""

    name: str
    points: tuple[tuple[float | str, float], ...]


@dataclass(frozen=True, slots=True)
class Chart:
    """A plot: drawn as inline SVG in HTML, as a table in Markdown, as bars in a terminal."""

    title: str
    kind: Literal["line", "bar"]
    x_label: str
    y_label: str
    series: tuple[Series, ...]


Block = Heading | Text | Facts | Table | Code | Chart


@dataclass(frozen=True, slots=True)
class Document:
    """A report for a person. ``verdict`` is the one line that answers the question, shown last in a terminal and first elsewhere."""

    title: str
    blocks: tuple[Block, ...]
    verdict: Text | None = None
    meta: tuple[tuple[str, str], ...] = field(default=())
