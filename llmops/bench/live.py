"""What a person sees while it runs: one line with the load, the client's health, and TTFT as it comes."""

from __future__ import annotations

import time
from collections import deque

from llmops.bench.decode import decode_stream
from llmops.bench.plan import LoadFacts, LoadPlan
from llmops.bench.report import Level
from llmops.bench.spec import BenchSpec
from llmops.progress import Progress

_BARS = " ▁▂▃▄▅▆▇█"


def sparkline(values: list[float], width: int = 5) -> str:
    """The last ``width`` values as bars between 0 and their largest."""
    shown = values[-width:]
    top = max(shown, default=0.0) or 1.0
    return "".join(_BARS[min(8, round(8 * value / top))] for value in shown)


def load_words(spec: BenchSpec, plan: LoadPlan, step: float | None) -> str:
    """The level in words."""
    if plan.trace:
        return f"trace of {len(plan.trace)} requests"
    if spec.open_loop:
        cap = f", at most {plan.concurrency} at once" if plan.concurrency else ""
        return f"{step or spec.rate:g}/s {spec.arrival}{cap}"
    return f"{plan.concurrency} user{'s' if plan.concurrency != 1 else ''}"


class Watch:
    """Turns what the load knows of itself into progress, twice a second.

    ``phase`` False: the load is a level of a larger phase, whose rows stand under one title.
    """

    def __init__(self, progress: Progress, plan: LoadPlan, words: str, *, phase: bool = True) -> None:
        self._progress = progress
        self._plan = plan
        self._flying: deque[float] = deque(maxlen=8)
        self._ttft: deque[float] = deque(maxlen=8)
        self._seen = 0
        self._lags_seen = 0
        self._began = time.monotonic()
        if phase:
            progress.phase(words)
        progress.update(0, self._total())

    def _total(self) -> float | None:
        plan = self._plan
        if plan.duration_s is not None:
            return plan.duration_s
        return len(plan.due_ns) if plan.due_ns is not None else plan.requests

    def tick(self, facts: LoadFacts) -> None:
        """Show the present state."""
        self._flying.append(facts.in_flight)
        if facts.last is not None and facts.done != self._seen:
            self._seen = facts.done
            self._sample_ttft(facts)
        lags = facts.lag_ns[self._lags_seen :]
        self._lags_seen = len(facts.lag_ns)
        late = max(lags, default=0) / 1e6
        light = "●" if late < 5 else "◐" if late < 20 else "○"
        ttft = f" ttft {self._ttft[-1]:.0f} ms {sparkline(list(self._ttft))}" if self._ttft else ""
        failed = f" {facts.failed} failed," if facts.failed else ""
        done = time.monotonic() - self._began if self._plan.duration_s is not None else facts.done
        # 40 characters are shown: what went wrong stands first.
        note = f"{light}{failed} {facts.in_flight} in flight {sparkline(list(self._flying))}{ttft}"
        self._progress.update(done, self._total(), note)

    def _sample_ttft(self, facts: LoadFacts) -> None:
        """TTFT of the latest answer only, so that watching costs the same at any load."""
        record = facts.last
        if record is None or record.error or record.status != 200 or not self._plan.endpoint.stream:
            return
        answer = decode_stream(self._plan.endpoint.api, *record.pieces())
        if answer.event_ns:
            self._ttft.append((answer.event_ns[0] - record.start_ns) / 1e6)


def row(level: Level) -> str:
    """One finished level as a line."""
    metrics = level.metrics
    ttft, gap = metrics.ttft_ms, metrics.itl_ms
    parts = [f"{level.load:<14}"]
    if ttft is not None:
        parts.append(f"ttft p50 {ttft.percentiles['p50']:.0f} ms")
    if gap is not None:
        parts.append(f"gap p50 {gap.percentiles['p50']:.1f} ms")
    parts.append(f"{metrics.output_tokens_per_s:.1f} tok/s")
    if level.counts.failed:
        parts.append(f"{level.counts.failed} failed")
    if not level.validity.valid:
        parts.append("INVALID")
    return "  ".join(parts)
