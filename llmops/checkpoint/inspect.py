"""What ``llmops inspect`` reports, and how it is shown."""

from __future__ import annotations

from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

from llmops.checkpoint import engine_view, onnx_view
from llmops.checkpoint.engine_file import SUFFIXES
from llmops.checkpoint.engine_view import EngineFileReport, read_engine
from llmops.checkpoint.facts import ModelFacts
from llmops.checkpoint.onnx_file import read_onnx
from llmops.checkpoint.onnx_view import OnnxReport
from llmops.checkpoint.reader import read_model
from llmops.findings import Finding
from llmops.report.document import Block, Document, Facts, Table, Text
from llmops.report.told import told
from llmops.units import counted, format_count, format_size


@dataclass(frozen=True, slots=True)
class InspectReport:
    """Facts of one model; ``ok`` is False when its files are damaged or incomplete."""

    facts: ModelFacts

    @property
    def findings(self) -> tuple[Finding, ...]:
        """What is wrong or worth knowing about the files."""
        return self.facts.findings

    @property
    def ok(self) -> bool:
        """Whether no finding is an error."""
        return not any(finding.severity == "error" for finding in self.findings)

    def data(self) -> dict[str, Any]:
        """The facts as JSON, without the raw configuration and the list of each layer's matrices."""
        left_out = ("config", "linears", "findings")
        values = {
            field.name: getattr(self.facts, field.name) for field in fields(self.facts) if field.name not in left_out
        }
        return values | {"linear_shapes": _linear_shapes(self.facts)}


def inspect(path: Path) -> InspectReport | OnnxReport | EngineFileReport:
    """Read a model's facts, an ONNX file's, or a TensorRT engine's.

    Raises:
        UsageError: There is no model at ``path``.
    """
    exported = path / "model.onnx"
    if path.suffix == ".onnx" or (exported.is_file() and not any(path.glob("*.safetensors"))):
        return OnnxReport(read_onnx(path if path.suffix == ".onnx" else exported))
    if path.suffix in SUFFIXES:
        return read_engine(path)
    return InspectReport(read_model(path))


def view(report: InspectReport | OnnxReport | EngineFileReport) -> Document:
    """A table for people."""
    if isinstance(report, OnnxReport):
        return onnx_view.view(report)
    if isinstance(report, EngineFileReport):
        return engine_view.view(report)
    facts = report.facts
    blocks: list[Block] = [
        Facts(tuple((label, text) for label, text in _rows(facts) if text)),
        Table(
            ("part", "parameters", "size", "share"),
            tuple(
                (part.name, format_count(part.parameters), format_size(part.size_bytes), _share(part.size_bytes, facts))
                for part in facts.parts
            ),
            right=frozenset({"parameters", "size", "share"}),
        ),
    ]
    blocks += told(report.findings)
    errors = sum(finding.severity == "error" for finding in report.findings)
    if errors:
        verdict = Text(f"{errors} problem{'s' if errors > 1 else ''} with the files", "bad")
    elif facts.complete:
        verdict = Text("the files are whole", "good")
    else:
        verdict = Text("read from the configuration; the weights are not here", "plain")
    return Document(f"{facts.name}", tuple(blocks), verdict)


def _rows(facts: ModelFacts) -> list[tuple[str, str]]:
    tokenizer = facts.tokenizer
    approximate = "" if facts.exact_sizes else "about "
    return [
        (
            "format",
            {"hf": "Hugging Face directory", "gguf": "GGUF", "lora": "LoRA adapter"}.get(facts.format, facts.format),
        ),
        ("architecture", facts.architecture),
        ("parameters", approximate + format_count(facts.parameters)),
        ("size", f"{approximate}{format_size(facts.size_bytes)} in {counted(len(facts.files), 'file')}"),
        ("type", _types(facts)),
        ("quantisation", _quantization(facts)),
        ("adapter", _lora(facts)),
        ("layers", f"{facts.layers}, hidden {facts.hidden}, inner {facts.intermediate}" if facts.layers else ""),
        ("attention", _attention(facts)),
        ("experts", _experts(facts)),
        ("other inputs", ", ".join(facts.multimodal)),
        ("context", _context(facts)),
        ("KV cache", _cache(facts)),
        (
            "vocabulary",
            f"{facts.vocab}{', head tied to embedding' if facts.tied_embeddings else ''}" if facts.vocab else "",
        ),
        ("tokenizer", f"{tokenizer.kind}" if tokenizer.present else "missing" if facts.format != "lora" else ""),
        (
            "chat template",
            (tokenizer.chat_template or "none") if facts.is_generative and facts.format != "lora" else "",
        ),
        (
            "licence",
            f"{facts.licence.name or 'not recognised'} ({facts.licence.file})" if facts.licence else "not stated",
        ),
    ]


def _types(facts: ModelFacts) -> str:
    total = sum(size for _, size in facts.dtypes) or 1
    return ", ".join(f"{name} {size / total:.0%}" for name, size in facts.dtypes[:6] if size / total >= 0.005)


def _quantization(facts: ModelFacts) -> str:
    found = facts.quantization
    if found is None:
        return "none"
    group = f", groups of {found.group_size}" if found.group_size else ""
    detail = f" ({found.detail})" if found.detail else ""
    cache = f", KV cache {found.kv_cache}" if found.kv_cache else ""
    return f"{found.method}, {found.bits:g} bit{group}{cache}{detail}"


def _lora(facts: ModelFacts) -> str:
    if facts.lora is None:
        return ""
    lora = facts.lora
    return f"rank {lora.rank}, alpha {lora.alpha:g}, on {', '.join(lora.target_modules)}; base {lora.base_model or 'not stated'}"


def _attention(facts: ModelFacts) -> str:
    if not facts.heads:
        return facts.attention if facts.layers else ""
    return f"{facts.attention}; {facts.heads} heads, {facts.kv_heads} KV heads of {facts.head_dim}"


def _experts(facts: ModelFacts) -> str:
    if facts.moe is None:
        return ""
    moe = facts.moe
    shared = f" + {moe.shared_experts} shared" if moe.shared_experts else ""
    return f"{moe.experts}, {moe.experts_per_token} a token{shared}, in {moe.layers} layers"


def _context(facts: ModelFacts) -> str:
    if not facts.context_length:
        return ""
    scaling = f" ({facts.rope_scaling})" if facts.rope_scaling else ""
    return f"{facts.context_length} tokens{scaling}"


def _cache(facts: ModelFacts) -> str:
    state = sum(group.layers * group.state_bytes for group in facts.groups)
    words = []
    if facts.kv_bytes_per_token:
        words.append(f"{facts.kv_bytes_per_token} bytes a token (16 bit)")
    if state:
        words.append(f"{format_size(state)} a request")
    return " + ".join(words)


def _share(size_bytes: int, facts: ModelFacts) -> str:
    total = sum(part.size_bytes for part in facts.parts) or 1
    return f"{size_bytes / total:.1%}"


def _linear_shapes(facts: ModelFacts) -> list[dict[str, Any]]:
    """Distinct shapes of matrix multiplications with how often they occur."""
    counts: dict[tuple[str, int, int], int] = {}
    for linear in facts.linears:
        key = (linear.part, linear.in_features, linear.out_features)
        counts[key] = counts.get(key, 0) + linear.copies
    return [{"part": p, "in": i, "out": o, "count": count} for (p, i, o), count in counts.items()]
