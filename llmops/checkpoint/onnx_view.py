"""How ``llmops inspect`` shows an ONNX file."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any, Final

from llmops.checkpoint.onnx_facts import OnnxFacts, OnnxTensor
from llmops.findings import Finding
from llmops.report.document import Block, Document, Facts, Table, Text
from llmops.report.told import told
from llmops.units import format_count, format_size

_MOST_OPERATORS: Final = 8
_MOST_TENSORS: Final = 40


@dataclass(frozen=True, slots=True)
class OnnxReport:
    """Facts of one ONNX file; ``ok`` is False when weights beside it are missing."""

    facts: OnnxFacts

    @property
    def findings(self) -> tuple[Finding, ...]:
        """Missing weights, and what TensorRT would refuse."""
        return self.facts.findings

    @property
    def ok(self) -> bool:
        """Whether no finding is an error."""
        return not any(finding.severity == "error" for finding in self.findings)

    def data(self) -> dict[str, Any]:
        """The facts as JSON."""
        values = {f.name: getattr(self.facts, f.name) for f in fields(self.facts) if f.name != "findings"}
        return {"format": "onnx", **values}


def view(report: OnnxReport) -> Document:
    """Tables for people."""
    facts = report.facts
    rows = [
        ("format", f"ONNX, opset {facts.opset}"),
        ("written by", facts.producer),
        ("parameters", format_count(facts.parameters)),
        ("weights", f"{format_size(facts.weights_bytes)} ({', '.join(facts.weight_dtypes) or 'none'})"),
        ("beside it", ", ".join(f"{name} {format_size(size)}" for name, size in facts.external.items())),
        ("operators", _operators(facts.operators)),
    ]
    tensors = [("input", tensor) for tensor in facts.inputs] + [("output", tensor) for tensor in facts.outputs]
    blocks: list[Block] = [
        Facts(tuple((label, text) for label, text in rows if text)),
        Table(
            ("", "tensor", "type", "shape"),
            tuple((kind, t.name, t.dtype, _shape(t)) for kind, t in tensors[:_MOST_TENSORS]),
        ),
    ]
    blocks += told(report.findings)
    if len(tensors) > _MOST_TENSORS:
        blocks.append(Text(f"and {len(tensors) - _MOST_TENSORS} more tensors: --json has all", "dim"))
    return Document(facts.path.name, tuple(blocks), _verdict(report))


def _operators(counted: Mapping[str, int]) -> str:
    shown = [f"{name} {count}" for name, count in list(counted.items())[:_MOST_OPERATORS]]
    more = len(counted) - len(shown)
    return ", ".join(shown) + (f", and {more} more kinds" if more > 0 else "")


def _verdict(report: OnnxReport) -> Text:
    if not report.ok:
        return Text("weights are missing", "bad")
    refused = any(finding.rule.startswith("tensorrt-") for finding in report.findings)
    return Text(
        "the file is whole" + ("" if refused else ", and nothing in it is known to be refused by TensorRT"), "good"
    )


def _shape(tensor: OnnxTensor) -> str:
    if tensor.dims is None:
        return "unknown"
    return " x ".join(str(dim) for dim in tensor.dims) or "scalar"
