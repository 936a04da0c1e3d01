"""Whether the client measured the server, or itself."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

from llmops.bench import stats
from llmops.bench.metrics import Metrics
from llmops.bench.plan import LoadFacts
from llmops.bench.samples import Samples
from llmops.bench.schedule import Arrival

# A stamp is late by the loop's lag: on average that shifts every figure, at p99 it shifts the p99s.
_LAG_MEAN_MS: Final = 1.0
_LAG_P99_MS: Final = 10.0
_LATE_P99_MS: Final = 2.0
_SHARE_OF_TTFT: Final = 0.02
_CPU_LIMIT: Final = 0.80
_RATE_TOLERANCE: Final = 0.02


@dataclass(frozen=True, slots=True)
class Check:
    """One condition of a valid run.

    Attributes:
        name: Stable word.
        ok: Whether it holds. None: not applicable, or too little to tell.
        value, limit: What was seen and what is allowed, in words.
        remedy: What to change.
        fatal: A run that fails it is INVALID; otherwise it is only a warning.
    """

    name: str
    ok: bool | None
    value: str
    limit: str
    remedy: str = ""
    fatal: bool = True


@dataclass(frozen=True, slots=True)
class Validity:
    """The validity block of one level."""

    checks: tuple[Check, ...]

    @property
    def valid(self) -> bool:
        """Whether no fatal condition failed."""
        return not self.reasons

    @property
    def spoiled(self) -> bool:
        """Whether a comparison of interleaved runs cannot use it either. A late event loop lengthens both sides alike and
        shows in the spread of the rounds, so there it only widens the interval.
        """
        return any(check.ok is False and check.fatal and check.name != "event-loop-lag" for check in self.checks)

    @property
    def reasons(self) -> tuple[str, ...]:
        """Why the run is INVALID, each with what to change."""
        return tuple(_sentence(check) for check in self.checks if check.ok is False and check.fatal)

    @property
    def warnings(self) -> tuple[str, ...]:
        """What else to know."""
        return tuple(_sentence(check) for check in self.checks if check.ok is False and not check.fatal)

    def data(self) -> dict[str, Any]:
        """The JSON shape."""
        return {
            "valid": self.valid,
            "reasons": list(self.reasons),
            "warnings": list(self.warnings),
            "checks": {c.name: {"ok": c.ok, "value": c.value, "limit": c.limit} for c in self.checks},
        }


def _sentence(check: Check) -> str:
    return f"{check.name.replace('-', ' ')}: {check.value}, wanted {check.limit}" + (
        f"; {check.remedy}" if check.remedy else ""
    )


@dataclass(frozen=True, slots=True)
class Asked:
    """What the load should have been."""

    open_loop: bool
    capped: bool
    arrival: Arrival | None
    input_tokens: tuple[int, int] | None
    users: int | None = None


def check(asked: Asked, facts: Sequence[LoadFacts], samples: Samples, metrics: Metrics) -> Validity:
    """All conditions for one level."""
    ttft = metrics.ttft_ms.percentiles["p50"] if metrics.ttft_ms else 0.0
    found = [_enough(samples), _lag(facts, ttft), _cpu(facts)]
    if asked.users is not None:
        found.append(_users(asked.users, facts))
    if asked.open_loop:
        found += [_lateness(asked, samples, ttft), _rate(samples)]
        if asked.arrival is not None:
            found.append(_dispersion(asked.arrival, samples))
    found += [_steady(samples), _agreement(samples), _floors(metrics)]
    if asked.input_tokens is not None:
        found.append(_lengths(asked.input_tokens, samples))
    return Validity(tuple(found))


def _enough(samples: Samples) -> Check:
    count = len(samples.ok)
    return Check("whole-answers", count > 0, str(count), "at least 1", "see the errors by kind")


def _users(users: int, facts: Sequence[LoadFacts]) -> Check:
    """A closed loop with fewer requests than users never had so many."""
    reached = sum(fact.users for fact in facts)
    remedy = f"ask for more --requests, three for each user ({3 * users}) or more"
    return Check("users", reached >= users, f"{reached} of {users} had a request to send", "all", remedy)


def _lag(facts: Sequence[LoadFacts], ttft: float) -> Check:
    """A stamp can be late by as much as the loop is."""
    lags = sorted(lag / 1e6 for fact in facts for lag in fact.lag_ns)
    mean_limit, limit = max(_LAG_MEAN_MS, _SHARE_OF_TTFT / 2 * ttft), max(_LAG_P99_MS, _SHARE_OF_TTFT * ttft)
    allowed = f"mean {mean_limit:.1f} ms and p99 {limit:.1f} ms at most"
    if len(lags) < 20:
        return Check("event-loop-lag", None, "too short a run to tell", allowed)
    mean, p99 = sum(lags) / len(lags), stats.percentile(lags, 0.99)
    remedy = "this machine is too busy: move the client to a quieter one, or give it fewer streams"
    seen = f"mean {mean:.2f} ms, p99 {p99:.2f} ms"
    return Check("event-loop-lag", mean <= mean_limit and p99 <= limit, seen, allowed, remedy)


def _cpu(facts: Sequence[LoadFacts]) -> Check:
    worst = max((fact.cpu_s / max(1e-9, (fact.end_ns - fact.start_ns) / 1e9) for fact in facts), default=0.0)
    remedy = "add --workers, or lower the load"
    return Check("client-cpu", worst < _CPU_LIMIT, f"{worst:.0%} of a core", f"{_CPU_LIMIT:.0%} at most", remedy)


def _lateness(asked: Asked, samples: Samples, ttft: float) -> Check:
    late = sorted(row.lateness_ms for row in samples.measured if row.sent_ns)
    limit = max(_LATE_P99_MS, _SHARE_OF_TTFT * ttft)
    if not late:
        return Check("send-lateness", None, "nothing was sent", f"p99 {limit:.1f} ms at most")
    p99 = stats.percentile(late, 0.99)
    if asked.capped:
        value = f"p99 {p99:.2f} ms, the cap's queue included"
        return Check(
            "send-lateness", p99 <= limit, value, f"p99 {limit:.1f} ms at most", "raise --concurrency", fatal=False
        )
    remedy = "the client cannot send on time: add --workers, lower the rate, or use a quieter machine"
    return Check("send-lateness", p99 <= limit, f"p99 {p99:.2f} ms", f"p99 {limit:.1f} ms at most", remedy)


def _rate(samples: Samples) -> Check:
    """The realised rate against the schedule's own, which for a random process is not exactly the asked one."""
    rows = [row for row in samples.measured if row.sent_ns]
    limit = f"within {_RATE_TOLERANCE:.0%} of the schedule"
    if len(rows) < 20:
        return Check("realised-rate", None, "too few requests to tell", limit)
    sent, due = sorted(row.sent_ns for row in rows), sorted(row.sent_ns - row.lateness_ms * 1e6 for row in rows)
    ratio = (due[-1] - due[0]) / max(1, sent[-1] - sent[0])
    value = f"{(len(rows) - 1) / ((sent[-1] - sent[0]) / 1e9):.4g}/s, {ratio - 1:+.2%} of the schedule"
    remedy = "the cap or the client holds requests back: raise --concurrency or add --workers"
    return Check("realised-rate", abs(ratio - 1) <= _RATE_TOLERANCE, value, limit, remedy)


def _dispersion(arrival: Arrival, samples: Samples) -> Check:
    """The sends' index of dispersion against the process's own (chi-square, 99.9 %, normal approximation)."""
    sent = sorted(row.sent_ns for row in samples.measured if row.sent_ns)
    limit = f"{arrival.index_of_dispersion:.2f} for this process"
    bins = min(200, len(sent) // 10)
    if bins < 10:
        return Check("dispersion", None, "too few requests to tell", limit, fatal=False)
    width = (sent[-1] - sent[0]) / bins + 1
    counts = [0] * bins
    for at_ns in sent:
        counts[int((at_ns - sent[0]) / width)] += 1
    seen = stats.dispersion(counts)
    spread = 3.3 * (2 / (bins - 1)) ** 0.5
    expected = arrival.index_of_dispersion
    ok = abs(seen - expected) <= spread * max(expected, 0.15) if arrival.shape >= 1 else None
    return Check("dispersion", ok, f"{seen:.2f}", limit, "sends do not follow the asked process", fatal=False)


def _steady(samples: Samples) -> Check:
    """Latency of the first half against the second: a queue that grows has no latency to report."""
    rows = sorted((row.at_ns, row.e2e_ms) for row in samples.ok if row.e2e_ms is not None)
    if len(rows) < 40:
        return Check("steady-state", None, "too few requests to tell", "halves alike")
    half = len(rows) // 2
    first, second = (sorted(e2e for _, e2e in part) for part in (rows[:half], rows[half:]))
    low, high = stats.percentile(first, 0.5), stats.percentile(second, 0.5)
    apart = stats.percentile_interval(first, 0.5, 0.9999), stats.percentile_interval(second, 0.5, 0.9999)
    grew = high / low - 1 if low else 0.0
    overlap = apart[0] is None or apart[1] is None or (apart[0][0] <= apart[1][1] and apart[1][0] <= apart[0][1])
    ok = overlap or grew < 0.25
    remedy = "the server falls behind, or was still warming up: lower the load, or run longer after more --warmup"
    return Check("steady-state", ok, f"median e2e {grew:+.0%} from first to second half", "below +25 %", remedy)


def _agreement(samples: Samples) -> Check:
    rows = [row for row in samples.ok if row.source in ("usage", "continuous-usage")]
    if not rows:
        return Check(
            "token-count", None, "the server sends no usage: tokens are counted by events", "usage", fatal=False
        )
    off = sum(row.mismatch for row in rows)
    tokens, events = sum(row.output_tokens for row in rows), sum(row.events for row in rows)
    value = f"{off} of {len(rows)} answers: usage says {tokens} tokens, {events} came as events"
    remedy = "gaps are spread evenly over bundled tokens; ask for continuous usage to know them"
    return Check("token-count", off <= 0.02 * len(rows), value, "equal in 98 %", remedy, fatal=False)


def _lengths(asked: tuple[int, int], samples: Samples) -> Check:
    seen = [row.input_tokens for row in samples.ok if row.input_tokens and row.words]
    if not seen:
        return Check("prompt-length", None, "the server does not say", "within 5 %", fatal=False)
    mean, wanted = sum(seen) / len(seen), sum(asked) / 2
    value = f"{mean:.1f} tokens for {wanted:g} asked"
    remedy = "lengths are learnt in the warm-up: raise --warmup to at least 2"
    return Check("prompt-length", abs(mean / wanted - 1) <= 0.05, value, "within 5 %", remedy, fatal=False)


def _floors(metrics: Metrics) -> Check:
    missing = metrics.ttft_ms.unsupported if metrics.ttft_ms else {}
    value = ", ".join(f"{name} n/a ({why})" for name, why in missing.items()) or "enough for every percentile"
    return Check("sample-floors", None if missing else True, value, "p90 44, p95 90, p99 459", fatal=False)
