"""When each request is due, as absolute offsets computed before the clock starts; pure functions of a seed.

One schedule is made in one place and cut into disjoint slices for worker processes, so that two processes can never
repeat each other's random gaps.
"""

from __future__ import annotations

import math
import random
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import msgspec

from llmops.errors import UsageError

_NS: Final = 1_000_000_000


@dataclass(frozen=True, slots=True)
class Arrival:
    """How gaps between requests are drawn. ``shape`` is the gamma shape: 1 is Poisson, infinity is constant."""

    shape: float = 1.0

    @staticmethod
    def parse(text: str) -> Arrival:
        """``constant``, ``poisson`` or ``gamma:BURSTINESS``; burstiness below 1 comes in bursts, above 1 is more even.

        Raises:
            UsageError: It is none of these.
        """
        if text == "constant":
            return Arrival(math.inf)
        if text == "poisson":
            return Arrival()
        name, _, number = text.partition(":")
        try:
            shape = float(number)
        except ValueError:
            shape = -1.0
        if name != "gamma" or not 0.01 <= shape <= 10_000:
            raise UsageError(f"{text!r} is not an arrival process", "write constant, poisson or gamma:0.5")
        return Arrival(shape)

    @property
    def index_of_dispersion(self) -> float:
        """Variance over mean of counts in long intervals."""
        return 0.0 if math.isinf(self.shape) else 1 / self.shape

    @property
    def poisson(self) -> bool:
        """Whether it is a Poisson process."""
        return self.shape == 1.0


def arrivals(
    rate: float, arrival: Arrival, *, seed: int, requests: int | None, duration_s: float | None, ramp_s: float = 0.0
) -> tuple[int, ...]:
    """Nanosecond offsets of requests at ``rate`` a second, until either limit is reached.

    With ``ramp_s`` the rate grows in a straight line from 0 to ``rate`` during the ramp: unit-rate events are mapped
    through the inverse of the integrated rate, so the process keeps its character inside the ramp.
    """
    rng = random.Random(f"arrivals/{seed}")
    due: list[int] = []
    events = 0.0  # in units of mean gaps
    while requests is None or len(due) < requests:
        at_s = _unramp(events / rate, ramp_s)
        if duration_s is not None and at_s >= duration_s:
            break
        due.append(round(at_s * _NS))
        events += 1.0 if math.isinf(arrival.shape) else rng.gammavariate(arrival.shape, 1 / arrival.shape)
    return tuple(due)


def _unramp(flat_s: float, ramp_s: float) -> float:
    """The time by which a rate that grows linearly during ``ramp_s`` has given as many events as a full one in ``flat_s``."""
    if ramp_s <= 0:
        return flat_s
    if flat_s < ramp_s / 2:
        return math.sqrt(2 * ramp_s * flat_s)
    return flat_s + ramp_s / 2


@dataclass(frozen=True, slots=True)
class TraceRow:
    """One request of a trace."""

    at_ns: int
    input_tokens: int | None
    output_tokens: int | None
    prefix: tuple[int, ...] = ()
    prompt: str | None = None


def read_trace(path: Path, *, speed: float = 1.0) -> list[TraceRow]:
    """A request trace as JSON lines.

    Mooncake's form (``timestamp`` in ms, ``input_length``, ``output_length``, ``hash_ids``) or our own (``at_s``,
    ``input_tokens``, ``output_tokens``, ``prompt``).

    Raises:
        UsageError: No such file, or a line is neither.
    """
    try:
        lines = path.read_bytes().splitlines()
    except OSError as error:
        raise UsageError(f"cannot read the trace {path}: {error.strerror}", "check --trace") from None
    rows = [_trace_row(line, f"{path}:{number}", speed) for number, line in enumerate(lines, 1) if line.strip()]
    if not rows:
        raise UsageError(f"the trace {path} is empty")
    first = min(row.at_ns for row in rows)
    shifted = [TraceRow(r.at_ns - first, r.input_tokens, r.output_tokens, r.prefix, r.prompt) for r in rows]
    return sorted(shifted, key=lambda row: row.at_ns)


def _trace_row(line: bytes, where: str, speed: float) -> TraceRow:
    hint = 'a line is {"timestamp": MS, "input_length": N, "output_length": M} or {"at_s": S, "input_tokens": N, …}'
    try:
        row: Any = msgspec.json.decode(line)
        at_s = row["at_s"] if "at_s" in row else row["timestamp"] / 1000
        return TraceRow(
            round(float(at_s) * _NS / speed),
            _positive(row.get("input_tokens", row.get("input_length"))),
            _positive(row.get("output_tokens", row.get("output_length"))),
            tuple(int(number) for number in row.get("hash_ids", ())[:64]),
            row.get("prompt"),
        )
    except (msgspec.DecodeError, KeyError, TypeError, ValueError, AttributeError):
        raise UsageError(f"{where}: not a line of a trace", hint) from None


def _positive(value: Any) -> int | None:
    return None if value is None else max(1, int(value))
