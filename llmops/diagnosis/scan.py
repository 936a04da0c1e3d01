"""Find every quoted message in a log, in one pass, at tens of megabytes a second.

A block is reduced to its set of words; only the phrases whose rarest word is in the set are looked for, first by a
plain substring search for their opening words. Expensive steps run on matches only.
"""

from __future__ import annotations

import bisect
import itertools
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import BinaryIO, Final

from llmops.diagnosis import noise
from llmops.diagnosis.phrases import GAP, Phrase, compile_phrase, unify
from llmops.diagnosis.pieces import ANSI, Clocks, Lines, Piece, Repeats, without_colour
from llmops.diagnosis.source import LONGEST_LINE, Block, blocks

MOST_HITS: Final = 48  # of one phrase in one file; later ones say nothing new
SHOWN: Final = 300  # characters of a line that are kept as evidence
TAIL_LINES: Final = 6
SMALL: Final = 2 << 20  # up to this size a log is also read with its wrapped lines joined
FEW: Final = 30  # phrases that are looked for without a second test
_LETTERS: Final = bytes(c if 97 <= c <= 122 else 32 for c in range(256))


@dataclass(frozen=True, slots=True)
class Hit:
    """One phrase found.

    Attributes:
        phrase: Its text in the rules.
        file: Index of the file.
        line: 1-based.
        text: A part of that line, unchanged.
        values: What the phrase captured.
        order: Position in time: rises with the line, or falls in a log that is written newest first.
        level: ``quiet`` (INFO, DEBUG), ``warning`` or ``loud``.
    """

    phrase: str
    file: int
    line: int
    text: str
    values: Mapping[str, str]
    order: float = 0.0
    level: str = "loud"


@dataclass(slots=True)
class Scanned:
    """All that the rules need to know of one file."""

    name: str
    hits: list[Hit] = field(default_factory=list)
    lines: int = 0
    tail: list[tuple[int, str]] = field(default_factory=list)
    newest_first: bool = False


class Vocabulary:
    """The phrases of all rules, indexed by the word that each must contain."""

    def __init__(self, texts: Iterable[str]) -> None:
        self.phrases = [compile_phrase(text) for text in sorted(set(texts))]
        self._by_word: dict[bytes, list[Phrase]] = {}
        for phrase in self.phrases:
            for word in phrase.keywords:
                self._by_word.setdefault(word, []).append(phrase)
        self._words = frozenset(self._by_word)
        self._wordless = [phrase for phrase in self.phrases if not phrase.keywords]

    def possible(self, haystack: bytes) -> list[Phrase]:
        """The phrases that may occur in a unified text."""
        sequence = haystack.translate(_LETTERS).split()
        words = set(sequence)
        some = {id(p): p for word in self._words & words for p in self._by_word[word]}
        likely = [phrase for phrase in some.values() if phrase.words <= words]
        if len(likely) > FEW:
            pairs = set(itertools.pairwise(sequence))
            likely = [phrase for phrase in likely if phrase.pairs <= pairs]
        return self._wordless + likely


def scan(name: str, number: int, file: BinaryIO, vocabulary: Vocabulary) -> Scanned:
    """Read a log to its end and collect what is said in it."""
    result = Scanned(name)
    counts: dict[str, int] = {}
    small: list[bytes] | None = []
    size = 0
    clocks = Clocks()
    repeats = Repeats()
    for block in blocks(file):
        plain = without_colour(block)
        if size < SMALL:
            piece = Piece(plain.data, block.data, plain.context, Lines(plain.data, plain.line).number)
        else:
            piece = repeats.without(plain, block.data)
        _scan_block(piece, number, vocabulary, counts, result)
        clocks.feed(block.data)
        size += len(block.data) - block.context
        result.lines = block.line + block.data.count(b"\n") - (1 if block.data.endswith(b"\n") else 0)
        result.tail = sorted((dict(result.tail) | dict(_last_lines(block))).items())[-TAIL_LINES:]
        if small is not None:
            small.append(block.data[block.context :])
            if size > SMALL:
                small = None
    if small:
        _scan_unwrapped(b"".join(small), number, vocabulary, result)
    _scan_tail(number, vocabulary, counts, result)
    result.newest_first = clocks.falling()
    sign = -1.0 if result.newest_first else 1.0
    result.hits = [replace(hit, order=sign * hit.line) for hit in result.hits]
    return result


def _scan_tail(number: int, vocabulary: Vocabulary, counts: dict[str, int], into: Scanned) -> None:
    """The last lines once more, for phrases that were said too often to be kept until there."""
    frequent = {text for text, count in counts.items() if count >= MOST_HITS}
    for line, text in into.tail if frequent else ():
        haystack = unify(text.encode())
        for phrase in vocabulary.possible(haystack):
            if phrase.text in frequent and next(_matches(phrase, haystack), None):
                into.hits.append(Hit(phrase.text, number, line, text, {}, level=noise.level(text)))


def _scan_block(piece: Piece, number: int, vocabulary: Vocabulary, counts: dict[str, int], into: Scanned) -> None:
    data, raw, context = piece.data, piece.raw, piece.context
    haystack = unify(_unescaped(data))
    for phrase in vocabulary.possible(haystack):
        if counts.get(phrase.text, 0) >= MOST_HITS:
            continue
        for start, end, spans in _matches(phrase, haystack):
            if end <= context:
                continue
            if counts.get(phrase.text, 0) >= MOST_HITS:
                break
            line_start = data.rfind(b"\n", max(0, start - LONGEST_LINE), start) + 1 or max(0, start - LONGEST_LINE)
            line_end = data.find(b"\n", start, start + LONGEST_LINE)
            text = data[line_start : line_end if line_end >= 0 else start + LONGEST_LINE]
            if _rejected(phrase, text, start - line_start):
                continue
            counts[phrase.text] = counts.get(phrase.text, 0) + 1
            values = {k: data[a:b].decode("utf-8", "replace") for k, (a, b) in spans.items()}
            shown = _in_raw(_shown(text, start - line_start), raw)
            level = noise.level(text[:2000].decode("utf-8", "replace"))
            into.hits.append(Hit(phrase.text, number, piece.line_of(start), shown, values, level=level))


def _unescaped(data: bytes) -> bytes:
    """Break marks of quoted text (JSON, repr) as blanks, each offset kept."""
    if b"\\" not in data:
        return data
    return data.replace(b"\\n", b"  ").replace(b'\\"', b' "').replace(b"\\'", b" '").replace(b"\\t", b"  ")


def _matches(phrase: Phrase, haystack: bytes) -> Iterator[tuple[int, int, dict[str, tuple[int, int]]]]:
    """Every place where the parts of a phrase follow one another, each within GAP of the one before."""
    position = 0
    first, *others = phrase.parts
    while True:
        if phrase.lead:
            position = haystack.find(phrase.lead, position)
            if position < 0:
                return
            found = first.match(haystack, position)
        else:
            found = first.search(haystack, position)
            if found is None:
                return
        if found is None:
            position += 1
            continue
        start, end = found.span()
        spans = {k: found.span(k) for k in first.groupindex}
        for part in others:
            found = part.search(haystack, end, min(len(haystack), end + GAP))
            if found is None:
                break
            end = found.end()
            spans |= {k: found.span(k) for k in part.groupindex}
        if found is not None:
            yield start, end, spans
            position = max(end, start + 1)
        else:
            position = start + 1


def _rejected(phrase: Phrase, line: bytes, offset: int) -> bool:
    window = line[max(0, offset - 2000) : offset + 2000].decode("utf-8", "replace")
    if noise.is_no_event(window):
        return True
    if not phrase.at_start:
        return False
    return noise.prefix_length(window) != len(line[max(0, offset - 2000) : offset].decode("utf-8", "replace"))


def _shown(line: bytes, offset: int) -> str:
    """The part of a line around the match, cut at characters, never in one."""
    start = 0 if len(line) <= SHOWN else max(0, offset - 60)
    piece = line[start : start + SHOWN + 60]
    return piece.decode("utf-8", "ignore").strip("\r\n\t ")[:SHOWN]


def _in_raw(shown: str, raw: bytes) -> str:
    """Colour codes may sit inside the line: then the longest stretch that the file really has."""
    if b"\x1b" not in raw or shown.encode() in raw:
        return shown
    best, words = "", shown.split(" ")
    for size in range(len(words), 0, -1):
        for start in range(len(words) - size + 1):
            piece = " ".join(words[start : start + size])
            if piece.encode() in raw:
                return piece
        if size < len(words) - 12:
            break
    return best or shown


def _last_lines(block: Block) -> list[tuple[int, str]]:
    end = block.data[-8192:]
    total = block.line + block.data.count(b"\n")
    pieces = end.split(b"\n")
    numbered = [(total - (len(pieces) - 1 - i), piece) for i, piece in enumerate(pieces)]
    kept = [(n, p.decode("utf-8", "replace").strip()[:SHOWN]) for n, p in numbered if p.strip()]
    return kept[-TAIL_LINES:]


def _scan_unwrapped(data: bytes, number: int, vocabulary: Vocabulary, into: Scanned) -> None:
    """Look again with wrapped lines, boxes and repeated prefixes joined into running text."""
    raws = data.split(b"\n")
    width = _wrap_width(raws)
    starts, numbers, pieces, length = [], [], [], 0
    for index, raw in enumerate(raws):
        stripped = ANSI.sub(b"", raw) if b"\x1b" in raw else raw
        text = stripped.decode("utf-8", "replace").rstrip("\r\n │┃║|")
        message = " ".join(text[noise.prefix_length(text) :].strip().split())
        if not message or noise.is_no_event(text[:4000]):
            continue
        encoded = message.encode()
        glue = b"" if width and len(stripped.rstrip(b"\r")) == width else b" "
        starts.append(length)
        numbers.append(index)
        pieces.append(encoded + glue)
        length += len(encoded) + len(glue)
    joined = b"".join(pieces)
    haystack = unify(_unescaped(joined))
    seen = {(hit.phrase, hit.line) for hit in into.hits}
    for phrase in vocabulary.possible(haystack):
        for count, (start, _end, spans) in enumerate(_matches(phrase, haystack)):
            if count >= MOST_HITS:
                break
            at = bisect.bisect_right(starts, start) - 1
            line = numbers[at] + 1
            if (phrase.text, line) in seen or (phrase.at_start and starts[at] != start):
                continue
            seen.add((phrase.text, line))
            values = {k: joined[a:b].decode("utf-8", "replace") for k, (a, b) in spans.items()}
            raw = raws[line - 1]
            plain = ANSI.sub(b"", raw)
            level = noise.level(plain[:2000].decode("utf-8", "replace"))
            into.hits.append(Hit(phrase.text, number, line, _in_raw(_shown(plain, 0), raw), values, level=level))


def _wrap_width(raws: list[bytes]) -> int:
    """The width at which a terminal cut the lines, or 0."""
    widths = [len(raw.rstrip(b"\r")) for raw in raws]
    widest = max(widths, default=0)
    return widest if 60 <= widest <= 240 and widths.count(widest) >= 2 else 0
