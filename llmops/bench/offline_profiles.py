"""The optimisation profiles of a TensorRT engine: which batches, lengths and caches it takes. Pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from llmops.bench.offline_decoder import Roles
from llmops.errors import UsageError

Triple = tuple[int, int, int]
Shape = tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Limits:
    """Least, most usual and largest of each dimension in one profile; ``past`` is None for an engine without a cache."""

    batch: Triple
    tokens: Triple
    past: Triple | None = None

    def takes(self, batch: int, tokens: int, past: int) -> bool:
        """Whether a run of these sizes lies within."""
        pairs = [(self.batch, batch), (self.tokens, tokens)] + ([(self.past, past)] if self.past else [])
        return all(low <= value <= high for (low, _, high), value in pairs)

    @property
    def words(self) -> str:
        """For a person."""
        text = f"batches of {_span(self.batch)} and {_span(self.tokens)} tokens"
        return text + (f" after {_span(self.past)} cached" if self.past else "")


def limits_of(roles: Roles, shapes: Mapping[str, Sequence[Shape]]) -> Limits:
    """One profile; ``shapes`` has (min, opt, max) of each input that it bounds."""
    ids = shapes[roles.ids]
    batch, tokens = _column(ids, 0), _column(ids, 1)
    caches = [shapes[name] for name in roles.past if name in shapes]
    # A cache is batch x heads x length x width, as transformers lays it out.
    return Limits(batch, tokens, _column(caches[0], 2) if caches else None)


def default_batches(profiles: Sequence[Limits]) -> tuple[int, ...]:
    """What the profiles were tuned for: their least, usual and largest batch."""
    return tuple(sorted({size for limits in profiles for size in limits.batch if size > 0}))


def choose(profiles: Sequence[Limits], batch: int, tokens: int, past: int) -> int | None:
    """The profile that takes such a run and is tuned closest to it; None when there is none."""
    fitting = [number for number, limits in enumerate(profiles) if limits.takes(batch, tokens, past)]
    return min(fitting, key=lambda number: abs(profiles[number].tokens[1] - tokens), default=None)


def check(profiles: Sequence[Limits], roles: Roles, batches: Sequence[int], prompt: int, output: int) -> None:
    """Refuse before anything runs what no profile takes.

    Raises:
        UsageError: With what the engine takes and how to build one that takes this.
    """
    last = prompt + output - 1
    for batch in batches:
        runs = [(prompt, 0), (1, prompt), (1, last - 1)] if roles.past else [(prompt, 0), (last, 0)]
        for tokens, past in runs if output > 1 else runs[:1]:
            if choose(profiles, batch, tokens, past) is None:
                after = f" after {past} cached" if roles.past else ""
                takes = "; ".join(limits.words for limits in profiles)
                hint = f"build it with --batch 1:{max(batches)}:{max(batches)} --seq 1:{prompt}:{max(prompt, last)}"
                hint += f" --past 0:{prompt}:{last}" if roles.past else ""
                raise UsageError(
                    f"the engine does not take a batch of {batch} with {tokens} tokens{after}: it takes {takes}", hint
                )


def _column(shapes: Sequence[Shape], axis: int) -> Triple:
    low, usual, high = (shape[axis] for shape in shapes)
    return low, usual, high


def _span(triple: Triple) -> str:
    return str(triple[0]) if triple[0] == triple[2] else f"{triple[0]} to {triple[2]}"
