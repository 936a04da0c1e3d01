"""Facts of a LoRA adapter in PEFT's layout."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from llmops.checkpoint import sidecars
from llmops.checkpoint.config import number, word
from llmops.checkpoint.facts import Lora, ModelFacts
from llmops.checkpoint.huggingface import Found, assemble
from llmops.checkpoint.safetensors import read_header
from llmops.checkpoint.tensors import BadFileError
from llmops.findings import Finding


def read_adapter(directory: Path) -> ModelFacts:
    """Read adapter_config.json and the header of adapter_model.safetensors.

    Raises:
        UsageError: adapter_config.json is no JSON object.
    """
    config = sidecars.read_json(directory / "adapter_config.json", 2**20)
    found = _weights(directory)
    modules = config.get("target_modules")
    names = [modules] if isinstance(modules, str) else modules if isinstance(modules, list) else []
    alpha = config.get("lora_alpha")
    lora = Lora(
        rank=number(config, "r"),
        alpha=float(alpha) if isinstance(alpha, (int, float)) else 0.0,
        base_model=word(config, "base_model_name_or_path") or None,
        target_modules=tuple(str(name) for name in names[:100]),
    )
    stored = {t.shape[0] for t in found.tensors if t.name.endswith("lora_A.weight") and len(t.shape) == 2}
    findings = found.findings
    if stored and lora.rank and not config.get("rank_pattern") and stored != {lora.rank}:
        message = f"adapter_config.json states rank {lora.rank}, the weights have {sorted(stored)}"
        findings = (*findings, Finding("lora-rank", "error", message, None, str(directory)))
    facts = assemble(directory, {}, replace(found, findings=findings))
    kept = tuple(finding for finding in facts.findings if finding.rule != "unknown-shape")
    return replace(facts, format="lora", architecture="LoRA adapter", model_type="lora", lora=lora, findings=kept)


def _weights(directory: Path) -> Found:
    path = directory / "adapter_model.safetensors"
    try:
        header = read_header(path)
    except FileNotFoundError:
        message = "adapter_model.safetensors is missing"
        bad = Finding("shard-missing", "error", message, "fetch the adapter again", str(path))
    except BadFileError as error:
        bad = Finding("shard-damaged", "error", f"{path.name}: {error}", "fetch this file again", str(path))
    else:
        return Found(header.tensors, ((path.name, path.stat().st_size),), None, (), headers=True)
    return Found((), (), None, (bad,), headers=True)
