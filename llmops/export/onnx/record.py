"""What goes beside an exported graph: tokenizer, licence, and the record of what it is and how it was checked."""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Final

from llmops import __version__
from llmops.checkpoint.facts import ModelFacts
from llmops.checkpoint.onnx_facts import OnnxFacts
from llmops.errors import UsageError
from llmops.export.onnx.plan import OnnxPlan, Sentence
from llmops.export.onnx.spec import OnnxSpec, Pooling
from llmops.findings import Finding, Severity

SIDECAR: Final = "export.json"
# What a server or a person needs beside the graph.
_COMPANIONS: Final = (
    "tokenizer.json", "tokenizer_config.json", "special_tokens_map.json", "added_tokens.json", "vocab.json", "vocab.txt",
    "merges.txt", "tokenizer.model", "spiece.model", "chat_template.jinja", "config.json", "generation_config.json",
)  # fmt: skip
_LEGAL: Final = ("licen", "notice", "terms", "copying")


@dataclass(frozen=True, slots=True)
class Work:
    """One export under way: what was asked, what is known, and where it happens."""

    spec: OnnxSpec
    facts: ModelFacts
    plan: OnnxPlan
    partial: Path
    log: Path


def read_sentence(model: Path) -> Sentence:
    """What sentence-transformers' files beside the checkpoint say of pooling."""
    pooling: Pooling | None = None
    for file in (model / "1_Pooling" / "config.json", model / "pooling_config.json"):
        if not file.is_file():
            continue
        said = json.loads(file.read_text(encoding="utf-8"))
        modes: dict[str, Pooling] = {
            "pooling_mode_cls_token": "cls", "pooling_mode_mean_tokens": "mean", "pooling_mode_lasttoken": "last",
        }  # fmt: skip
        pooling = next((mode for key, mode in modes.items() if said.get(key)), None)
        if pooling is None:
            raise UsageError(
                f"{file}: a pooling that llmops does not know", "choose one with --pooling mean, cls or last"
            )
    modules = model / "modules.json"
    normalize = None
    if modules.is_file():
        kinds = [str(each.get("type", "")) for each in json.loads(modules.read_text(encoding="utf-8"))]
        normalize = any(kind.endswith("Normalize") for kind in kinds)
    return Sentence(pooling, normalize)


def copy_companions(model: Path, out: Path) -> list[str]:
    """Copy the tokenizer, the configuration and the licence; returns their names."""
    copied = []
    for file in sorted(model.iterdir()):
        legal = file.suffix in ("", ".md", ".txt", ".html") and any(word in file.name.lower() for word in _LEGAL)
        if file.is_file() and (file.name in _COMPANIONS or legal) and not (out / file.name).exists():
            shutil.copyfile(file, out / file.name)
            copied.append(file.name)
    return copied


def sidecar(
    work: Work, graph: OnnxFacts, parity: Mapping[str, Any], timing: Mapping[str, Any], copied: list[str]
) -> dict[str, Any]:
    """``export.json``: how to serve the graph and what it was checked with."""
    spec, facts, plan = work.spec, work.facts, work.plan
    return {
        "schema": "llmops.export.onnx/1",
        "llmops": __version__,
        "model": {"name": facts.name, "architecture": facts.architecture, "parameters": facts.parameters,
                  "vocab": facts.vocab, "context_length": facts.context_length},
        "task": plan.task,
        "format": spec.format,
        "dtype": plan.dtype,
        "opset": graph.opset,
        "exporter": plan.exporter,
        "dimensions": {"batch": list(plan.batch), "sequence": list(plan.seq)},
        "inputs": [asdict(tensor) for tensor in graph.inputs],
        "outputs": [asdict(tensor) for tensor in graph.outputs],
        "pooling": plan.pooling,
        "normalize": plan.normalize if plan.pooling else None,
        "versions": dict(timing.get("versions", {})) | dict(parity.get("versions", {})),
        "files": hashes(work.partial),
        "copied": copied,
        "parity": {k: v for k, v in parity.items() if k not in ("versions", "torch_s", "onnxruntime_s", "peak_rss_bytes")},
    }  # fmt: skip


def hashes(directory: Path) -> dict[str, dict[str, Any]]:
    """SHA-256 and size of each file."""
    found = {}
    for file in sorted(directory.iterdir()):
        if file.is_file():
            with file.open("rb") as handle:
                digest = hashlib.file_digest(handle, "sha256").hexdigest()
            found[file.name] = {"sha256": digest, "size_bytes": file.stat().st_size}
    return found


def verdicts(plan: OnnxPlan, parity: Mapping[str, Any]) -> list[Finding]:
    """What the measurements say. Pure."""
    if not parity:
        return []
    found = []
    what = "least cosine" if plan.task == "embedding" else "agreement of the most likely " + (
        "class" if plan.task == "classification" else "token")  # fmt: skip
    least = min(row["agreement"] for row in parity["cases"]) if plan.task == "embedding" else parity["agreement"]
    text = f"{what}: {least:.4f} over {len(parity['cases'])} shapes (at least {plan.min_agreement:g} wanted)"
    if not parity["finite"]:
        found.append(Finding("onnx-parity", "error", f"the graph computes values that are not finite in {plan.dtype}",
                             "export with --dtype bfloat16 or float32"))  # fmt: skip
    elif least < plan.min_agreement:
        remedy = "export with --dtype float32" if plan.dtype != "float32" else "try --exporter torchscript"
        found.append(Finding("onnx-parity", "error", text, remedy))
    else:
        found.append(Finding("onnx-parity", "ok", text))
    if parity["greedy_agrees"] is not None:
        steps = parity["greedy"][0]["steps"]
        agrees = bool(parity["greedy_agrees"])
        # In 16 bit or less two near-equal logits may swap, and then the texts part: that alone is no defect.
        severity: Severity = "ok" if agrees else "error" if plan.min_agreement >= 0.99 else "warning"
        said = "the same" if agrees else "other"
        found.append(Finding("onnx-greedy", severity, f"{steps} greedy steps from an empty past give {said} tokens"))
    return found
