"""What a measurement reports."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from llmops.bench.metrics import Metrics, Moment
from llmops.bench.slo import SloResult, Verdict
from llmops.bench.validity import Validity
from llmops.errors import ExitCode
from llmops.findings import Finding


@dataclass(frozen=True, slots=True)
class Counts:
    """How many of what. Aborted requests were under way at an interruption and count nowhere else."""

    requests: int
    ok: int
    failed: int
    output_tokens: int
    input_tokens: int
    aborted: int = 0
    retried: int = 0
    warmup: int = 0


@dataclass(frozen=True, slots=True)
class Client:
    """What the client saw of itself; times in ms."""

    cpu_share: float
    loop_lag_p99_ms: float | None
    send_lateness_p99_ms: float | None
    connect_p50_ms: float | None
    connect_max_ms: float | None
    in_flight_max: int
    processes: int


@dataclass(frozen=True, slots=True)
class Level:
    """One level of load.

    Attributes:
        load: In words: ``4 users``, ``2/s poisson``.
        concurrency, rate: The level, as far as it has one.
        token_source: Where most output token counts come from.
        ttft_values_ms, gap_values_ms: Values at evenly spaced ranks (101 of them), for plots.
        blocks: Medians of ten blocks of consecutive requests, for comparisons.
    """

    load: str
    concurrency: int | None
    rate: float | None
    metrics: Metrics
    counts: Counts
    errors: dict[str, int]
    error_details: dict[str, str]
    validity: Validity
    slos: tuple[SloResult, ...]
    token_source: str
    timeline: tuple[Moment, ...]
    client: Client
    ttft_values_ms: tuple[float, ...] = ()
    gap_values_ms: tuple[float, ...] = ()
    blocks: dict[str, list[float]] = field(default_factory=dict)
    cost: dict[str, Any] | None = None
    energy: dict[str, Any] | None = None

    @property
    def verdict(self) -> Verdict:
        """FAIL where an objective failed, INCONCLUSIVE where the run is invalid or an objective undecided, else PASS."""
        verdicts = {result.verdict for result in self.slos}
        if not self.validity.valid:
            return "INCONCLUSIVE"
        return "FAIL" if "FAIL" in verdicts else "INCONCLUSIVE" if "INCONCLUSIVE" in verdicts else "PASS"

    def data(self) -> dict[str, Any]:
        """The JSON shape of one level."""
        return {
            "load": self.load,
            "concurrency": self.concurrency,
            "rate": self.rate,
            "metrics": self.metrics.data(),
            "counts": self.counts,
            "errors": self.errors,
            "error_details": self.error_details,
            "validity": self.validity.data(),
            "token_source": self.token_source,
            "slos": self.slos,
            "timeline": self.timeline,
            "blocks": self.blocks,
            "distribution": {"ttft_ms": self.ttft_values_ms, "itl_ms": self.gap_values_ms},
            "client": self.client,
            "cost": self.cost,
            "energy": self.energy,
        }


@dataclass(frozen=True, slots=True)
class BenchReport:
    """One measurement.

    Attributes:
        ok: False when a gate failed, nothing was answered, or the run is INVALID and that is not allowed.
        verdict: Of all gates together. Without gates it is PASS for a valid run and INCONCLUSIVE for an invalid one.
        levels: One, or one for each level of a sweep or a search.
        chosen: Index of the level that the figures at the top of the JSON come from: the only one, the highest of a
            sweep, the best of a search.
        gates: Whether anything was asked that can fail.
        allow_invalid: Without gates, an INVALID run still counts as a success.
        found: What a search found, in words.
        comparison: Against the baseline.
        charts: Whether the document holds the plots; a terminal is better off without.
        interrupted: The signal after which only what was measured until then is reported.
    """

    ok: bool
    findings: tuple[Finding, ...]
    url: str
    model: str
    api: str
    verdict: Verdict
    levels: tuple[Level, ...]
    chosen: int
    gates: bool
    seed: int
    command: str
    versions: dict[str, str]
    machine: dict[str, Any]
    started: str
    found: str | None = None
    comparison: dict[str, Any] | None = None
    interrupted: int | None = None
    raw: str | None = None
    lengths: dict[str, Any] = field(default_factory=dict)
    charts: bool = True
    allow_invalid: bool = False

    @property
    def level(self) -> Level:
        """The level that stands for the whole."""
        return self.levels[self.chosen]

    @property
    def metrics(self) -> Metrics:
        """Figures of the chosen level."""
        return self.level.metrics

    @property
    def counts(self) -> Counts:
        """Counts of the chosen level."""
        return self.level.counts

    @property
    def exit_code(self) -> ExitCode:
        """0, 1 or 6 by the verdict; 5 when nothing was answered; 130 or 143 when interrupted.

        A gate asked of an INVALID run is always 6: ``allow_invalid`` is for figures, not for judgements.
        """
        if self.interrupted is not None:
            return ExitCode(128 + self.interrupted)
        if not any(level.counts.ok for level in self.levels):
            return ExitCode.OUTSIDE
        if self.allow_invalid and not self.gates:
            return ExitCode.OK
        return {"PASS": ExitCode.OK, "FAIL": ExitCode.NO, "INCONCLUSIVE": ExitCode.INCONCLUSIVE}[self.verdict]

    def data(self) -> dict[str, Any]:
        """The JSON shape: the chosen level's figures, then every level."""
        return self.level.data() | {
            "url": self.url,
            "model": self.model,
            "api": self.api,
            "verdict": self.verdict,
            "complete": self.interrupted is None,
            "found": self.found,
            "comparison": self.comparison,
            "levels": [level.data() for level in self.levels] if len(self.levels) > 1 else [],
            "lengths": self.lengths,
            "seed": self.seed,
            "command": self.command,
            "started": self.started,
            "versions": self.versions,
            "machine": self.machine,
            "raw": self.raw,
        }
