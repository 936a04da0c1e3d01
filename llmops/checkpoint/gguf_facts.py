"""Facts of a GGUF file, in the same form as those of a Hugging Face directory."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

from llmops.checkpoint import account as sums
from llmops.checkpoint.config import Shape, is_generative, read_shape, rotary_elements
from llmops.checkpoint.facts import Licence, ModelFacts, Moe, Quantization, Tokenizer
from llmops.checkpoint.gguf import FILE_TYPES, GgufHeader, LongArray, read_header
from llmops.checkpoint.groups import describe, layer_groups
from llmops.checkpoint.tensors import BadFileError, Tensor
from llmops.errors import UsageError
from llmops.findings import Finding

_SPLIT: Final = re.compile(r"^(?P<stem>.+)-(?P<number>\d{5})-of-(?P<total>\d{5})\.gguf$")
# Hugging Face's key -> GGUF's key after the architecture's prefix (llama.cpp, gguf-py/gguf/constants.py).
_KEYS: Final = {
    "num_hidden_layers": "block_count", "hidden_size": "embedding_length", "intermediate_size": "feed_forward_length",
    "num_attention_heads": "attention.head_count", "num_key_value_heads": "attention.head_count_kv",
    "head_dim": "attention.key_length", "max_position_embeddings": "context_length", "vocab_size": "vocab_size",
    "num_local_experts": "expert_count", "num_experts_per_tok": "expert_used_count",
    "moe_intermediate_size": "expert_feed_forward_length", "num_shared_experts": "expert_shared_count",
    "sliding_window": "attention.sliding_window", "kv_lora_rank": "attention.kv_lora_rank",
    "q_lora_rank": "attention.q_lora_rank", "qk_rope_head_dim": "rope.dimension_count",
    "first_k_dense_replace": "leading_dense_block_count",
}  # fmt: skip
_BITS: Final = {"F32": 32, "F16": 16, "BF16": 16, "Q8_0": 8.5, "Q4_0": 4.5, "Q4_1": 5, "Q5_0": 5.5, "Q5_1": 6}


def read_file(path: Path) -> ModelFacts:
    """Read a GGUF file and, when it is one of a split series, the others beside it.

    Raises:
        UsageError: The file is not GGUF. A truncated file is a finding, not an exception.
    """
    first, names = _series(path)
    findings: list[Finding] = []
    headers: list[GgufHeader] = []
    for name in names:
        part = path.parent / name
        try:
            headers.append(read_header(part))
        except FileNotFoundError:
            findings.append(Finding("shard-missing", "error", f"{name} is missing", "fetch this file again", str(part)))
        except BadFileError as error:
            if not str(error).startswith("truncated"):
                raise UsageError(f"{part}: {error}", "llmops inspect reads GGUF version 2 and 3") from error
            findings.append(Finding("shard-damaged", "error", f"{name}: {error}", "fetch this file again", str(part)))
    metadata = headers[0].metadata if headers else {}
    tensors = [tensor for header in headers for tensor in header.tensors]
    sizes = tuple((name, (path.parent / name).stat().st_size) for name in names if (path.parent / name).is_file())
    return _assemble(path.parent / first, metadata, tensors, sizes, tuple(findings))


def _series(path: Path) -> tuple[str, list[str]]:
    match = _SPLIT.match(path.name)
    if not match or int(match["total"]) > 10_000:
        return path.name, [path.name]
    names = [f"{match['stem']}-{number:05d}-of-{match['total']}.gguf" for number in range(1, int(match["total"]) + 1)]
    return names[0], names


def as_config(metadata: Mapping[str, Any], tensors: list[Tensor]) -> dict[str, Any]:
    """GGUF metadata in the words of a config.json."""
    family = str(metadata.get("general.architecture", ""))
    config: dict[str, Any] = {"model_type": family, "architectures": [family]}
    for ours, theirs in _KEYS.items():
        value = metadata.get(f"{family}.{theirs}")
        if isinstance(value, list):  # one value a layer: the largest is what a cache must be sized for
            value = max((item for item in value if isinstance(item, int)), default=None)
        if isinstance(value, LongArray):
            value = None
        if value is not None:
            config[ours] = value
    vocabulary = metadata.get("tokenizer.ggml.tokens")
    if "vocab_size" not in config and isinstance(vocabulary, (list, LongArray)):
        config["vocab_size"] = vocabulary.length if isinstance(vocabulary, LongArray) else len(vocabulary)
    config["tie_word_embeddings"] = not any(tensor.name == "output.weight" for tensor in tensors)
    if "kv_lora_rank" in config:
        config["num_key_value_heads"] = config.get("num_attention_heads", 0)
    if family in ("gpt-oss", "gptoss"):
        config["model_type"] = "gpt_oss"
    return config


def _assemble(
    path: Path,
    metadata: Mapping[str, Any],
    tensors: list[Tensor],
    files: tuple[tuple[str, int], ...],
    findings: tuple[Finding, ...],
) -> ModelFacts:
    config = as_config(metadata, tensors)
    shape = read_shape(config)
    quantization = _quantization(metadata, tensors)
    account = sums.add_up(((t, t.dtype not in ("F32", "F16", "BF16")) for t in tensors), quantization, tied=shape.tied)
    groups = layer_groups(shape)
    return ModelFacts(
        path=path,
        name=str(metadata.get("general.name") or path.stem)[:100],
        format="gguf",
        architecture=shape.model_type,
        model_type=shape.model_type,
        size_bytes=account.size_bytes,
        parameters=account.parameters,
        parts=account.parts,
        dtype=account.dtype,
        dtypes=account.dtypes,
        quantization=quantization,
        attention=describe(shape, groups),
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
        multimodal=("vision",) if any(tensor.name.startswith(("v.", "mm.")) for tensor in tensors) else (),
        rope_scaling=shape.rope_scaling,
        kv_bytes_per_token=sum(2 * group.layers * group.elements_per_token() for group in groups),
        rotary_elements=rotary_elements(
            shape.text, shape.head_dim, shape.mla, frozenset(group.kind for group in groups)
        ),
        weights=account.weights,
        tokenizer=_tokenizer(metadata),
        generation={},
        licence=_licence(metadata),
        linears=account.linears,
        lora=None,
        files=files,
        complete=not findings,
        exact_sizes=True,
        is_generative=is_generative(config, shape) and shape.model_type not in ("bert", "nomic-bert", "clip"),
        findings=findings,
        config={key: value for key, value in metadata.items() if not isinstance(value, (list, LongArray))},
    )


def _moe(shape: Shape) -> Moe | None:
    experts = shape.experts
    if experts is None:
        return None
    return Moe(experts.count, experts.per_token, experts.shared, experts.intermediate, experts.layers(shape.layers))


def _quantization(metadata: Mapping[str, Any], tensors: list[Tensor]) -> Quantization | None:
    number = metadata.get("general.file_type")
    kind = FILE_TYPES.get(number) if isinstance(number, int) else None
    sizes: dict[str, int] = {}
    for tensor in tensors:
        sizes[tensor.dtype] = sizes.get(tensor.dtype, 0) + tensor.size_bytes
    main = max(sizes, key=lambda name: sizes[name]) if sizes else "F16"
    kind = kind or main
    if kind in ("F32", "F16", "BF16"):
        return None
    elements = sum(tensor.elements for tensor in tensors)
    bits = _BITS.get(kind) or (8 * sum(sizes.values()) / elements if elements else 4)
    return Quantization("gguf", "gguf", round(bits, 2), detail=kind)


def _tokenizer(metadata: Mapping[str, Any]) -> Tokenizer:
    tokens = metadata.get("tokenizer.ggml.tokens")
    size = tokens.length if isinstance(tokens, LongArray) else len(tokens) if isinstance(tokens, list) else None
    template = "tokenizer.chat_template" if metadata.get("tokenizer.chat_template") else None
    kind = metadata.get("tokenizer.ggml.model")
    return Tokenizer(size is not None, str(kind)[:40] if kind else None, (), template, size)


def _licence(metadata: Mapping[str, Any]) -> Licence | None:
    stated = metadata.get("general.license.name") or metadata.get("general.license")
    return Licence(str(stated)[:100], "general.license") if stated else None
