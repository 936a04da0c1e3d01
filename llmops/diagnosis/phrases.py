"""The little language in which rules quote log messages, and its translation into linear-time matchers.

A phrase is text as the log has it, compared without regard to case or kind of quotation mark. It may hold

- ``*``: anything, up to a few hundred characters, also over a line break;
- ``{name}``: a number to capture; ``{name:word}`` a word, ``{name:text}`` text up to a quotation mark;
- ``<a|b>``: one of several wordings;
- a leading ``^``: the message begins here, after timestamps and process prefixes.

Everything else is literal. No phrase can become a regular expression with nested repetition, so no input, however
hostile, makes matching slower than linear.
"""

from __future__ import annotations

import itertools
import re
from dataclasses import dataclass
from functools import cache
from typing import Final

GAP: Final = 400
_TOKEN: Final = re.compile(r"\*|\{(?P<name>[a-z_]+)(?::(?P<kind>word|text))?\}|<(?P<alt>[^<>|]*(?:\|[^<>|]*)+)>")
_KINDS: Final = {
    None: r"[0-9][0-9.,_]{0,24}",
    "word": r"[^\s'\",;()\[\]{}]{1,160}",
    "text": r"[^'\"\n]{1,200}",
}
_LETTERS: Final = re.compile(rb"[a-z]+")
_WORD: Final = re.compile(r"[a-z]{2,}")
# Words so frequent in serving logs that looking for them first would save nothing.
_COMMON_WORDS: Final = """
    the to of in is not for and or be by no it on at as an this that with from was are has have can cannot could
    you your error info warning debug model models file line vllm engine python lib packages site torch cuda gpu
    value valueerror runtimeerror failed fail worker request server config memory size use using set py none token
    tokens available process load loading http api name type message code cache device max version import data usr
    local root found must more than kv requests given please input only all new support supported too cluster due
    exception
"""
_COMMON: Final = frozenset(_COMMON_WORDS.split())
# One quotation mark for all, and every line break or tab a space, with each offset kept.
_UNIFY: Final = bytes.maketrans(b'"`\n\r\t\x1f\x0b\x0c', b"''      ")


@dataclass(frozen=True, slots=True)
class Phrase:
    """A compiled phrase.

    Attributes:
        text: As the rule has it.
        keywords: At least one of these words is in any text that matches; empty where it holds none.
        words: All of these are.
        pairs: So are these words, one after the other.
        pair: The rarest of them, or None.
        leads: Literals, one of which any match begins with (empty where it begins with something variable).
        sources: One expression a stretch between gaps, to be found one after the other.
        at_start: The phrase must begin the message.
    """

    text: str
    keywords: tuple[bytes, ...]
    words: frozenset[bytes]
    pairs: frozenset[tuple[bytes, bytes]]
    pair: tuple[bytes, bytes] | None
    leads: tuple[bytes, ...]
    sources: tuple[bytes, ...]
    at_start: bool

    @property
    def parts(self) -> tuple[re.Pattern[bytes], ...]:
        """The compiled expressions; most phrases are never looked for, so compiling waits."""
        return tuple(map(_compiled, self.sources))


@cache
def _compiled(source: bytes) -> re.Pattern[bytes]:
    return re.compile(source)


def unify(text: bytes) -> bytes:
    """The form in which text is searched: lower case, one kind of quotation mark, breaks as spaces; offsets are kept."""
    return text.lower().translate(_UNIFY)


@cache
def compile_phrase(text: str) -> Phrase:
    """Translate one phrase."""
    at_start = text.startswith("^")
    # A blank beside a gap belongs to the gap.
    body = re.sub(r"\s*\*\s*", "*", " ".join(text.removeprefix("^").split()))
    parts: list[str] = [""]
    leads, words, alternatives, literals = [""], [], [], []
    leading = True
    position = 0
    for token in _TOKEN.finditer(body):
        literal = _unified(body[position : token.start()])
        parts[-1] += re.escape(literal)
        words += _WORD.findall(literal)
        literals.append(literal)
        if leading:
            leads = [lead + literal for lead in leads]
        position = token.end()
        if token.group() == "*":
            parts.append("")
        elif token["alt"] is not None:
            choices = [_unified(choice) for choice in token["alt"].split("|")]
            alternatives.append(choices)
            parts[-1] += "(?:" + "|".join(re.escape(choice) for choice in choices) + ")"
            if leading and leads == [""]:
                leads = choices
                continue
        else:
            parts[-1] += f"(?P<{token['name']}>{_KINDS[token['kind']]})"
        leading = False
    literal = _unified(body[position:])
    parts[-1] += re.escape(literal)
    words += _WORD.findall(literal)
    literals.append(literal)
    if leading:
        leads = [lead + literal for lead in leads]
    pairs = frozenset(pair for literal in literals for pair in itertools.pairwise(_LETTERS.findall(literal.encode())))
    return Phrase(
        text=text,
        keywords=_keywords(words, alternatives),
        words=frozenset(word.encode() for word in words),
        pairs=pairs,
        pair=max(pairs, key=_rarity, default=None),
        leads=tuple(lead.encode() for lead in leads if lead),
        sources=tuple(part.encode() for part in parts if part),
        at_start=at_start,
    )


def _rarity(pair: tuple[bytes, bytes]) -> tuple[int, int, tuple[bytes, bytes]]:
    rare = [word for word in pair if word.decode() not in _COMMON and len(word) > 2]
    return len(rare), sum(map(len, pair)), pair


def _unified(literal: str) -> str:
    return unify(literal.encode()).decode()


def _keywords(words: list[str], alternatives: list[list[str]]) -> tuple[bytes, ...]:
    """The rarest word of the fixed text; where all is common or variable, one word of each alternative."""
    rare = [word for word in words if word not in _COMMON and len(word) > 2]
    if rare:
        return (max(rare, key=len).encode(),)
    for choices in alternatives:
        found = [max(_WORD.findall(choice), key=len, default="") for choice in choices]
        if all(found):
            return tuple(sorted({word.encode() for word in found}))
    if words:
        return (max(words, key=len).encode(),)
    return ()
