"""Facts of a Hugging Face directory: config.json, an index, safetensors headers."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final

from llmops.checkpoint import account as sums
from llmops.checkpoint import sidecars
from llmops.checkpoint.config import Shape, is_generative, multimodal, read_shape, rotary_elements
from llmops.checkpoint.expected import expected_tensors
from llmops.checkpoint.facts import ModelFacts, Moe, Quantization
from llmops.checkpoint.groups import describe, layer_groups
from llmops.checkpoint.quantization import read_quantization
from llmops.checkpoint.safetensors import read_header
from llmops.checkpoint.tensors import BadFileError, Tensor
from llmops.findings import Finding

_SHARD: Final = re.compile(r"^(?P<stem>.+)-(?P<number>\d{5})-of-(?P<total>\d{5})\.safetensors$")
_OTHER_WEIGHTS: Final = ("pytorch_model.bin", "pytorch_model.bin.index.json", "consolidated.00.pth", "tf_model.h5")


@dataclass(frozen=True, slots=True)
class Found:
    """What the weight files say: their tensors, sizes, and what is wrong with them."""

    tensors: tuple[Tensor, ...]
    files: tuple[tuple[str, int], ...]
    total_size: int | None
    findings: tuple[Finding, ...]
    headers: bool

    @property
    def broken(self) -> bool:
        """Whether a file is damaged or missing."""
        return any(finding.severity == "error" for finding in self.findings)


def read_directory(directory: Path) -> ModelFacts:
    """Read a directory with a config.json.

    Raises:
        UsageError: config.json cannot be read as a model's configuration.
    """
    config = sidecars.read_json(directory / "config.json", 16 * 2**20)
    return assemble(directory, config, find_weights(directory))


def read_single(path: Path) -> ModelFacts:
    """Read one .safetensors file, with the config.json beside it when there is one."""
    found = _read_files(path.parent, [path.name])
    facts = assemble(path.parent, sidecars.read_optional(path.parent / "config.json"), found)
    return replace(facts, path=path, name=path.stem, format="safetensors")


def assemble(directory: Path, config: Mapping[str, Any], found: Found) -> ModelFacts:
    """Bring a configuration and the found weights together. Sizes come from headers where there are any."""
    shape = read_shape(config)
    quantization = _quantization(directory, config)
    expected = list(expected_tensors(config, shape, quantization))
    if found.headers:
        account = sums.add_up(((tensor, None) for tensor in found.tensors), quantization, tied=shape.tied)
    else:
        account = sums.add_up(expected, quantization, tied=shape.tied)
    size = account.size_bytes if found.headers else found.total_size or account.size_bytes
    weights = account.weights if found.headers or not found.total_size else sums.scaled(account, size)
    generative = is_generative(config, shape)
    groups = layer_groups(shape) if generative else ()
    return ModelFacts(
        path=directory,
        name=_name(directory, config),
        format="hf",
        architecture=shape.architecture,
        model_type=shape.model_type,
        size_bytes=size,
        parameters=account.parameters,
        parts=account.parts,
        dtype=account.dtype if found.headers and account.dtypes else shape.dtype,
        dtypes=account.dtypes,
        quantization=quantization,
        attention=describe(shape, groups) if generative else "encoder",
        groups=groups,
        layers=shape.layers,
        hidden=shape.hidden,
        intermediate=shape.intermediate,
        heads=shape.heads,
        kv_heads=shape.kv_heads,
        head_dim=shape.head_dim,
        vocab=shape.vocab,
        context_length=shape.context,
        tied_embeddings=shape.tied,
        moe=_moe(shape),
        multimodal=multimodal(config),
        rope_scaling=shape.rope_scaling,
        kv_bytes_per_token=sum(2 * group.layers * group.elements_per_token() for group in groups),
        rotary_elements=rotary_elements(
            shape.text, shape.head_dim, shape.mla, frozenset(group.kind for group in groups)
        ),
        weights=weights,
        tokenizer=sidecars.find_tokenizer(directory),
        generation=sidecars.generation_defaults(directory),
        licence=sidecars.find_licence(directory),
        linears=account.linears,
        lora=None,
        files=found.files,
        complete=found.headers and not found.broken,
        exact_sizes=found.headers,
        is_generative=generative,
        findings=(*found.findings, *_config_findings(directory, shape, found, account)),
        config=config,
    )


def find_weights(directory: Path) -> Found:
    """Read the headers of all weight files that a directory has or should have."""
    index_path = next(iter(sorted(directory.glob("*.safetensors.index.json"))), None)
    present = sorted(path.name for path in directory.glob("*.safetensors") if not path.name.startswith("adapter_"))
    ours = [name for name in present if not name.startswith("consolidated")] or present
    if index_path is None:
        wanted = _complete_series(ours)
        return _read_files(directory, wanted) if wanted else _without_safetensors(directory)
    index = sidecars.read_json(index_path)
    weight_map = index.get("weight_map")
    mapped = {str(k): str(v) for k, v in weight_map.items()} if isinstance(weight_map, dict) else {}
    total = index.get("metadata", {}).get("total_size") if isinstance(index.get("metadata"), dict) else None
    total = int(total) if isinstance(total, (int, float)) and 0 < total < 2**60 else None
    names = sorted(name for name in set(mapped.values()) if "/" not in name and not name.startswith("."))
    if not any((directory / name).is_file() for name in names):
        note = f"only the index {index_path.name} is here: sizes by part are computed from config.json"
        return Found((), (), total, (Finding("weights-not-here", "note", note, file=index_path.name),), headers=False)
    found = _read_files(directory, names)
    return replace(found, total_size=total, findings=(*found.findings, *_compare(mapped, found, directory)))


def _complete_series(names: list[str]) -> list[str]:
    """Add the shards that a numbered series misses."""
    wanted = set(names)
    for name in names:
        match = _SHARD.match(name)
        if match and int(match["total"]) <= 10_000:
            stem, total = match["stem"], match["total"]
            wanted |= {f"{stem}-{number:05d}-of-{total}.safetensors" for number in range(1, int(total) + 1)}
    return sorted(wanted)


def _read_files(directory: Path, names: list[str]) -> Found:
    tensors: list[Tensor] = []
    files: list[tuple[str, int]] = []
    findings: list[Finding] = []
    for name in names:
        path = directory / name
        try:
            header = read_header(path)
        except FileNotFoundError:
            message, remedy = f"{name} is missing", "fetch this file again"
            findings.append(Finding("shard-missing", "error", message, remedy, file=str(path)))
        except BadFileError as error:
            findings.append(Finding("shard-damaged", "error", f"{name}: {error}", "fetch this file again", str(path)))
        else:
            tensors += header.tensors
            files.append((name, path.stat().st_size))
    return Found(tuple(tensors), tuple(files), None, tuple(findings), headers=bool(files or findings))


def _without_safetensors(directory: Path) -> Found:
    other = next((name for name in _OTHER_WEIGHTS if (directory / name).is_file()), None)
    if other is None:
        message = "there are no weights in this directory: sizes are computed from config.json"
        return Found((), (), None, (Finding("weights-not-here", "note", message, file=str(directory)),), headers=False)
    message = f"the weights are in {other}, a format that can run code when it is loaded; its tensors are not read"
    finding = Finding("unsafe-weights", "warning", message, "convert them to safetensors", str(directory / other))
    return Found((), (), None, (finding,), headers=False)


def _compare(mapped: Mapping[str, str], found: Found, directory: Path) -> tuple[Finding, ...]:
    """Tensors that the index promises and no healthy file has."""
    damaged = {Path(finding.file).name for finding in found.findings if finding.file}
    have = {tensor.name for tensor in found.tensors}
    lost = [name for name, file in mapped.items() if name not in have and file not in damaged]
    if not lost:
        return ()
    some = ", ".join(lost[:3]) + (" …" if len(lost) > 3 else "")
    message = f"{len(lost)} tensors of the index are in no file: {some}"
    return (Finding("tensors-missing", "error", message, "fetch the model again", str(directory)),)


def _quantization(directory: Path, config: Mapping[str, Any]) -> Quantization | None:
    found = read_quantization(config)
    if found is not None:
        return found
    for name, method in (
        ("quantize_config.json", "gptq"),
        ("quant_config.json", "awq"),
        ("hf_quant_config.json", "modelopt"),
    ):
        sidecar = sidecars.read_optional(directory / name)
        if sidecar:
            return read_quantization({"quantization_config": {"quant_method": method, **sidecar}})
    return None


def _moe(shape: Shape) -> Moe | None:
    if shape.experts is None:
        return None
    experts = shape.experts
    return Moe(experts.count, experts.per_token, experts.shared, experts.intermediate, experts.layers(shape.layers))


def _name(directory: Path, config: Mapping[str, Any]) -> str:
    resolved = directory.resolve()
    # A hub snapshot is named by its commit; the model's name is three levels up: models--ORG--NAME/snapshots/HASH.
    if resolved.parent.name == "snapshots" and resolved.parent.parent.name.startswith("models--"):
        return resolved.parent.parent.name.removeprefix("models--").replace("--", "/")
    stated = config.get("_name_or_path")
    return resolved.name or (stated if isinstance(stated, str) else "model")


def _config_findings(directory: Path, shape: Shape, found: Found, account: sums.Account) -> tuple[Finding, ...]:
    findings = []
    at = str(directory / "config.json")
    if not shape.hidden or not shape.layers:
        message = "config.json states no hidden size or no number of layers, so the shape is not known"
        findings.append(Finding("unknown-shape", "warning", message, None, at))
    if found.headers and not found.broken and found.total_size:
        off = abs(account.size_bytes - found.total_size) / found.total_size
        if off > 0.001:
            message = f"the index promises {found.total_size} bytes of tensors, the files hold {account.size_bytes}"
            findings.append(Finding("index-size", "warning", message, None, at))
    return tuple(findings)
