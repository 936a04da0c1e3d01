"""From the samples of each level to the report: figures, validity, objectives, findings, verdict."""

from __future__ import annotations

import os
import platform
import shlex
import sys
from collections import Counter
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from typing import TYPE_CHECKING, Any, Final

from llmops import __version__
from llmops.bench import compare, live, slo, stats, validity
from llmops.bench.blocks import blocks_of
from llmops.bench.cost import cost
from llmops.bench.metrics import measure, timeline
from llmops.bench.plan import LoadFacts, LoadPlan
from llmops.bench.report import BenchReport, Client, Counts, Level
from llmops.bench.samples import Samples
from llmops.bench.schedule import Arrival
from llmops.findings import Finding, Severity
from llmops.masking import MASK, mask

if TYPE_CHECKING:
    from llmops.bench.run import Session

_PLOT_POINTS: Final = 101
_SEVERITY: Final[dict[slo.Verdict, Severity]] = {"PASS": "ok", "FAIL": "error", "INCONCLUSIVE": "warning"}


def level(session: Session, plan: LoadPlan, step: float | None, facts: list[LoadFacts], samples: Samples) -> Level:
    """Read one level."""
    spec = session.spec
    window = window_of(plan, facts, samples)
    good = slo.good_requests(samples, spec.objectives)
    metrics = measure(samples, window, good)
    asked = validity.Asked(
        open_loop=plan.loop == "open",
        capped=plan.loop == "open" and plan.concurrency is not None,
        arrival=Arrival.parse(spec.arrival) if plan.loop == "open" and not plan.trace else None,
        users=plan.concurrency if plan.loop == "closed" and not any(fact.interrupted for fact in facts) else None,
        input_tokens=None if spec.dataset or spec.trace or spec.turns > 1 or spec.prefix_groups else spec.input_tokens,
    )
    counts = _counts(session, facts, samples)
    details: dict[str, str] = {}
    for row in samples.measured:
        if row.error is not None and row.error not in details:
            details[row.error] = mask(row.detail)
    return Level(
        load=live.load_words(spec, plan, step),
        concurrency=plan.concurrency,
        rate=(step or spec.rate) if spec.open_loop else None,
        metrics=metrics,
        counts=counts,
        errors=samples.errors(),
        error_details=details,
        validity=validity.check(asked, facts, samples, metrics),
        slos=tuple(slo.judge(objective, samples, metrics, spec.confidence) for objective in spec.objectives),
        token_source=_token_source(samples),
        timeline=timeline(samples, facts[0].start_ns, max(fact.end_ns for fact in facts)),
        client=_client(facts, samples),
        ttft_values_ms=_ranks([row.ttft_ms for row in samples.ok if row.ttft_ms is not None]),
        gap_values_ms=_ranks(samples.gaps_ms),
        blocks=blocks_of(samples),
        cost=cost(spec, session.endpoint.model, counts, metrics),
        energy=session.energy,
    )


def window_of(plan: LoadPlan, facts: list[LoadFacts], samples: Samples) -> tuple[int, int]:
    """The measured window: after the ramp, to the asked end, or to the last answer where a number of requests was asked."""
    start = min(fact.start_ns for fact in facts) + round(plan.ramp_s * 1e9)
    last = max((row.end_ns for row in samples.measured), default=start + 1)
    if plan.duration_s is not None and not any(fact.interrupted for fact in facts):
        return start, start + max(1, round((plan.duration_s - plan.ramp_s) * 1e9))
    return start, max(last, start + 1)


def _counts(session: Session, facts: list[LoadFacts], samples: Samples) -> Counts:
    measured, ok = samples.measured, samples.ok
    return Counts(
        requests=len(measured),
        ok=len(ok),
        failed=len(measured) - len(ok),
        output_tokens=sum(row.output_tokens for row in ok),
        input_tokens=sum(row.input_tokens or 0 for row in ok),
        aborted=sum(fact.aborted for fact in facts),
        retried=sum(fact.retries for fact in facts),
        warmup=session.warmed,
    )


def _token_source(samples: Samples) -> str:
    sources = Counter(row.source for row in samples.ok)
    return sources.most_common(1)[0][0] if sources else "none"


def _client(facts: list[LoadFacts], samples: Samples) -> Client:
    lags = sorted(lag / 1e6 for fact in facts for lag in fact.lag_ns)
    late = sorted(row.lateness_ms for row in samples.measured if row.sent_ns)
    opened = sorted(took / 1e6 for fact in facts for took in fact.connect_ns)
    return Client(
        cpu_share=round(max(f.cpu_s / max(1e-9, (f.end_ns - f.start_ns) / 1e9) for f in facts), 4),
        loop_lag_p99_ms=round(stats.percentile(lags, 0.99), 3) if lags else None,
        send_lateness_p99_ms=round(stats.percentile(late, 0.99), 3) if late else None,
        connect_p50_ms=round(stats.percentile(opened, 0.5), 3) if opened else None,
        connect_max_ms=round(opened[-1], 3) if opened else None,
        in_flight_max=sum(fact.in_flight_max for fact in facts),
        processes=len(facts),
    )


def _ranks(values: Any) -> tuple[float, ...]:
    ordered = sorted(values)
    if not ordered:
        return ()
    return tuple(round(stats.percentile(ordered, i / (_PLOT_POINTS - 1)), 3) for i in range(_PLOT_POINTS))


def report(
    session: Session, levels: list[Level], chosen: int, found: str | None, baseline: dict[str, Any] | None
) -> BenchReport:
    """Assemble the report."""
    spec = session.spec
    picked = levels[chosen]
    gates = bool(spec.slo) or baseline is not None
    judged = [picked] if found is not None or not spec.sweep else levels
    verdicts = [level.verdict for level in judged]
    findings = [finding for level in judged for finding in level_findings(level, many=len(judged) > 1)]
    lengths = {"input": list(spec.input_tokens), "output": list(spec.output_tokens)}
    comparison = None
    if baseline is not None:
        comparison = _against(baseline, picked, session, lengths)
        verdicts.append(comparison["verdict"])
        findings += compare.findings(comparison["changes"], f"against {spec.baseline}")
        findings += [Finding("comparison", "note", note) for note in comparison["notes"]]
    wanted = gates or not spec.allow_invalid
    verdict: slo.Verdict = "FAIL" if "FAIL" in verdicts else "INCONCLUSIVE" if "INCONCLUSIVE" in verdicts else "PASS"
    answered = any(level.counts.ok for level in levels)
    return BenchReport(
        ok=answered and session.interrupted is None and not (wanted and verdict != "PASS"),
        findings=tuple(findings),
        url=spec.url,
        model=session.endpoint.model,
        api=spec.api,
        verdict=verdict,
        levels=tuple(levels),
        chosen=chosen,
        gates=gates,
        seed=spec.seed,
        command=_command(spec.headers),
        versions=versions(),
        machine={"cpus": os.cpu_count(), "system": platform.platform(terse=True), "host": platform.node()},
        started=datetime.now(UTC).isoformat(timespec="seconds"),
        found=found,
        comparison=comparison,
        lengths=lengths,
        raw=str(spec.raw) if spec.raw else None,
        interrupted=session.interrupted,
        allow_invalid=spec.allow_invalid,
    )


def _against(baseline: dict[str, Any], picked: Level, session: Session, lengths: dict[str, Any]) -> dict[str, Any]:
    """The chosen level against an earlier report; undecided where either run is invalid."""
    spec = session.spec
    changes = compare.by_blocks(baseline["blocks"], picked.blocks, spec.max_regression)
    sound = picked.validity.valid and baseline["validity"]["valid"]
    mine = {"model": session.endpoint.model, "api": spec.api, "lengths": lengths}
    return {
        "baseline": str(spec.baseline),
        "verdict": compare.overall(changes) if sound else "INCONCLUSIVE",
        "changes": changes,
        "notes": compare.differences(baseline, picked.data() | mine),
    }


def _command(headers: tuple[str, ...]) -> str:
    """The command line for the report. Any header may carry a secret, so of each only the name is kept."""
    words = []
    for word in sys.argv[1:]:
        for header in headers:
            word = word.replace(header, f"{header.partition(':')[0]}: {MASK}")  # noqa: PLW2901 - one after the other
        words.append(word)
    return mask(shlex.join(["llmops", *words]))


def level_findings(level: Level, *, many: bool) -> list[Finding]:
    """One finding an objective, one for validity, one for each kind of failure."""
    where = f" at {level.load}" if many else ""
    level_slug = _slug(where) if many else ""
    found = []
    for result in level.slos:
        rule = f"slo-{_slug(result.slo)}{level_slug}"
        found.append(Finding(rule, _SEVERITY[result.verdict], f"{result.slo}{where}: {_said(result)}"))
    found += [Finding("invalid-run", "warning", f"INVALID{where}: {reason}") for reason in level.validity.reasons]
    found += [Finding("bench-warning", "note", f"{warning}{where}") for warning in level.validity.warnings]
    for kind, count in level.errors.items():
        detail = level.error_details.get(kind, "")
        message = f"{count} request{'s' * (count > 1)} failed{where}: {kind}" + (f" ({detail})" if detail else "")
        found.append(Finding("failed-requests", "warning", message))
    return found


def _said(result: slo.SloResult) -> str:
    return f"{result.verdict}, {result.why}"


def _slug(text: str) -> str:
    return "".join(c if c.isalnum() else "-" for c in text.partition("<")[0].partition(">")[0]).rstrip("-")


def versions() -> dict[str, str]:
    """Versions of what did the measuring."""
    found = {"llmops": __version__, "python": platform.python_version()}
    for package in ("uvloop", "httptools", "msgspec"):
        try:
            found[package] = version(package)
        except PackageNotFoundError:  # uvloop is not everywhere
            continue
    return found
