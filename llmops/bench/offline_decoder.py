"""What every offline adapter of an exported decoder shares: the names of its tensors, its inputs, and the timed loop."""

from __future__ import annotations

import itertools
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Protocol

from llmops.errors import UsageError

if TYPE_CHECKING:  # an engine brings numpy; that one is missing must be said before that numpy is
    import numpy as np
    from numpy.typing import NDArray

    Ids = NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class Roles:
    """Which tensor is what.

    Attributes:
        ids, logits: Token ids in, scores out.
        mask, positions, cache_switch: None where the graph has none.
        past: Each cache input with the output that is its next value; empty for a graph without a cache.
    """

    ids: str
    logits: str
    mask: str | None = None
    positions: str | None = None
    cache_switch: str | None = None
    past: dict[str, str] = field(default_factory=dict)

    @staticmethod
    def of(inputs: Sequence[str], outputs: Sequence[str]) -> Roles:
        """Read the names, as ``llmops export onnx`` and the usual exporters give them.

        Raises:
            UsageError: It is no decoder that can be fed: no token ids, no scores, or an input of unknown meaning.
        """
        past = {name: name.replace("past_key_values", "present") for name in inputs if "past" in name}
        known = {"input_ids", "attention_mask", "position_ids", "use_cache_branch", *past}
        unknown = [name for name in inputs if name not in known]
        missing = [name for name in past.values() if name not in outputs]
        scores = next((name for name in outputs if "logits" in name), None)
        if "input_ids" not in inputs or scores is None or unknown or missing:
            what = (
                f"nothing is known of its input {unknown[0]!r}"
                if unknown
                else f"it has no output {missing[0]!r}"
                if missing
                else "it has no input_ids or no logits"
            )
            raise UsageError(f"not a decoder that can generate: {what}", "llmops export onnx --task causal-lm-cache")
        return Roles(
            ids="input_ids",
            logits=scores,
            mask="attention_mask" if "attention_mask" in inputs else None,
            positions="position_ids" if "position_ids" in inputs else None,
            cache_switch="use_cache_branch" if "use_cache_branch" in inputs else None,
            past=past,
        )

    def feed(self, ids: Ids, length: int, *, cached: bool) -> dict[str, NDArray[Any]]:
        """Every input but the cache, for ``ids`` that end a sequence of ``length`` tokens."""
        import numpy as np

        batch, new = ids.shape
        found: dict[str, NDArray[Any]] = {self.ids: ids}
        if self.mask is not None:
            found[self.mask] = np.ones((batch, length), dtype=np.int64)
        if self.positions is not None:
            found[self.positions] = np.tile(np.arange(length - new, length, dtype=np.int64), (batch, 1))
        if self.cache_switch is not None:
            found[self.cache_switch] = np.array([cached])
        return found


class Decoder(Protocol):
    """An engine that can be asked for the next token of each row."""

    @property
    def cached(self) -> bool:
        """Whether it keeps keys and values; if not, it must be given the whole sequence each time."""

    @property
    def vocabulary(self) -> int | None:
        """Token ids lie below it; None when the engine does not say."""

    def begin(self, batch: int) -> None:
        """A new sequence of ``batch`` rows."""

    def step(self, ids: Ids, length: int) -> Ids:
        """The most likely next token of each row, as a column; returns when it is known to the host."""


def generate(decoder: Decoder, prompt: Ids, tokens: int) -> dict[str, Any]:
    """Greedy decoding of ``tokens`` for each row of ``prompt``; times in ms."""
    import numpy as np

    decoder.begin(prompt.shape[0])
    sequence, ids, at = prompt, prompt, []
    began = time.perf_counter()
    for _ in range(tokens):
        following = decoder.step(ids, sequence.shape[1])
        at.append(time.perf_counter())
        sequence = np.concatenate([sequence, following], axis=1)
        ids = following if decoder.cached else sequence
    return {
        "output_tokens": tokens,
        "first_ms": (at[0] - began) * 1000,
        "total_ms": (at[-1] - began) * 1000,
        "step_ms": [(b - a) * 1000 for a, b in itertools.pairwise(at)],
        "last_tokens": sequence[:, -1].tolist(),
    }
