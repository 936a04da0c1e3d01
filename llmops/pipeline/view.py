"""A run for a person: what was asked, each step's result, the pages of the verbs, and one verdict."""

from __future__ import annotations

from itertools import groupby

from llmops import __version__
from llmops.pipeline.run import RunReport
from llmops.pipeline.state import StepReport
from llmops.report.document import Block, Code, Document, Facts, Heading, Table, Text
from llmops.units import format_duration

_TITLES = {
    "model": "Model",
    "inspect": "What is in the checkpoint",
    "plan": "Plan",
    "quantize": "Quantisation and its quality",
    "evaluate": "Quality",
    "export": "ONNX export",
    "build": "TensorRT engine",
    "triton": "Triton server",
    "serve": "Endpoint",
    "chat": "Chat",
    "bench": "Load test",
    "diagnose": "Diagnosis of the server's log",
    "price": "Cost",
}


def view(report: RunReport) -> Document:
    """The page. Steps of the same verb in a row share one heading."""
    if report.dry_run:
        return _plan(report)
    blocks: list[Block] = [Text(report.summary), _overview(report)]
    for verb, group in _grouped(report):
        blocks.append(Heading(_TITLES.get(verb, verb)))
        for step in group:
            blocks += step.blocks or (Text(step.summary),)
    blocks += [Heading("Machine"), Facts(report.machine)]
    blocks.append(Text("Figures are for this machine and this run; another machine gives other figures.", "dim"))
    return Document(
        f"llmops run: {report.name}",
        tuple(blocks),
        _verdict(report),
        (("llmops", __version__), ("recipe", report.recipe), ("finished", report.started)),
    )


def brief(report: RunReport) -> Document:
    """For the terminal: the steps and the verdict; the rest is in the run's directory."""
    if report.dry_run:
        return _plan(report)
    return Document(f"llmops run: {report.name}", (Text(report.summary, "dim"), _overview(report)), _verdict(report))


def _overview(report: RunReport) -> Table:
    rows = [
        (
            step.verb,
            "ok" if step.ok else "no",
            step.summary,
            "reused" if step.reused else format_duration(step.seconds),
        )
        for step in report.steps
    ]
    rows += [(step.verb, "-", "not run", "") for step in report.planned]
    return Table(("step", "answer", "result", "time"), tuple(rows), frozenset({"time"}))


def _grouped(report: RunReport) -> list[tuple[str, list[StepReport]]]:
    return [(verb, list(steps)) for verb, steps in groupby(report.steps, key=lambda step: step.verb)]


def _verdict(report: RunReport) -> Text:
    where = f"report: {report.directory}/report.html"
    if report.ok and not report.planned:
        return Text(f"every step answered yes in {format_duration(report.seconds)}; {where}", "good")
    failed = next((step for step in report.steps if not step.ok), None)
    if failed:
        return Text(f"{failed.verb}: {failed.summary}; {where}", "bad")
    return Text(f"{len(report.planned)} steps were not run; {where}", "warn")


def _plan(report: RunReport) -> Document:
    rows = tuple(
        (str(index + 1), step.verb, ", ".join(f"{key}={value}" for key, value in step.options.items()) or "-")
        for index, step in enumerate(report.planned)
    )
    return Document(
        f"llmops run: {report.name} (dry run)",
        (Text(report.summary), Table(("", "step", "options"), rows), Code(f"would write to {report.directory}/")),
        Text("nothing was done", "dim"),
    )
