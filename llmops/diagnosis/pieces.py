"""Blocks made ready for the search: without colour codes, and in long logs without what was read often before."""

from __future__ import annotations

import bisect
import itertools
import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

from llmops.diagnosis.source import Block

ENOUGH: Final = 8  # times that a line of one shape is read in a log that is not small
MOST_SHAPES: Final = 300_000
_VARIABLE: Final = b"0123456789abcdefABCDEF"
ANSI: Final = re.compile(rb"\x1b(?:\[[0-9;:?]{0,24}[ -/]?[@-~]|\][^\x07\x1b]{0,256}(?:\x07|\x1b\\)|[@-Z\\^_])")


@dataclass(frozen=True, slots=True)
class Piece:
    """Text to search, without colour codes, and as the file has it.

    Its first ``context`` bytes were searched before; ``line_of`` numbers the line at an offset in it.
    """

    data: bytes
    raw: bytes
    context: int
    line_of: Callable[[int], int]


class Lines:
    """Line numbers by offset, made only when something was found."""

    def __init__(self, data: bytes, first: int) -> None:
        self._data, self._first = data, first
        self._starts: list[int] | None = None

    def number(self, offset: int) -> int:
        """The 1-based number of the line that holds ``offset``."""
        if self._starts is None:
            self._starts = [0, *(m.end() for m in re.finditer(rb"\n", self._data))]
        return self._first + bisect.bisect_right(self._starts, offset) - 1


class Repeats:
    """Leaves out lines that were read often before, numbers and hexadecimal aside: a long log says the same again and again."""

    def __init__(self) -> None:
        self._seen: dict[int, int] = {}

    def without(self, block: Block, raw: bytes) -> Piece:
        """The lines that are worth reading, and the number of the line at an offset in them."""
        kept, starts, numbers, length = [], [], [], 0
        seen = self._seen
        first = block.line + block.data.count(b"\n", 0, block.context)
        fresh = block.data[block.context :]
        shapes = map(hash, fresh.translate(None, _VARIABLE).split(b"\n"))
        for number, (line, shape) in enumerate(zip(fresh.split(b"\n"), shapes, strict=True), first):
            count = seen.get(shape, 0)
            if count >= ENOUGH:
                continue
            if count or len(seen) < MOST_SHAPES:
                seen[shape] = count + 1
            kept.append(line)
            starts.append(length)
            numbers.append(number)
            length += len(line) + 1
        return Piece(b"\n".join(kept), raw, 0, lambda offset: numbers[max(0, bisect.bisect_right(starts, offset) - 1)])


def without_colour(block: Block) -> Block:
    if b"\x1b" not in block.data:
        return block
    head = ANSI.sub(b"", block.data[: block.context])
    return Block(head + ANSI.sub(b"", block.data[block.context :]), block.line, len(head))


class Clocks:
    """Tells from the first and the last times of day in a log whether it is written newest first."""

    _TIME: Final = re.compile(rb"(?:(\d{4})-)?(?:(\d\d)-(\d\d)[ T])?(\d\d):(\d\d):(\d\d)")

    def __init__(self) -> None:
        self._first: list[tuple[bytes, ...]] = []
        self._last: list[tuple[bytes, ...]] = []

    def feed(self, data: bytes) -> None:
        if len(self._first) < 8:
            self._first += self._times(data[:16384])[: 8 - len(self._first)]
        self._last = self._times(data[-16384:])[-8:] or self._last

    def _times(self, data: bytes) -> list[tuple[bytes, ...]]:
        found = (self._TIME.search(line, 0, 80) for line in data.split(b"\n"))
        return [tuple(g or b"" for g in f.groups()) for f in found if f]

    def falling(self) -> bool:
        """Mostly falling steps, in a log with at least four different times."""
        times = self._first + [t for t in self._last if t not in self._first]
        times = [t for t in times if bool(t[1]) == bool(times[0][1])]
        steps = [(b > a) - (b < a) for a, b in itertools.pairwise(times)]
        falls, rises = steps.count(-1), steps.count(1)
        return falls >= 3 and falls > 4 * rises


def wrap_width(raws: list[bytes]) -> int:
    """The width at which a terminal cut the lines, or 0."""
    widths = [len(raw.rstrip(b"\r")) for raw in raws]
    widest = max(widths, default=0)
    return widest if 60 <= widest <= 240 and widths.count(widest) >= 2 else 0
