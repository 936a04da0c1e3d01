"""Secrets in a stream of text: what could be the beginning of one is held back until it is clear."""

from __future__ import annotations

from typing import Final, Literal

from llmops.gateway.guard.secret_rules import (
    BY_PREFIX,
    LONGEST,
    PARTIAL,
    PREFIXES,
    Hit,
    find,
    may_have,
    redact,
)

_BOUNDARY: Final = 8  # characters before a secret that are kept to know whether it begins inside a word


class SecretStream:
    """Fed with text deltas in order; returns what may be sent on.

    With ``log`` nothing is held back. With ``redact`` and ``block`` at most ``LONGEST`` bytes are, and only while they
    look like a secret; ordinary text passes at once, but for a few characters that begin a prefix.

    Attributes:
        found: Names of the rules that matched so far.
        blocked: Whether the stream must end here (``block``).
    """

    def __init__(self, action: Literal["log", "redact", "block"]) -> None:
        self.action = action
        self.found: list[str] = []
        self.blocked = False
        self._carry = b""
        self._before = b""

    def feed(self, text: str) -> str:
        """What may be sent on of everything fed so far."""
        if self.blocked:
            return ""
        return self._advance(text, final=False)

    def finish(self) -> str:
        """The rest, at the end of the stream."""
        return "" if self.blocked else self._advance("", final=True)

    def _advance(self, text: str, *, final: bool) -> str:
        new = text.encode("utf-8", "surrogatepass")
        pending = self._carry + new
        if not final and not self._carry and not may_have(new) and not _partial(new):
            self._before = (self._before + new)[-_BOUNDARY:]
            return text
        whole = self._before + pending
        skip = len(self._before)
        hits = [hit for hit in find(whole) if hit.start >= skip]
        hold = len(whole) if final else _undecided(whole, skip, hits)
        hits = [hit for hit in hits if hit.start < hold]
        self.found += [hit.rule for hit in hits]
        self._carry = whole[hold:]
        if hits and self.action == "block":
            self.blocked = True
            self._carry = b""
            hold = hits[0].start
            hits = []
        out = whole[:hold]
        self._before = out[-_BOUNDARY:]
        if self.action == "log":
            return text
        return (redact(out, hits) if hits else out)[skip:].decode("utf-8", "surrogatepass")


def _undecided(text: bytes, skip: int, hits: list[Hit]) -> int:
    """Where the part begins that could be a secret which is not complete yet; the length of ``text`` where there is none."""
    ends = {hit.start: hit.end for hit in hits}
    done = skip
    for match in PREFIXES.finditer(text, skip):
        start = match.start()
        if start < done:
            continue  # inside a secret that is complete
        grown = BY_PREFIX[match[0]].growing.match(text, match.end())
        if grown is not None and grown.end() == len(text) and len(text) - start < LONGEST:
            # More characters of it may come; one of fixed length still needs to see its end.
            return start
        done = ends.get(start, done)
    return max(done, len(text) - _partial(text))


def _partial(text: bytes) -> int:
    """Length of the longest end of ``text`` that begins a prefix."""
    candidates = PARTIAL.get(text[-1]) if text else None
    if candidates is None or not text.endswith(candidates):
        return 0
    return next(len(each) for each in candidates if text.endswith(each))
