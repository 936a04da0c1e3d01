"""Find every quoted message in a log, in one pass, at tens of megabytes a second.

A block is reduced to its set of words; only the phrases whose rarest word is in the set are looked for, first by a
plain substring search for their opening words. Expensive steps run on matches only.
"""

from __future__ import annotations

import bisect
import itertools
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import BinaryIO, Final

from llmops.diagnosis import noise
from llmops.diagnosis.phrases import GAP, Phrase, compile_phrase, unify
from llmops.diagnosis.pieces import ANSI, Clocks, Lines, Piece, Repeats, without_colour, wrap_width
from llmops.diagnosis.source import LONGEST_LINE, Block, blocks
from llmops.diagnosis.speakers import NOBODY, Speaker, speaker

MOST_HITS: Final = 48  # of one phrase in one file; later ones say nothing new
SHOWN: Final = 300  # characters of a line that are kept as evidence
TAIL_LINES: Final = 6
SMALL: Final = 2 << 20  # up to this size a log is also read with its wrapped lines joined
# Text is searched in windows so small that few phrases have all their words in one by chance.
WINDOW: Final = 1 << 13
OVERLAP: Final = 1024
# Two words of a sentence before a phrase that must begin its message; no logger's prefix ends so.
_RUNNING_TEXT: Final = re.compile(rb"[a-z]{2} [a-z]{2,} \Z")
Spans = dict[str, tuple[int, int]]
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
        speaker: The process that wrote the line.
    """

    phrase: str
    file: int
    line: int
    text: str
    values: Mapping[str, str]
    order: float = 0.0
    level: str = "loud"
    speaker: Speaker = NOBODY


@dataclass(slots=True)
class Scanned:
    """All that the rules need to know of one file."""

    name: str
    hits: list[Hit] = field(default_factory=list)
    lines: int = 0
    tail: list[tuple[int, str]] = field(default_factory=list)
    newest_first: bool = False


class Vocabulary:
    """The phrases of all rules, indexed by two neighbouring words that each contains, or by its only word."""

    def __init__(self, texts: Iterable[str]) -> None:
        self.phrases = [compile_phrase(text) for text in sorted(set(texts))]
        self._by_pair: dict[tuple[bytes, bytes], list[Phrase]] = {}
        self._by_word: dict[bytes, list[Phrase]] = {}
        for phrase in self.phrases:
            if phrase.pair:
                self._by_pair.setdefault(phrase.pair, []).append(phrase)
            for word in () if phrase.pair else phrase.keywords:
                self._by_word.setdefault(word, []).append(phrase)
        self._wordless = [phrase for phrase in self.phrases if not phrase.keywords]

    def possible(self, haystack: bytes) -> list[Phrase]:
        """The phrases that may occur in a unified text."""
        sequence = haystack.translate(_LETTERS).split()
        words, pairs = set(sequence), set(itertools.pairwise(sequence))
        likely = [p for pair in self._by_pair.keys() & pairs for p in self._by_pair[pair]]
        single = {id(p): p for word in self._by_word.keys() & words for p in self._by_word[word]}
        both = itertools.chain(likely, single.values())
        return self._wordless + [p for p in both if p.words <= words and p.pairs <= pairs]


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
                into.hits.append(
                    Hit(phrase.text, number, line, text, {}, level=noise.level(text), speaker=speaker(text))
                )


def _scan_block(piece: Piece, number: int, vocabulary: Vocabulary, counts: dict[str, int], into: Scanned) -> None:
    data, context = piece.data, piece.context
    haystack = unify(_unescaped(data))
    for phrase, start, spans in _found(haystack, context, vocabulary, counts):
        hit = _hit(piece, number, phrase, start, spans)
        if hit is not None:
            counts[phrase.text] = counts.get(phrase.text, 0) + 1
            into.hits.append(hit)


def _found(
    haystack: bytes, context: int, vocabulary: Vocabulary, counts: Mapping[str, int]
) -> Iterator[tuple[Phrase, int, Spans]]:
    """Every match that ends behind ``context``, of the phrases that were not found often enough already."""
    for begin in range(context, len(haystack), WINDOW):
        offset = max(0, begin - OVERLAP)
        window = haystack[offset : begin + WINDOW]
        for phrase in vocabulary.possible(window):
            if counts.get(phrase.text, 0) >= MOST_HITS:
                continue
            for start, end, spans in _matches(phrase, window):
                if offset + end > begin:
                    yield phrase, offset + start, {k: (offset + a, offset + b) for k, (a, b) in spans.items()}
                if counts.get(phrase.text, 0) >= MOST_HITS:
                    break


def _hit(piece: Piece, number: int, phrase: Phrase, start: int, spans: Spans) -> Hit | None:
    """What was found, with its line, unless the line is no event."""
    data = piece.data
    line_start = data.rfind(b"\n", max(0, start - LONGEST_LINE), start) + 1 or max(0, start - LONGEST_LINE)
    line_end = data.find(b"\n", start, start + LONGEST_LINE)
    text = data[line_start : line_end if line_end >= 0 else start + LONGEST_LINE]
    if _rejected(phrase, text, start - line_start):
        return None
    values = {k: data[a:b].decode("utf-8", "replace") for k, (a, b) in spans.items()}
    shown = _in_raw(_shown(text, start - line_start), piece.raw)
    head = text[:2000].decode("utf-8", "replace")
    return Hit(phrase.text, number, piece.line_of(start), shown, values, level=noise.level(head), speaker=speaker(head))


def _unescaped(data: bytes) -> bytes:
    """Break marks of quoted text (JSON, repr) as blanks, each offset kept."""
    if b"\\" not in data:
        return data
    return data.replace(b"\\n", b"  ").replace(b'\\"', b' "').replace(b"\\'", b" '").replace(b"\\t", b"  ")


def _matches(phrase: Phrase, haystack: bytes) -> Iterator[tuple[int, int, Spans]]:
    """Every place where the parts of a phrase follow one another, each within GAP of the one before."""
    first, *others = phrase.parts
    for found in _beginnings(phrase, first, haystack):
        start, end = found.span()
        spans = {k: found.span(k) for k in first.groupindex}
        for part in others:
            more = part.search(haystack, end, min(len(haystack), end + GAP))
            if more is None:
                break
            end = more.end()
            spans |= {k: more.span(k) for k in part.groupindex}
        else:
            yield start, end, spans


def _beginnings(phrase: Phrase, first: re.Pattern[bytes], haystack: bytes) -> Iterator[re.Match[bytes]]:
    """Where the first part of a phrase stands; a plain search for its opening literal is the quickest."""
    if not phrase.leads:
        yield from first.finditer(haystack)
    for lead in phrase.leads:
        position = haystack.find(lead)
        while position >= 0:
            found = first.match(haystack, position)
            if found is not None:
                yield found
            position = haystack.find(
                lead, found.end() if found is not None and found.end() > position else position + 1
            )


def _rejected(phrase: Phrase, line: bytes, offset: int) -> bool:
    if phrase.at_start and _RUNNING_TEXT.search(line, max(0, offset - 24), offset):
        return True
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
    width = wrap_width(raws)
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
    counts: dict[str, int] = {}
    for phrase, start, spans in _found(haystack, 0, vocabulary, counts):
        counts[phrase.text] = counts.get(phrase.text, 0) + 1
        at = bisect.bisect_right(starts, start) - 1
        line = numbers[at] + 1
        if (phrase.text, line) in seen or (phrase.at_start and starts[at] != start):
            continue
        seen.add((phrase.text, line))
        values = {k: joined[a:b].decode("utf-8", "replace") for k, (a, b) in spans.items()}
        raw = raws[line - 1]
        plain = ANSI.sub(b"", raw)
        head = plain[:2000].decode("utf-8", "replace")
        shown = _in_raw(_shown(plain, 0), raw)
        level = noise.level(head)
        into.hits.append(Hit(phrase.text, number, line, shown, values, level=level, speaker=speaker(head)))
