"""The cache: entries by context, searched by meaning, guarded by words, and measured by itself."""

from __future__ import annotations

import asyncio
import contextlib
import random
import time
from collections import OrderedDict
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from llmops.gateway.cache_semantic.ask import Ask
from llmops.gateway.cache_semantic.config import SemanticCacheConfig
from llmops.gateway.cache_semantic.embedder import Embedder
from llmops.gateway.cache_semantic.lexical import Signature, signature

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

_MAX_WAITING: Final = 64
_SAME_ANSWER: Final = 0.9
# Phrasings kept of one question; beyond that the oldest makes room.
_MAX_PHRASINGS: Final = 64


@dataclass(frozen=True, slots=True)
class Hit:
    """A kept answer to a question that means the same.

    Attributes:
        answer: The bytes that were stored.
        text: The text inside the answer, for checking.
        score: Cosine of both questions.
    """

    answer: bytes
    text: str
    score: float


@dataclass(slots=True)
class Stats:
    """Counts since the start. ``false_hits`` of ``checked`` would have been wrong; ``without_candidate`` had other words
    than every kept question of their context.
    """

    lookups: int = 0
    hits: int = 0
    without_candidate: int = 0
    checked: int = 0
    false_hits: int = 0
    dropped: int = 0

    @property
    def false_hit_ratio(self) -> float | None:
        """Share of wrong hits among those that were checked; None before any was."""
        return self.false_hits / self.checked if self.checked else None


@dataclass(slots=True)
class _Entry:
    text: str
    vector: npt.NDArray[np.float32]
    answer: bytes
    answer_text: str
    until: float


@dataclass(frozen=True, slots=True)
class _Group:
    """The entries of one context whose questions agree in words: phrasings of one question, their vectors side by side."""

    entries: tuple[_Entry, ...]
    matrix: npt.NDArray[np.float32]


class SemanticCache:
    """Of one worker; bounded in entries. Embedding happens in one thread of its own.

    Only what agrees in words may be served, so entries are found by their words, in one step, and only the few phrasings
    of one question are compared as vectors: however many entries there are, there is nothing for an index of vectors to do.
    """

    def __init__(
        self,
        config: SemanticCacheConfig,
        embedder: Embedder,
        *,
        clock: Callable[[], float] = time.monotonic,
        chance: Callable[[], float] = random.random,
    ) -> None:
        self.config = config
        self.stats = Stats()
        self._embedder = embedder
        self._clock = clock
        self._chance = chance
        self._groups: OrderedDict[tuple[bytes, Signature], _Group] = OrderedDict()
        self._size = 0
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="semantic-cache")
        self._waiting: set[Future[None]] = set()

    async def lookup(self, ask: Ask) -> Hit | None:
        """The best kept answer that is near enough and agrees in words.

        Nothing is embedded unless some kept question of the context has the same words: most requests cost only a
        look-up in a dictionary, whatever is kept.
        """
        self.stats.lookups += 1
        group = self._groups.get((ask.context, ask.signature))
        now = self._clock()
        if group is None or not any(entry.until > now for entry in group.entries):
            self.stats.without_candidate += 1
            return None
        vector = await asyncio.get_running_loop().run_in_executor(self._thread, self._embedder.embed, ask.text)
        return self._search(ask, vector)

    def serves(self, hit: Hit) -> bool:
        """Whether the hit is the answer; otherwise the model is asked, and ``checked`` compares."""
        del hit
        return self.config.mode == "serve" and self._chance() >= self.config.check_share

    def store(self, ask: Ask, answer: bytes, text: str) -> None:
        """Keep an answer. Returns at once; dropped when too many wait for the thread."""
        if len(answer) > self.config.max_answer_kib * 1024:
            return
        if len(self._waiting) >= _MAX_WAITING:
            self.stats.dropped += 1
            return
        work = self._thread.submit(self._add, ask, answer, text)
        self._waiting.add(work)
        work.add_done_callback(self._waiting.discard)

    def checked(self, kept: str, came: str) -> bool:
        """The model was asked although there was a hit: whether the kept answer says the same, which is counted."""
        self.stats.checked += 1
        same = same_answer(kept, came)
        self.stats.false_hits += not same
        return same

    def settle(self, timeout_s: float = 30.0) -> None:
        """Wait until every ``store`` is done; for tests and for closing."""
        for work in tuple(self._waiting):
            work.result(timeout_s)

    def close(self) -> None:
        """End the thread."""
        self._thread.shutdown(wait=True, cancel_futures=True)

    def _search(self, ask: Ask, vector: npt.NDArray[np.float32]) -> Hit | None:
        import numpy as np

        key = (ask.context, ask.signature)
        group = self._groups.get(key)
        if group is None:
            return None
        with contextlib.suppress(KeyError):  # the thread may have dropped it just now
            self._groups.move_to_end(key)
        scores = group.matrix @ vector
        now = self._clock()
        for index in np.argsort(-scores):
            entry = group.entries[int(index)]
            if scores[index] < self.config.threshold:
                break
            if entry.until > now:
                self.stats.hits += 1
                return Hit(entry.answer, entry.answer_text, min(1.0, float(scores[index])))
        return None

    def _add(self, ask: Ask, answer: bytes, text: str) -> None:
        import numpy as np

        vector, now = self._embedder.embed(ask.text), self._clock()
        key = (ask.context, ask.signature)
        before = self._groups.get(key)
        had = before.entries if before is not None else ()
        kept = [each for each in had if each.until > now and each.text != ask.text]
        room = min(_MAX_PHRASINGS, self.config.max_entries) - 1
        entries = (*kept[max(0, len(kept) - room) :], _Entry(ask.text, vector, answer, text, now + self.config.ttl_s))
        self._size += len(entries) - len(had)
        # A new group in one step: a look-up on the event loop sees the old one or the new one, whole.
        self._groups[key] = _Group(entries, np.stack([each.vector for each in entries]))
        self._groups.move_to_end(key)
        while self._size > self.config.max_entries and len(self._groups) > 1:
            _, oldest = self._groups.popitem(last=False)
            self._size -= len(oldest.entries)


def same_answer(one: str, other: str) -> bool:
    """Whether two answers say the same: equal numbers, names and negations, and mostly the same words. Errs on "no"."""
    first, second = signature(one), signature(other)
    if first.negations != second.negations or _figures(first) != _figures(second):
        return False
    a, b = set(first.words), set(second.words)
    return len(a & b) >= _SAME_ANSWER * max(len(a), len(b)) if a or b else one.strip() == other.strip()


def _figures(found: Signature) -> list[str]:
    return sorted(word for word in found.words if any(char.isdigit() for char in word))
