"""Two endpoints against each other: short runs, interleaved A B B A, judged by the ratios of the rounds."""

from __future__ import annotations

import contextlib
import platform
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Final

from llmops.bench import compare
from llmops.bench.blocks import METRICS
from llmops.bench.compare import Change
from llmops.bench.report import Level
from llmops.bench.run import Session, measure_level, open_session
from llmops.bench.slo import Verdict
from llmops.bench.spec import BenchSpec
from llmops.errors import ExitCode, UsageError
from llmops.findings import Finding
from llmops.progress import Progress

MIN_ROUNDS: Final = 2


@dataclass(frozen=True, slots=True)
class CompareReport:
    """Old against new: two endpoints, or two saved reports.

    Attributes:
        changes: One a metric.
        rounds: Interleaved rounds; 0 for saved reports.
        invalid: Runs that the client could not measure properly.
    """

    ok: bool
    findings: tuple[Finding, ...]
    a: str
    b: str
    verdict: Verdict
    changes: tuple[Change, ...]
    rounds: int
    max_regression: float
    order: str = ""
    invalid: int = 0
    failed_requests: int = 0
    notes: tuple[str, ...] = ()
    pairs: dict[str, list[tuple[float, float]]] | None = None
    started: str = ""
    host: str = ""
    interrupted: int | None = None

    @property
    def interleaved(self) -> bool:
        """Whether it was measured now, in turns, and is not read from saved reports."""
        return self.pairs is not None

    @property
    def exit_code(self) -> ExitCode:
        """0, 1 or 6 by the verdict; 130 or 143 when interrupted."""
        if self.interrupted is not None:
            return ExitCode(128 + self.interrupted)
        return {"PASS": ExitCode.OK, "FAIL": ExitCode.NO, "INCONCLUSIVE": ExitCode.INCONCLUSIVE}[self.verdict]

    def data(self) -> dict[str, Any]:
        """The JSON shape."""
        return {
            "a": self.a, "b": self.b, "verdict": self.verdict, "rounds": self.rounds, "order": self.order,
            "max_regression": self.max_regression, "changes": self.changes, "invalid_runs": self.invalid,
            "failed_requests": self.failed_requests, "notes": self.notes, "pairs": self.pairs,
            "started": self.started, "host": self.host, "complete": self.interrupted is None,
        }  # fmt: skip


def ab(spec_a: BenchSpec, spec_b: BenchSpec, rounds: int, progress: Progress) -> CompareReport:
    """Measure both endpoints in ``rounds`` rounds of A B B A; drift of the machine then falls on both alike.

    A round gives two pairs of neighbours, each one observation of the ratio.

    Raises:
        UsageError: Fewer than two rounds.
        OutsideError: One of them cannot be reached.
    """
    if rounds < MIN_ROUNDS:
        raise UsageError(f"--rounds {rounds}: an interval needs at least {MIN_ROUNDS} rounds", "--rounds 5")
    pairs: dict[str, list[tuple[float, float]]] = {name: [] for name in METRICS}
    order, levels = "", []
    with contextlib.ExitStack() as stack:
        sessions = {name: stack.enter_context(open_session(s, progress)) for name, s in (("A", spec_a), ("B", spec_b))}
        progress.phase(f"{rounds} rounds of A B B A")
        for session in sessions.values():
            session.titled = True
        for number in range(rounds):
            for sequence in ("AB", "BA"):
                measured = _neighbours(sessions, sequence)
                if len(measured) < 2:
                    break
                progress.note(f"round {number + 1} {sequence}: {_said(measured['A'], measured['B'])}")
                order += sequence
                levels += list(measured.values())
                _add_pair(pairs, measured["A"], measured["B"])
        interrupted = next((s.interrupted for s in sessions.values() if s.interrupted), None)
    return _judge((spec_a, spec_b), pairs, levels, order, interrupted)


def _neighbours(sessions: dict[str, Session], sequence: str) -> dict[str, Level]:
    """One run of each, in this order; fewer when interrupted."""
    measured: dict[str, Level] = {}
    for name in sequence:
        if any(session.interrupted for session in sessions.values()):
            break
        level = measure_level(sessions[name])
        if not sessions[name].interrupted:
            measured[name] = level
    return measured


def _said(a: Level, b: Level) -> str:
    """Two neighbours in a line."""
    parts = []
    for name, words in (("ttft_ms", "TTFT"), ("tpot_ms", "TPOT")):
        old, new = getattr(a.metrics, name), getattr(b.metrics, name)
        if old is not None and new is not None:
            parts.append(f"{words} p50 {old.percentiles['p50']:.1f} -> {new.percentiles['p50']:.1f} ms")
    return ", ".join(parts) or "nothing was answered"


def _add_pair(pairs: dict[str, list[tuple[float, float]]], a: Level, b: Level) -> None:
    """One more observation of each metric, unless one of the two runs says nothing about its server."""
    if a.validity.spoiled or b.validity.spoiled:
        return
    for name, values in pairs.items():
        old, new = getattr(a.metrics, name), getattr(b.metrics, name)
        if old is not None and new is not None and old.percentiles["p50"] > 0 and new.percentiles["p50"] > 0:
            values.append((old.percentiles["p50"], new.percentiles["p50"]))


def _judge(
    specs: tuple[BenchSpec, BenchSpec],
    pairs: dict[str, list[tuple[float, float]]],
    levels: list[Level],
    order: str,
    interrupted: int | None,
) -> CompareReport:
    limit = specs[0].max_regression
    changes = tuple(c for name, seen in pairs.items() if (c := compare.by_pairs(name, seen, limit)) is not None)
    invalid = sum(not level.validity.valid for level in levels)
    failed = sum(level.counts.failed for level in levels)
    mostly_useless = sum(level.validity.spoiled for level in levels) * 2 > len(levels)
    verdict: Verdict = "INCONCLUSIVE" if mostly_useless else compare.overall(changes)
    notes = _notes(levels, invalid, failed)
    found = compare.findings(changes, "B against A") + [Finding("invalid-run", "warning", note) for note in notes]
    return CompareReport(
        ok=verdict == "PASS" and interrupted is None,
        findings=tuple(found),
        a=specs[0].url,
        b=specs[1].url,
        verdict=verdict,
        changes=changes,
        rounds=len(order) // 4,
        max_regression=limit,
        order=order,
        invalid=invalid,
        failed_requests=failed,
        notes=tuple(notes),
        pairs={name: seen for name, seen in pairs.items() if seen},
        started=datetime.now(UTC).isoformat(timespec="seconds"),
        host=platform.node(),
        interrupted=interrupted,
    )


def _notes(levels: list[Level], invalid: int, failed: int) -> list[str]:
    """What to know about the runs."""
    notes = []
    if invalid:
        reasons = next(level.validity.reasons for level in levels if not level.validity.valid)
        notes.append(f"{invalid} of {len(levels)} runs are INVALID on their own: {reasons[0]}")
    useless = sum(level.validity.spoiled for level in levels)
    if useless:
        notes.append(f"{useless} of them say nothing about their server, and are in no figure with their neighbours")
    if failed:
        notes.append(f"{failed} requests failed and are in no figure")
    return notes


def compare_files(a: str, b: str, max_regression: float) -> CompareReport:
    """Compare two saved reports by their time blocks.

    One run each cannot show how much the server differs from run to run; only ``ab`` can. The report says so.

    Raises:
        UsageError: A file is no report of ``llmops bench``.
    """
    from pathlib import Path

    old, new = compare.read_report(Path(a)), compare.read_report(Path(b))
    changes = compare.by_blocks(old["blocks"], new["blocks"], max_regression)
    verdict = compare.overall(changes)
    notes = [*compare.differences(old, new)]
    for name, data in ((a, old), (b, new)):
        if not data["validity"]["valid"]:
            verdict = "INCONCLUSIVE"
            notes.append(f"{name} is INVALID: {data['validity']['reasons'][0]}")
    notes.append("one run each cannot show drift from run to run: --ab measures both in turns")
    found = compare.findings(changes, f"{b} against {a}")
    found += [Finding("comparison", "note", note) for note in notes]
    return CompareReport(
        ok=verdict == "PASS", findings=tuple(found), a=a, b=b, verdict=verdict, changes=changes, rounds=0,
        max_regression=max_regression, notes=tuple(notes), host=platform.node(),
    )  # fmt: skip
