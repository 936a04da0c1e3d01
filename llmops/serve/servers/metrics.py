"""Counters of the server in the Prometheus text format. One event loop writes and reads them, so there is no lock."""

from __future__ import annotations

from bisect import bisect_left
from collections import defaultdict
from dataclasses import dataclass, field
from typing import Final

PREFIX: Final = "llmops_engine_"
_FIRST_TOKEN_BOUNDS_S: Final = (0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 120.0)
_GAP_BOUNDS_S: Final = (0.005, 0.01, 0.025, 0.05, 0.075, 0.1, 0.15, 0.2, 0.3, 0.5, 1.0, 2.5, 5.0)
_TOKEN_BOUNDS: Final = (1.0, 8.0, 32.0, 128.0, 512.0, 2048.0, 8192.0, 32768.0)


@dataclass(slots=True)
class Histogram:
    """Cumulative buckets, sum and count."""

    bounds: tuple[float, ...]
    counts: list[int] = field(default_factory=list)
    total: float = 0.0

    def __post_init__(self) -> None:
        self.counts = [0] * (len(self.bounds) + 1)

    def observe(self, value: float) -> None:
        """Count one value."""
        self.counts[bisect_left(self.bounds, value)] += 1
        self.total += value

    def lines(self, name: str, labels: str) -> list[str]:
        """In exposition order."""
        out, seen = [], 0
        for bound, count in zip((*self.bounds, float("inf")), self.counts, strict=True):
            seen += count
            edge = "+Inf" if bound == float("inf") else f"{bound:g}"
            out.append(f'{name}_bucket{{{labels},le="{edge}"}} {seen}')
        return [*out, f"{name}_sum{{{labels}}} {self.total:.6f}", f"{name}_count{{{labels}}} {seen}"]


@dataclass(slots=True)
class Metrics:
    """What the server counts about itself."""

    model: str
    running: int = 0
    waiting: int = 0
    cache_usage: float = 0.0
    prompt_tokens: int = 0
    generated_tokens: int = 0
    finished: dict[str, int] = field(default_factory=lambda: defaultdict(int))
    first_token_s: Histogram = field(default_factory=lambda: Histogram(_FIRST_TOKEN_BOUNDS_S))
    gap_s: Histogram = field(default_factory=lambda: Histogram(_GAP_BOUNDS_S))
    whole_s: Histogram = field(default_factory=lambda: Histogram(_FIRST_TOKEN_BOUNDS_S))
    prompt_size: Histogram = field(default_factory=lambda: Histogram(_TOKEN_BOUNDS))
    answer_size: Histogram = field(default_factory=lambda: Histogram(_TOKEN_BOUNDS))

    def arrived(self, tokens: int, after_s: float, *, first: bool) -> None:
        """Tokens of one request, ``after_s`` after its last ones or its start. Several at once share the gap."""
        self.generated_tokens += tokens
        if first:
            self.first_token_s.observe(after_s)
        for _ in range(tokens - first):
            self.gap_s.observe(0.0 if first else after_s / tokens)

    def render(self) -> str:
        """The whole exposition."""
        model = self.model.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n")
        labels = f'model_name="{model}"'
        lines: list[str] = []
        for name, kind, about, value in (
            ("requests_running", "gauge", "Requests in the batch", self.running),
            ("requests_waiting", "gauge", "Requests waiting for a place in the batch", self.waiting),
            ("kv_cache_usage_ratio", "gauge", "Share of the KV cache in use", round(self.cache_usage, 6)),
            ("prompt_tokens_total", "counter", "Prompt tokens of finished requests", self.prompt_tokens),
            ("generation_tokens_total", "counter", "Generated tokens", self.generated_tokens),
        ):
            lines += [*_head(name, kind, about), f"{PREFIX}{name}{{{labels}}} {value}"]
        lines += _head("requests_finished_total", "counter", "Finished requests by reason")
        for reason in ("stop", "length", "abort", "error"):
            lines.append(
                f'{PREFIX}requests_finished_total{{{labels},reason="{reason}"}} {self.finished.get(reason, 0)}'
            )
        for name, about, histogram in (
            ("time_to_first_token_seconds", "From the request to its first token", self.first_token_s),
            ("inter_token_latency_seconds", "Between two tokens of a request", self.gap_s),
            ("request_duration_seconds", "From the request to its last token", self.whole_s),
            ("request_prompt_tokens", "Prompt tokens of a request", self.prompt_size),
            ("request_generation_tokens", "Generated tokens of a request", self.answer_size),
        ):
            lines += [*_head(name, "histogram", about), *histogram.lines(PREFIX + name, labels)]
        return "\n".join(lines) + "\n"


def _head(name: str, kind: str, about: str) -> list[str]:
    return [f"# HELP {PREFIX}{name} {about}.", f"# TYPE {PREFIX}{name} {kind}"]
