"""Prompts: seeded synthetic text of a wanted token length in English or Japanese, or the user's own.

No tokenizer is needed. The text is made of short common words; how many of them make a token is learnt from the server's
own usage during the warm-up (``Lengths.learn``), so the lengths are right for whatever model answers.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Literal

import msgspec

from llmops.bench.schedule import TraceRow
from llmops.bench.wire import Message
from llmops.bench.words import ENGLISH, JAPANESE
from llmops.errors import UsageError

Language = Literal["en", "ja"]
_WORDS: Final[dict[Language, tuple[str, ...]]] = {"en": tuple(ENGLISH.split()), "ja": tuple(JAPANESE.split())}
_JOIN: Final[dict[Language, str]] = {"en": " ", "ja": ""}
_ASK: Final[dict[Language, str]] = {
    "en": "Continue this text for as long as you can, without stopping: ",
    "ja": "次の文章の続きを、止まらずにできるだけ長く書いてください。",
}


@dataclass(frozen=True, slots=True)
class Lengths:
    """How prompt length in words becomes tokens: ``tokens = fixed + per_word * words`` (chat template in ``fixed``)."""

    fixed: float = 24.0
    per_word: float = 1.05
    learnt: bool = False

    def words(self, tokens: int) -> int:
        """Words for a prompt of ``tokens``, at least one."""
        return max(1, round((tokens - self.fixed) / self.per_word))

    @staticmethod
    def learn(seen: Sequence[tuple[int, int]]) -> Lengths | None:
        """Least squares over (words, prompt tokens) of warm-up answers; None when they cannot tell a slope."""
        if len({words for words, _ in seen}) < 2:
            return None
        n = len(seen)
        mean_w = sum(words for words, _ in seen) / n
        mean_t = sum(tokens for _, tokens in seen) / n
        spread = sum((words - mean_w) ** 2 for words, _ in seen)
        slope = sum((words - mean_w) * (tokens - mean_t) for words, tokens in seen) / spread
        return Lengths(mean_t - slope * mean_w, slope, learnt=True) if slope > 0.05 else None


DEFAULT_LENGTHS: Final[dict[Language, Lengths]] = {"en": Lengths(), "ja": Lengths(24.0, 1.3)}


@dataclass(frozen=True, slots=True)
class PromptPlan:
    """Which prompts are sent; a pure function of the seed and the number of the request.

    Attributes:
        input_tokens: Lowest and highest wanted prompt length; uniform between them.
        output_tokens: Lowest and highest ``max_tokens``.
        prefix_groups: With ``prefix_tokens``: how many different shared prefixes; conversation i has prefix i mod groups.
        turns: Requests of one conversation.
        dataset: File with prompts of the user instead of synthetic ones.
    """

    seed: int
    language: Language = "en"
    input_tokens: tuple[int, int] = (128, 128)
    output_tokens: tuple[int, int] = (128, 128)
    prefix_groups: int = 0
    prefix_tokens: int = 0
    turns: int = 1
    lengths: Lengths = Lengths()
    dataset: str | None = None


@dataclass(frozen=True, slots=True)
class Turn:
    """One request to send: the user's text, how many synthetic words it has with its prefix, and ``max_tokens``."""

    text: str
    words: int
    output_tokens: int
    system: str = ""


class Prompts:
    """Makes the prompts of a plan; the same plan gives the same prompts in every process."""

    def __init__(self, plan: PromptPlan) -> None:
        self.plan = plan
        self._words = _WORDS[plan.language]
        self._join = _JOIN[plan.language]
        self._dataset = read_dataset(Path(plan.dataset)) if plan.dataset else None
        # The fixed part of a prompt, its template, is the whole's and not the prefix's.
        self._prefix_words = max(1, round(plan.prefix_tokens / plan.lengths.per_word))
        self._prefixes = [
            self._text(random.Random(f"{plan.seed}/prefix/{group}"), self._prefix_words)
            for group in range(plan.prefix_groups)
        ]

    def turn(self, conversation: int, turn: int = 0, *, shrink: float = 1.0, row: TraceRow | None = None) -> Turn:
        """The request number ``turn`` of a conversation. ``shrink`` shortens it, for learning lengths; ``row`` is the
        trace's own wish for it.
        """
        plan = self.plan
        rng = random.Random(f"{plan.seed}/{conversation}/{turn}")
        output = rng.randint(*plan.output_tokens)
        if row is not None:
            return self._traced(row, rng, row.output_tokens or output)
        if self._dataset is not None:
            turns = self._dataset[conversation % len(self._dataset)]
            return Turn(turns[turn % len(turns)], 0, output)
        prefix = self._prefixes[conversation % plan.prefix_groups] if plan.prefix_groups and not turn else ""
        words = max(1, round(plan.lengths.words(rng.randint(*plan.input_tokens)) * shrink))
        # The number in front makes each prompt unlike any other from its first token on, so that a prefix cache cannot
        # make an answer look fast which in real use would not be. A shared prefix is then an explicit choice.
        lead = f"{rng.getrandbits(24):06x}{self._join or ' '}"
        text = lead + _ASK[plan.language] if words > 16 else lead
        own = max(1, words - _ASK_WORDS[plan.language]) if words > 16 else words
        whole = words + (self._prefix_words if prefix else 0)
        return Turn(text + self._text(rng, own), whole, output, prefix)

    def _traced(self, row: TraceRow, rng: random.Random, output: int) -> Turn:
        """A row of a trace: equal hash ids mean equal blocks of text, so that prefix caches see what the trace saw."""
        if row.prompt is not None:
            return Turn(row.prompt, 0, output)
        words = self.plan.lengths.words(row.input_tokens or self.plan.input_tokens[1])
        block = max(1, round(_TRACE_BLOCK_TOKENS / self.plan.lengths.per_word))
        shared = [self._text(random.Random(f"{self.plan.seed}/block/{name}"), block) for name in row.prefix]
        picked = self._join.join([*shared, f"{rng.getrandbits(24):06x}", self._text(rng, words)])
        text = " ".join(picked.split(" ")[:words]) if self._join else picked[: len(self._text(rng, words))]
        return Turn(text, words, output)

    def turns_of(self, conversation: int) -> int:
        """How many requests a conversation has."""
        if self._dataset is not None:
            return min(self.plan.turns, len(self._dataset[conversation % len(self._dataset)]))
        return self.plan.turns

    def first_messages(self, turn: Turn) -> list[Message]:
        """The messages of a conversation's first request."""
        messages = [{"role": "user", "content": turn.text}]
        if turn.system:
            # In the user's message, because not every chat template knows a system role.
            messages[0]["content"] = turn.system + self._join + turn.text
        return messages

    def _text(self, rng: random.Random, words: int) -> str:
        return self._join.join(rng.choices(self._words, k=words))


_TRACE_BLOCK_TOKENS: Final = 512  # what one hash id of a Mooncake trace stands for
_ASK_WORDS: Final[dict[Language, int]] = {"en": 12, "ja": 14}


def read_dataset(path: Path) -> list[list[str]]:
    """User turns of each conversation in a file.

    Known forms: ShareGPT JSON (``[{"conversations": [{"from": "human", "value": …}, …]}, …]``), JSON lines with
    ``messages``, ``conversations``, ``turns``, ``prompt`` or ``text``, and plain text (one prompt a line).

    Raises:
        UsageError: No such file, no known form, or no prompt in it.
    """
    try:
        raw = path.read_bytes()
    except OSError as error:
        raise UsageError(f"cannot read the prompts in {path}: {error.strerror}", "check --dataset") from None
    if path.suffix not in (".json", ".jsonl"):
        found = [[line] for line in raw.decode("utf-8", "replace").splitlines() if line.strip()]
    else:
        found = [turns for number, row in _rows(raw, path) if (turns := _user_turns(row, path, number))]
    if not found:
        raise UsageError(f"{path} holds no prompt", "see docs/bench.md for the forms that --dataset reads")
    return found


def _rows(raw: bytes, path: Path) -> list[tuple[int, Any]]:
    try:
        if raw.lstrip()[:1] == b"[":
            return list(enumerate(msgspec.json.decode(raw), 1))
        lines = raw.splitlines()
    except msgspec.DecodeError as error:
        raise UsageError(f"{path}: not JSON: {error}") from None
    rows = []
    for number, line in enumerate(lines, 1):
        if line.strip():
            try:
                rows.append((number, msgspec.json.decode(line)))
            except msgspec.DecodeError as error:
                raise UsageError(f"{path}:{number}: not JSON: {error}") from None
    return rows


def _user_turns(row: Any, path: Path, number: int) -> list[str]:
    if isinstance(row, str):
        return [row]
    if isinstance(row, dict):
        for key in ("messages", "conversations", "conversation", "turns"):
            if isinstance(row.get(key), list):
                return [text for item in row[key] if (text := _said_by_user(item))]
        for key in ("prompt", "text", "input", "question", "instruction"):
            if isinstance(row.get(key), str):
                return [row[key]]
    raise UsageError(
        f"{path}:{number}: no messages, conversations, turns, prompt or text in it",
        "see docs/bench.md for the forms that --dataset reads",
    )


def _said_by_user(item: Any) -> str:
    if isinstance(item, str):
        return item
    if isinstance(item, dict) and item.get("role", item.get("from")) in ("user", "human"):
        said = item.get("content", item.get("value"))
        return said if isinstance(said, str) else ""
    return ""
