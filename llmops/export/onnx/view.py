"""An export's report for people."""

from __future__ import annotations

from llmops.checkpoint.onnx_facts import OnnxTensor
from llmops.export.onnx.plan import OnnxPlan
from llmops.export.onnx.run import ExportReport
from llmops.report.document import Block, Document, Facts, Table, Text
from llmops.report.told import told
from llmops.units import format_duration, format_size


def view(report: ExportReport) -> Document:
    """Plan, graph, comparison, verdict."""
    blocks: list[Block] = [Facts(tuple(_plan_rows(report.plan)))]
    if report.graph is not None:
        graph = report.graph
        blocks.append(
            Table(
                ("tensor", "type", "shape"),
                tuple((tensor.name, tensor.dtype, _shape(tensor.dims)) for tensor in _shown(report)),
                title=f"inputs and outputs (opset {graph.opset}{_layers(report)})",
            )
        )
    if report.parity:
        blocks.append(_comparison(report))
    blocks += told(report.findings)
    return Document(f"ONNX export of {report.model.name}", tuple(blocks), _verdict(report))


def _plan_rows(plan: OnnxPlan) -> list[tuple[str, str]]:
    rows = [
        ("task", plan.task),
        ("type", plan.precision),
        ("batch", f"{plan.batch[0]} to {plan.batch[1]}"),
        ("sequence", f"{plan.seq[0]} to {plan.seq[1]} tokens"),
        ("exporter", plan.exporter),
    ]
    if plan.pooling:
        rows.append(("pooling", plan.pooling + (", normalised" if plan.normalize else "")))
    return [*rows, ("memory at the peak", f"about {format_size(max(plan.ram_bytes, plan.check_bytes))}"),
            ("disk", f"about {format_size(plan.disk_bytes)}")]  # fmt: skip


def _shown(report: ExportReport) -> list[OnnxTensor]:
    assert report.graph is not None
    tensors = (*report.graph.inputs, *report.graph.outputs)
    return [tensor for tensor in tensors if ".0." in tensor.name or not tensor.name.startswith(("past", "present"))]


def _layers(report: ExportReport) -> str:
    """Of a cache one layer is shown."""
    assert report.graph is not None
    layers = sum(tensor.name.startswith("past") and tensor.name.endswith("key") for tensor in report.graph.inputs)
    return f"; layer 0 of {layers} of the cache" if layers > 1 else ""


def _shape(dims: tuple[int | str, ...] | None) -> str:
    return "unknown" if dims is None else " x ".join(str(dim) for dim in dims) or "scalar"


def _comparison(report: ExportReport) -> Table:
    rows = []
    for row in report.parity["cases"]:
        lengths = row["lengths"]
        shape = f"{len(lengths)} x {max(lengths)}" + ("" if len(set(lengths)) == 1 else ", padded")
        difference = "not finite" if row["max_difference"] is None else f"{row['max_difference']:.1e}"
        rows.append((shape, difference, f"{row['agreement']:.4f}"))
    name = "cosine" if report.plan.task == "embedding" else "agreement"
    return Table(("shape", "largest difference", name), tuple(rows), frozenset({"largest difference", name}),
                 title=f"ONNX Runtime ({report.parity['provider']}) against PyTorch in float32")  # fmt: skip


def _verdict(report: ExportReport) -> Text:
    if report.dry_run:
        return Text(f"would write {report.out}; nothing was changed")
    size = format_size(report.graph.weights_bytes) if report.graph else ""
    took = format_duration(float(report.timing.get("export_s", 0)))
    if not report.ok:
        return Text(f"the export does not agree with the checkpoint; it was put into {report.out}", "bad")
    checked = "agrees with the checkpoint" if report.parity else "not checked"
    return Text(f"{report.out} ({size} of weights, exported in {took}): {checked}", "good" if report.parity else "warn")
