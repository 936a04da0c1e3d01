"""An engine build's report for people."""

from __future__ import annotations

from llmops.export.tensorrt.run import EngineReport
from llmops.report.document import Block, Document, Facts, Table, Text
from llmops.report.told import told
from llmops.units import format_duration, format_size


def view(report: EngineReport) -> Document:
    """Plan, profiles, what is missing, verdict."""
    plan, graph = report.plan, report.graph
    blocks: list[Block] = [
        Facts(
            (
                (
                    "graph",
                    f"opset {graph.opset}, {sum(graph.operators.values())} operators, {format_size(graph.weights_bytes)}",
                ),
                ("builder", plan.module + (f" {report.built['version']}" if report.built else "")),
                ("precision", plan.precision),
                ("workspace", format_size(plan.workspace_bytes)),
                ("memory at the peak", f"about {format_size(plan.ram_bytes)}"),
            )
        )
    ]
    for number, profile in enumerate(plan.profiles):
        rows = tuple(
            (name, *("x".join(str(value) for value in shape) for shape in (b.min, b.opt, b.max)))
            for name, b in profile.items()
        )
        title = "profile" if len(plan.profiles) == 1 else f"profile {number}"
        blocks.append(Table(("input", "min", "opt", "max"), rows, title=title))
    blocks += told(report.findings)
    return Document(f"TensorRT engine of {report.onnx.name}", tuple(blocks), _verdict(report))


def _verdict(report: EngineReport) -> Text:
    if report.dry_run:
        if report.ok:
            return Text(f"would build {report.out}; nothing was changed")
        return Text("this machine cannot build it: see above", "bad")
    built = report.built
    return Text(
        f"{report.out} ({format_size(built['size_bytes'])}, {built['layers']} layers read) "
        f"built in {format_duration(built['build_s'])}",
        "good",
    )
