"""One form for text that was written to look different: for judging only, never for sending."""

from __future__ import annotations

import html
import re
import unicodedata
from base64 import b64decode, urlsafe_b64decode
from binascii import Error as Base64Error
from collections.abc import Iterator
from typing import Final

MAX_CHARS: Final = 200_000
_BASE64: Final = re.compile(r"[A-Za-z0-9+/_-]{24,8192}={0,2}")
_SPACED: Final = re.compile(r"(?<!\w)(?:\w[ ._*-]){4,60}\w(?!\w)")
_SPACES: Final = re.compile(r"\s+")
_LEET_WORD: Final = re.compile(r"[a-z@$]+[0-9@$!|]+[a-z0-9@$!|]*|[0-9@$!|]+[a-z][a-z0-9@$!|]*")
_LEET: Final = str.maketrans("0134578@$!|", "oieastbasil")
# Letters of other scripts that look like Latin ones, in pairs.
_PAIRS: Final = (
    "аa вb еe ёe зz іi їi јj кk мm нh оo рp сc тt уy хx ьb ѕs ԁd ԛq ԝw һh ӏl "
    "αa βb γy εe ηn ιi κk νv οo ρp τt υu χx ωw σo ςs ɡg ɩi ʟl ʀr ɴn ıi ɑa ɢg ʜh ɪi ᴀa ᴇe ᴏo ᴜu ꜱs ᴛt"
)
LOOKALIKES: Final = {ord(pair[0]): pair[1] for pair in _PAIRS.split()}


def views(text: str) -> Iterator[str]:
    """The canonical form of ``text``, then those of what is encoded inside it."""
    text = text[:MAX_CHARS]
    plain = canonical(text)
    yield plain
    joined = _SPACED.sub(lambda match: re.sub(r"[ ._*-]", "", match[0]), plain)
    if joined != plain:
        yield joined
    unleet = _LEET_WORD.sub(lambda match: match[0].translate(_LEET), plain)
    if unleet != plain:
        yield unleet
    for inner in hidden(text):
        yield canonical(inner)


def canonical(text: str) -> str:
    """Compatibility forms unified, invisible characters and marks out, look-alikes Latin, case and spaces folded."""
    if text.isascii():
        folded = text
    else:
        folded = "".join(char for char in unicodedata.normalize("NFKC", text) if _visible(char))
        if _mixes_scripts(folded):
            folded = _latin_words(folded)
    if "&" in folded:
        folded = html.unescape(folded)
    return _SPACES.sub(" ", folded.casefold()).strip()


def hidden(text: str) -> Iterator[str]:
    """Readable text that is written in base64 inside ``text``, and tag characters that no screen shows."""
    for match in _BASE64.finditer(text):
        decoded = _decode(match[0])
        if decoded is not None:
            yield decoded
    tags = "".join(chr(ord(char) - 0xE0000) for char in text if 0xE0020 <= ord(char) <= 0xE007E)
    if tags:
        yield tags


def _decode(word: str) -> str | None:
    compact = word.rstrip("=")
    padded = compact + "=" * (-len(compact) % 4)
    decode = urlsafe_b64decode if "-" in word or "_" in word else b64decode
    try:
        text = decode(padded).decode("utf-8")
    except (ValueError, Base64Error):
        return None
    readable = sum(char.isprintable() or char in "\n\t" for char in text)
    return text if len(text) >= 12 and readable == len(text) else None


def _visible(char: str) -> bool:
    # Cf: zero-width, direction, soft hyphen, tags. Variation selectors and combining marks hide words as well.
    return char.isascii() or (unicodedata.category(char) not in ("Cf", "Mn", "Me", "Cc") or char in "\n\t")


def _mixes_scripts(text: str) -> bool:
    return any(ord(char) in LOOKALIKES or ord(char.casefold()[0]) in LOOKALIKES for char in text)


def _latin_words(text: str) -> str:
    """Look-alikes made Latin in words that have Latin letters too, or only look-alikes: Russian stays Russian."""

    def fold(match: re.Match[str]) -> str:
        word = match[0]
        folded = word.casefold().translate(LOOKALIKES)
        return folded if folded.isascii() else word

    return re.sub(r"\w+", fold, text)
