"""Tokens to text as it may be shown: no half characters, nothing that may still become a stop string."""

from __future__ import annotations

from collections.abc import Callable, Sequence

# A character is at most four bytes; a byte-level token holds at least one. More undecodable tokens than this are noise.
_MAX_PENDING = 12


class TextStream:
    """The text of one generation.

    Args:
        decode: Token ids to text, special tokens left out.
        stops: Strings that end the generation and are not part of the text.
    """

    def __init__(self, decode: Callable[[Sequence[int]], str], stops: tuple[str, ...] = ()) -> None:
        self._decode = decode
        self._stops = tuple(stop for stop in stops if stop)
        self._tokens: list[int] = []
        self._context_from = 0  # tokens before the pending ones that decode with them, since spaces depend on the left
        self._pending_from = 0
        self._held = ""
        self.stopped = False

    def push(self, tokens: Sequence[int]) -> str:
        """Take new tokens; returns the text that is now certain."""
        if self.stopped:
            return ""
        self._tokens += tokens
        context = self._decode(self._tokens[self._context_from : self._pending_from])
        together = self._decode(self._tokens[self._context_from :])
        fresh = together[len(context) :]
        if fresh.endswith("�") and len(self._tokens) - self._pending_from < _MAX_PENDING:
            return ""
        self._context_from, self._pending_from = self._pending_from, len(self._tokens)
        return self._release(fresh)

    def finish(self) -> str:
        """No more tokens come; returns what was held back."""
        if self.stopped:
            return ""
        context = self._decode(self._tokens[self._context_from : self._pending_from])
        rest = self._decode(self._tokens[self._context_from :])[len(context) :]
        self._pending_from = len(self._tokens)
        out = self._release(rest)
        held, self._held = self._held, ""
        return out if self.stopped else out + held

    def _release(self, fresh: str) -> str:
        text = self._held + fresh
        found = [at for at in (text.find(stop) for stop in self._stops) if at >= 0]
        if found:
            self.stopped, self._held = True, ""
            return text[: min(found)]
        keep = max((_overlap(text, stop) for stop in self._stops), default=0)
        self._held = text[len(text) - keep :]
        return text[: len(text) - keep]


def _overlap(text: str, stop: str) -> int:
    """Length of the longest end of ``text`` that begins ``stop``."""
    for length in range(min(len(text), len(stop) - 1), 0, -1):
        if text.endswith(stop[:length]):
            return length
    return 0
