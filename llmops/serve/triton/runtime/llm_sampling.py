"""One request's text: its parameters, its tokens, its end. Numpy and nothing else."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from typing import Any

import numpy as np


class BadRequestError(Exception):
    """A parameter that cannot be honoured; the text goes to the client."""


@dataclass
class Params:
    """How a request wants its text. Names are those of the OpenAI API."""

    max_tokens: int = 16
    temperature: float = 0.0
    top_p: float = 1.0
    top_k: int = 0
    stop: tuple[str, ...] = ()
    seed: int | None = None
    presence_penalty: float = 0.0
    frequency_penalty: float = 0.0
    ignore_eos: bool = False

    def __post_init__(self) -> None:
        """Refuse what has no meaning."""
        checks = (
            (self.max_tokens >= 1, "max_tokens must be 1 or more"),
            (0 <= self.temperature <= 100, "temperature must lie between 0 and 100"),
            (0 < self.top_p <= 1, "top_p must lie above 0 and at most at 1"),
            (self.top_k >= 0, "top_k must be 0 or more"),
            (len(self.stop) <= 16, "stop takes at most 16 texts"),
        )
        for holds, message in checks:
            if not holds:
                raise BadRequestError(message)


def params_from(values: dict[str, Any], defaults: dict[str, Any]) -> Params:
    """Parameters from a request's values: numbers, or texts that hold them; ``stop`` is a text, a list, or JSON of one."""
    merged = {**defaults, **{name: value for name, value in values.items() if value is not None}}
    stop = merged.get("stop", merged.get("stop_words", ()))
    if isinstance(stop, str) and stop.startswith("["):
        stop = json.loads(stop)
    stops = (stop,) if isinstance(stop, str) else tuple(str(each) for each in stop or ())
    seed = merged.get("seed", merged.get("random_seed"))
    try:
        return Params(
            max_tokens=int(merged.get("max_tokens", 16)),
            temperature=float(merged.get("temperature", 0.0)),
            top_p=float(merged.get("top_p", 1.0)),
            top_k=int(merged.get("top_k", 0)),
            stop=tuple(each for each in stops if each),
            seed=None if seed is None else int(seed),
            presence_penalty=float(merged.get("presence_penalty", 0.0)),
            frequency_penalty=float(merged.get("frequency_penalty", 0.0)),
            ignore_eos=str(merged.get("ignore_eos", "")).lower() in ("1", "true"),
        )
    except (TypeError, ValueError) as error:
        raise BadRequestError(f"a parameter is not a number: {error}") from error


@dataclass
class Row:
    """A text in the making.

    ``text`` is what may be shown: it ends before a stop text, and never in the middle of a character. Where nobody looks at it
    while it grows (``live`` is False and there is no stop text) it is made at the end only.
    """

    prompt: list[int]
    params: Params
    tokenizer: Any
    eos: frozenset[int]
    limit: int
    tokens: list[int] = field(default_factory=list)
    text: str = ""
    finish: str | None = None
    tag: Any = None
    shown: int = 0
    live: bool = True

    def __post_init__(self) -> None:
        """A prompt must leave room for one token."""
        if not self.prompt:
            raise BadRequestError("the text must not be empty")
        if len(self.prompt) >= self.limit:
            raise BadRequestError(f"the text has {len(self.prompt)} tokens; this model takes at most {self.limit - 1}")
        self._random = np.random.default_rng(self.params.seed)
        self._watched = self.live or bool(self.params.stop)
        # Tokens before ``_done`` are in the text; those from ``_from`` on are decoded with the new ones, which may depend on them.
        self._from = self._done = 0

    def take(self, logits: Any) -> None:
        """Choose the next token from the logits of the last position."""
        token = self._choose(np.asarray(logits, np.float32))
        if token in self.eos and not self.params.ignore_eos:
            self._grow(final=True)
            self.finish = "stop"
            return
        self.tokens.append(token)
        full = len(self.tokens) >= self.params.max_tokens or len(self.prompt) + len(self.tokens) >= self.limit
        if self._watched or full:
            self._grow(final=full)
        found = [at for at in (self.text.find(stop) for stop in self.params.stop) if at >= 0]
        if found:
            self.text, self.finish = self.text[: min(found)], "stop"
        elif full:
            self.finish = "length"

    def fresh(self) -> str:
        """What may be shown since the last call. The beginning of a possible stop text is held back until it is none."""
        end = len(self.text)
        if self.finish is None:
            for stop in self.params.stop:
                for size in range(min(len(stop) - 1, len(self.text)), 0, -1):
                    if self.text.endswith(stop[:size]):
                        end = min(end, len(self.text) - size)
                        break
        new, self.shown = self.text[self.shown : end], max(self.shown, end)
        return new

    def _grow(self, *, final: bool) -> None:
        """Add what the newest tokens say. Only a few are decoded at a time: the whole text each time would cost its square."""
        known = self._decoded(self._from, self._done)
        text = self._decoded(self._from, len(self.tokens))
        if final or not text.endswith("\ufffd"):  # a token may end inside a character: that part waits for the rest
            self.text += text[len(known) :]
            self._from, self._done = self._done, len(self.tokens)

    def _decoded(self, begin: int, end: int) -> str:
        return str(self.tokenizer.decode(self.tokens[begin:end], skip_special_tokens=True)) if end > begin else ""

    def _choose(self, logits: Any) -> int:
        p = self.params
        if (p.presence_penalty or p.frequency_penalty) and self.tokens:
            used, counts = np.unique(self.tokens, return_counts=True)
            logits[used] -= p.presence_penalty + p.frequency_penalty * counts
        if p.temperature == 0:
            return int(logits.argmax())
        scaled = logits / p.temperature
        order = np.argsort(-scaled)
        if p.top_k:
            order = order[: p.top_k]
        weights = np.exp(scaled[order] - scaled[order[0]])
        weights /= weights.sum()
        if p.top_p < 1:
            keep = int(np.searchsorted(np.cumsum(weights), p.top_p)) + 1
            order, weights = order[:keep], weights[:keep] / weights[:keep].sum()
        return int(self._random.choice(order, p=weights))
