"""What can be known of a model without reading its weights."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from llmops.findings import Finding

Format = Literal["hf", "safetensors", "gguf", "lora", "onnx"]
PartName = Literal["embedding", "attention", "mlp", "experts", "norms", "lm_head", "vision", "other"]
PARTS: tuple[PartName, ...] = ("embedding", "attention", "mlp", "experts", "norms", "lm_head", "vision", "other")
# How a serving engine spreads a tensor over tensor-parallel ranks.
Shard = Literal["split", "kv", "vocab", "replicated"]
AttentionKind = Literal["full", "sliding", "chunked", "mla", "linear", "none"]


@dataclass(frozen=True, slots=True)
class Part:
    """Parameters and stored bytes of one kind of tensor.

    Attributes:
        parameters: Logical parameters: a packed 4-bit matrix counts its unpacked elements.
        size_bytes: Bytes as stored, scales and zero points included.
    """

    name: PartName
    parameters: int
    size_bytes: int


@dataclass(frozen=True, slots=True)
class Linear:
    """One matrix multiplication of the model, with its logical (unpacked) shape.

    Attributes:
        name: Module path without ``.weight``, such as ``model.layers.0.self_attn.q_proj``.
        dtype: Stored type of the weight (``BF16``, ``I32`` when packed).
        quantized: Whether the stored form is a quantised one.
        copies: How many such matrices the tensor holds (experts stacked in one tensor).
    """

    name: str
    in_features: int
    out_features: int
    part: PartName
    dtype: str
    size_bytes: int
    quantized: bool = False
    copies: int = 1


@dataclass(frozen=True, slots=True)
class Quantization:
    """How the weights are stored when they are not plain floats.

    Attributes:
        method: One of gptq, awq, fp8, nf4, int8, w8a8, w4a16, mxfp4, nvfp4, gguf, or the config's own word.
        quant_method: ``quant_method`` of config.json as written (``compressed-tensors``, ``gptq``, …).
        bits: Bits of a weight, without scales.
        group_size: Elements sharing a scale; None for a scale a channel, a tensor or a block.
        ignore: Modules kept in full precision, as written (names or ``re:`` patterns).
        kv_cache: Type of the KV cache that the checkpoint asks for, such as ``fp8``.
        detail: A GGUF file's type such as ``Q4_K_M``; a compressed-tensors format such as ``pack-quantized``.
    """

    method: str
    quant_method: str
    bits: float
    group_size: int | None = None
    symmetric: bool | None = None
    ignore: tuple[str, ...] = ()
    kv_cache: str | None = None
    detail: str | None = None


@dataclass(frozen=True, slots=True)
class LayerGroup:
    """Layers that keep the same kind of state for past tokens.

    Attributes:
        kind: ``mla`` keeps one compressed vector a token; ``linear`` (Mamba, gated delta net) a fixed state a request;
            ``none`` keeps nothing of its own (it reads another layer's cache).
        layers: Their number.
        kv_heads: Key/value heads; 1 for ``mla``.
        head_dim: Elements of a key; for ``mla`` the compressed rank plus the rotary part.
        v_head_dim: Elements of a value; 0 for ``mla``.
        window: Tokens a sliding or chunked layer looks back.
        state_bytes: Bytes a request of a ``linear`` layer's fixed state, at 16 bit; 0 for the others.
    """

    kind: AttentionKind
    layers: int
    kv_heads: int = 0
    head_dim: int = 0
    v_head_dim: int = 0
    window: int | None = None
    state_bytes: int = 0

    def elements_per_token(self, tensor_parallel: int = 1) -> int:
        """KV elements a token and layer on one of ``tensor_parallel`` ranks; heads below one a rank are copied."""
        if self.kind in ("linear", "none"):
            return 0
        if self.kind == "mla":
            return self.head_dim
        return max(1, -(-self.kv_heads // tensor_parallel)) * (self.head_dim + self.v_head_dim)


@dataclass(frozen=True, slots=True)
class Moe:
    """Mixture of experts."""

    experts: int
    experts_per_token: int
    shared_experts: int
    intermediate: int
    layers: int


@dataclass(frozen=True, slots=True)
class Tokenizer:
    """Which tokenizer files are there, and where the chat template is."""

    present: bool
    kind: str | None = None
    files: tuple[str, ...] = ()
    chat_template: str | None = None
    vocab_size: int | None = None


@dataclass(frozen=True, slots=True)
class Licence:
    """A licence as the files state it; ``name`` is None when a text is there that is not recognised."""

    name: str | None
    file: str | None = None


@dataclass(frozen=True, slots=True)
class Lora:
    """A LoRA adapter."""

    rank: int
    alpha: float
    base_model: str | None
    target_modules: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Share:
    """Weights that are spread in one way.

    Attributes:
        fixed_bytes: Quantised weights with their scales: loaded as they are stored.
        floats: Elements stored as plain floats: loaded in the type that the engine serves with.
    """

    fixed_bytes: int = 0
    floats: int = 0

    def size_bytes(self, float_bytes: float) -> float:
        """Bytes when plain floats take ``float_bytes`` each."""
        return self.fixed_bytes + self.floats * float_bytes


@dataclass(frozen=True, slots=True)
class Weights:
    """How tensors fall on tensor-parallel ranks and pipeline stages.

    Attributes:
        split: Per-layer tensors divided by the tensor-parallel degree.
        kv: Per-layer key/value projections, divided by at most the number of KV heads.
        replicated: Per-layer tensors that each rank holds whole (norms, routers, MLA down-projections).
        embedding: The input embedding (first stage; divided over a padded vocabulary).
        lm_head: The output head (last stage); empty when it is tied to the embedding.
        vision: Encoders of images and sound with their projectors (first stage).
    """

    split: Share = Share()
    kv: Share = Share()
    replicated: Share = Share()
    embedding: Share = Share()
    lm_head: Share = Share()
    vision: Share = Share()


@dataclass(frozen=True, slots=True)
class ModelFacts:
    """Facts of a checkpoint from its configuration and headers alone.

    Attributes:
        name: Directory or file name, or the model's own name where it has one.
        format: ``hf`` is a Hugging Face directory.
        architecture: Class name such as ``LlamaForCausalLM``, or a GGUF architecture such as ``gemma3``.
        size_bytes: Bytes of all tensors as stored.
        parameters: Logical parameters.
        dtype: Type of most of the bytes that are not quantised, in torch's words (``bfloat16``).
        dtypes: Stored types with their bytes, largest first.
        context_length: Positions the model was made for, rope scaling included.
        kv_bytes_per_token: At 16 bit, on one device, all layers that grow with the context.
        rotary_elements: Elements of the position tables that an engine precomputes.
        complete: Whether every tensor that the index names is there and every file is whole.
        exact_sizes: False when sizes were computed from the configuration because no headers are there.
        config: The parsed config.json, or the GGUF metadata without arrays; untrusted.
    """

    path: Path
    name: str
    format: Format
    architecture: str
    model_type: str
    size_bytes: int
    parameters: int
    parts: tuple[Part, ...]
    dtype: str
    dtypes: tuple[tuple[str, int], ...]
    quantization: Quantization | None
    attention: str
    groups: tuple[LayerGroup, ...]
    layers: int
    hidden: int
    intermediate: int
    heads: int
    kv_heads: int
    head_dim: int
    vocab: int
    context_length: int
    tied_embeddings: bool
    moe: Moe | None
    multimodal: tuple[str, ...]
    rope_scaling: str | None
    kv_bytes_per_token: int
    rotary_elements: int
    weights: Weights
    tokenizer: Tokenizer
    generation: Mapping[str, Any]
    licence: Licence | None
    linears: tuple[Linear, ...]
    lora: Lora | None
    files: tuple[tuple[str, int], ...]
    complete: bool
    exact_sizes: bool
    is_generative: bool
    findings: tuple[Finding, ...] = ()
    config: Mapping[str, Any] = field(default_factory=dict, repr=False)
