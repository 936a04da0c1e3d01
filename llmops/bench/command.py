"""The command line's options into a spec, and the one function for each form of the command."""

from __future__ import annotations

from typing import Any

import msgspec

from llmops.bench.page import view as bench_view
from llmops.bench.report import BenchReport
from llmops.bench.run import bench
from llmops.bench.spec import bench_spec
from llmops.errors import UsageError
from llmops.progress import Progress
from llmops.report.document import Document


def run(progress: Progress, **options: Any) -> BenchReport:
    """Run what the options ask.

    Raises:
        UsageError: An option is wrong.
    """
    return bench(bench_spec(**_typed(options)), progress)


def view(report: BenchReport) -> Document:
    """The report for a person."""
    return bench_view(report)


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
