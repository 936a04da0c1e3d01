"""The command line's options into a spec, and the one function for each form of the command."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any, Final

import msgspec

from llmops.bench import outputs, page
from llmops.bench.ab import CompareReport, ab, compare_files
from llmops.bench.offline import OfflineReport, offline
from llmops.bench.report import BenchReport
from llmops.bench.run import bench
from llmops.bench.spec import BenchSpec, bench_spec
from llmops.errors import UsageError
from llmops.progress import Progress
from llmops.report.document import Document

DEFAULT_ROUNDS: Final = 5
Report = BenchReport | CompareReport | OfflineReport


def shared_reports(reports: list[Path] | None) -> list[Path]:
    """The report files that the renderers of all commands write."""
    return [path for path in reports or () if not outputs.own(path)]


def run(progress: Progress, **options: Any) -> Report:
    """Run what the options ask: ``URL``, ``compare A.json B.json``, ``--ab URL1 URL2``, ``--offline ENGINE MODEL``.

    Raises:
        UsageError: An option is wrong.
    """
    typed = _typed(options)
    targets: list[str] = typed.pop("targets") or []
    reports: list[Path] = typed.pop("reports") or []
    two, rounds, engine = typed.pop("ab"), typed.pop("rounds"), typed.pop("offline")
    _check_own(reports, alone=engine is None and two is None and targets[:1] != ["compare"])
    if engine is not None:
        _expect(targets, 1, "a model directory", "llmops bench --offline transformers ./model")
        return offline(engine, targets[0], bench_spec(url="http://offline", **typed), progress)
    if targets[:1] == ["compare"]:
        _expect(targets, 3, "two reports", "llmops bench compare base.json new.json")
        spec = bench_spec(url="http://compare", **typed)
        return compare_files(targets[1], targets[2], spec.max_regression)
    if two is not None:
        _expect(targets, 0, "no URL beside --ab", "llmops bench --ab URL1 URL2")
        specs = [bench_spec(**{**typed, "url": url, "raw": None}) for url in two]
        return ab(specs[0], specs[1], rounds if rounds is not None else DEFAULT_ROUNDS, progress)
    _expect(targets, 1, "one URL", "llmops bench http://127.0.0.1:8000")
    return _measure(bench_spec(**typed, url=targets[0], raw=outputs.raw_path(reports)), reports, progress)


def _measure(spec: BenchSpec, reports: list[Path], progress: Progress) -> BenchReport:
    drawn = any(path.suffix in (".html", ".md") for path in reports)
    report = replace(bench(spec, progress), charts=drawn)
    for path in reports:
        if outputs.own(path):
            outputs.write_own(report, path)
    return report


def brief(report: Report) -> Document:
    """The report for a terminal, which cannot draw."""
    return view(replace(report, charts=False) if isinstance(report, BenchReport) else report)


def view(report: Report) -> Document:
    """The report for a person."""
    if isinstance(report, BenchReport):
        return page.view(report)
    return page.view_comparison(report) if isinstance(report, CompareReport) else page.view_offline(report)


def _check_own(reports: list[Path], *, alone: bool) -> None:
    """Refuse before the measurement what could not be written after it."""
    for path in filter(outputs.own, reports):
        if not alone:
            raise UsageError(f"--report {path}: only a measurement of one URL has that form", "use .json, .md or .html")
        if not path.parent.is_dir():
            raise UsageError(f"--report {path}: there is no directory {path.parent}", f"mkdir -p {path.parent}")


def _expect(targets: list[str], count: int, what: str, example: str) -> None:
    if len(targets) != count:
        raise UsageError(f"bench takes {what}, not {' '.join(targets) or 'nothing'}", example)


def _typed(options: dict[str, Any]) -> dict[str, Any]:
    typed = dict(options)
    if typed.get("extra_body") is not None:
        typed["extra_body"] = _json_object(typed["extra_body"])
    for name in ("headers", "slo"):
        if typed.get(name) is not None:
            typed[name] = tuple(typed[name])
    return typed


def _json_object(text: str) -> dict[str, Any]:
    try:
        return msgspec.json.decode(text, type=dict[str, Any])
    except msgspec.DecodeError as error:
        raise UsageError(f"--extra-body is no JSON object: {error}", """write it as '{"temperature": 0}'""") from None
