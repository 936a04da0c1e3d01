"""What two questions must agree in before one's answer may serve the other. Pure.

The rule is strict on purpose: two questions agree when, politeness and question frames aside, they have the same content
words in the same order, the same numbers, names, quotations and negations. Known synonyms count as one word; a word that
nobody knows to be a synonym is a different question.
"""

from __future__ import annotations

import re
import unicodedata
from dataclasses import dataclass
from typing import Final

_QUOTED: Final = re.compile(r"\"([^\"]*)\"|“([^”]*)”|「([^」]*)」|『([^』]*)』|`([^`]*)`|(?<!\w)'([^']+)'(?!\w)")
_WORD: Final = re.compile(r"[a-z]*\d[\w.,:/%-]*\w%?|\d+%?|[^\W\d_]+(?:['’][a-z]+)?|[$€£¥%+*/<>=^-]", re.UNICODE)
_NEGATIVE: Final = frozenset(
    [
        "not",
        "no",
        "never",
        "none",
        "nothing",
        "neither",
        "nor",
        "without",
        "cannot",
        "can't",
        "don't",
        "doesn't",
        "didn't",
        "won't",
        "isn't",
        "aren't",
        "wasn't",
        "weren't",
        "shouldn't",
        "wouldn't",
        "couldn't",
        "haven't",
        "hasn't",
        "hadn't",
        "mustn't",
        "needn't",
        "ain't",
        "hardly",
        "except",
        "unless",
        "fail",
        "fails",
        "avoid",
    ]
)
# Words that carry no content in a question. Prepositions of direction and order (from, to, before, over …) are not here.
_EMPTY: Final = frozenset(
    [
        "a",
        "an",
        "the",
        "please",
        "kindly",
        "could",
        "would",
        "can",
        "you",
        "i",
        "me",
        "my",
        "we",
        "us",
        "our",
        "is",
        "are",
        "was",
        "were",
        "be",
        "been",
        "being",
        "am",
        "do",
        "does",
        "did",
        "done",
        "tell",
        "explain",
        "describe",
        "show",
        "give",
        "let",
        "know",
        "just",
        "really",
        "actually",
        "exactly",
        "also",
        "so",
        "well",
        "hi",
        "hello",
        "hey",
        "thanks",
        "thank",
        "there",
        "it",
        "its",
        "this",
        "that",
        "these",
        "those",
        "of",
        "and",
        "have",
        "has",
        "had",
        "will",
        "shall",
        "may",
        "might",
        "must",
        "should",
        "want",
        "need",
        "like'd",
        "i'd",
        "i'm",
        "what's",
        "how's",
        "who's",
        "where's",
        "it's",
        "that's",
        "there's",
        "let's",
        "some",
        "any",
    ]
)
_FRAMES: Final = (
    (re.compile(r"\b(?:how (?:do|does|can|could|would|should) (?:i|we|you|one)|how to|what(?:'s| is) the (?:best )?way to|"
                r"(?:what|which) steps (?:do i|should i) (?:take|follow) to|show me how to|explain how to|tell me how to)\b"), "how"),
    (re.compile(r"\b(?:what is|what's|what are|what're|tell me about|explain what|define)\b"), "what"),
    (re.compile(r"\b(?:who is|who's|who are)\b"), "who"),
    (re.compile(r"\b(?:where is|where's|where are|where can i find)\b"), "where"),
    (re.compile(r"\b(?:when is|when's|when does|when do|when will)\b"), "when"),
    (re.compile(r"\b(?:why is|why's|why are|why does|why do|how come|what is the reason that)\b"), "why"),
    (re.compile(r"\b(?:can you|could you|would you|will you|i (?:would|'d) like (?:you )?to know|i want to know|"
                r"do you know|i need to know|i was wondering|let me know|is it possible to know)\b"), ""),
)  # fmt: skip
_SYNONYMS: Final = {
    word: group.split()[0]
    for group in (
        "big large", "begin start commence", "buy purchase", "fix repair", "error mistake", "car automobile", "film movie",
        "picture photo photograph", "quick fast rapid", "doctor physician", "job occupation", "child kid", "phone telephone",
        "laptop notebook", "sofa couch", "autumn fall", "vacation holiday", "reset restore", "delete remove erase",
        "password passcode", "email e-mail mail", "happen occur", "method way approach", "cost price", "make create build",
        "use utilize utilise", "help assist", "end finish", "answer reply", "ask enquire", "choose select pick",
        "function work", "capital-city capital", "change modify alter", "country nation", "city town", "get obtain",
    )
    for word in group.split()
}  # fmt: skip
_IRREGULAR: Final = {
    "children": "child",
    "men": "man",
    "women": "woman",
    "feet": "foot",
    "mice": "mouse",
    "people": "person",
}
_POLITE_CJK: Final = re.compile(
    r"(?:を|について|に関して)?(?:教えて(?:ください|下さい)?|説明して(?:ください|下さい)?|知りたい(?:です)?)|ください|下さい|お願いします|"
    r"(?:です|ます)か|(?:でしょう|だろう)か|[?？。、!！,，\s]|请问|請問|请告诉我|請告訴我|请|請|吗$|呢$"
)
_CJK: Final = re.compile(r"[\u3040-\u30ff\u3400-\u9fff\uf900-\ufaff\uac00-\ud7af]")


@dataclass(frozen=True, slots=True)
class Signature:
    """What must be equal for an answer to one question to serve the other.

    Content words in order, numbers and ids among them; names in order; quotations; negations.
    """

    words: tuple[str, ...]
    names: tuple[str, ...]
    quoted: tuple[str, ...]
    negations: int


def signature(text: str) -> Signature:
    """The signature of a question."""
    text = unicodedata.normalize("NFKC", text).replace("’", "'")
    quoted = tuple(next(filter(None, groups), "") for groups in _QUOTED.findall(text))
    if _CJK.search(text):
        # Without a dictionary of the language, only politeness may differ.
        return Signature((_POLITE_CJK.sub("", text.casefold()),), (), quoted, 0)
    lower = text.casefold()
    for frame, word in _FRAMES:
        lower = frame.sub(f" {word} ", lower)
    tokens = _WORD.findall(lower)
    negations = sum(word in _NEGATIVE for word in tokens)
    words = tuple(_plain(word) for word in tokens if word not in _EMPTY and word != "-")
    return Signature(words, _names(text), quoted, negations)


def _plain(word: str) -> str:
    """A word without its plural or tense where that is regular, as the first of its synonyms."""
    if not word.isalpha():
        return word
    word = _IRREGULAR.get(word, word)
    known = _SYNONYMS.get(word)
    if known is not None:
        return known
    for ending, instead in (("ies", "y"), ("sses", "ss"), ("s", "")):
        if word.endswith(ending) and len(word) - len(ending) >= 3 and not word.endswith(("ss", "us", "is")):
            word = word[: len(word) - len(ending)] + instead
            break
    return _SYNONYMS.get(word, word)


def _names(text: str) -> tuple[str, ...]:
    """Capitalised words that do not begin a sentence, and words with capitals inside, in order."""
    found = []
    for match in re.finditer(r"[^\W\d_]+", text):
        word, before = match[0], text[: match.start()].rstrip()
        begins = not before or before[-1] in ".!?:\n"
        if word[0].isupper() and (not begins or word[1:] != word[1:].lower()) and word != "I":
            found.append(word.casefold())
    return tuple(found)
