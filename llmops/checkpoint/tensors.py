"""A tensor as a header describes it, and what its name says about its place in the model."""

from __future__ import annotations

import math
import re
from dataclasses import dataclass
from typing import Final

from llmops.checkpoint.facts import PartName, Shard

# Bits of one element, by the type names of the safetensors format.
DTYPE_BITS: Final[dict[str, int]] = {
    "BOOL": 8, "U8": 8, "I8": 8, "F8_E4M3": 8, "F8_E5M2": 8, "F8_E8M0": 8, "F8_E4M3FNUZ": 8, "F8_E5M2FNUZ": 8,
    "F4": 4, "F6_E2M3": 6, "F6_E3M2": 6, "I16": 16, "U16": 16, "F16": 16, "BF16": 16, "I32": 32, "U32": 32, "F32": 32,
    "I64": 64, "U64": 64, "F64": 64, "C64": 64,
}  # fmt: skip
TORCH_NAME: Final[dict[str, str]] = {
    "F64": "float64", "F32": "float32", "F16": "float16", "BF16": "bfloat16", "F8_E4M3": "float8_e4m3fn",
    "F8_E5M2": "float8_e5m2", "I8": "int8", "U8": "uint8", "I32": "int32", "I64": "int64",
}  # fmt: skip


class BadFileError(Exception):
    """A model file breaks its own format. The message is one line without the file's name."""


@dataclass(frozen=True, slots=True)
class Tensor:
    """A tensor in a file: shape and type as stored."""

    name: str
    dtype: str
    shape: tuple[int, ...]
    size_bytes: int

    @property
    def elements(self) -> int:
        """Stored elements; packed values count as one."""
        return math.prod(self.shape)


_LAYER = re.compile(r"(?:^|\.)(?:layers|h|blocks|blk|block|layer)\.(\d+)\.")
_VISION = re.compile(
    r"(?:^|\.)(?:vision|visual|vision_tower|vision_model|vision_embed|vpm|resampler|image|img|audio|audio_tower|"
    r"multi_modal_projector|mm_projector|multimodal_projector|merger|patch_merger|mlp1|aligner|vit|encoder_image|"
    r"embed_vision|embed_audio|mm|v|speech|sound|connector|qformer|vision_projection)"
    r"(?:\.|_(?!proj\b))"
)
_NORM = re.compile(r"(?:norm|layernorm|ln_\w+|ln\d?|rms)\w*(?:\.\w+)?$|norm\d?\.(?:weight|bias)$", re.IGNORECASE)
_EMBEDDING = re.compile(
    r"(?:embed_tokens|wte|wpe|word_embeddings?|tok_embeddings|token_embd|position_embd|token_embedding|"
    r"position_embeddings?|token_type_embeddings?|embed_positions|embed_in|embedding\.weight|embeddings?\.weight)\b"
)
_HEAD = re.compile(r"^(?:\w+\.)*(?:lm_head|embed_out|output_layer|score|classifier)\.|^output\.(?:weight|bias)$")
_EXPERTS = re.compile(r"\.experts\.|_exps\.|experts\.(?:gate|up|down|w\d)|block_sparse_moe\.experts|switch_mlp")
_ROUTER = re.compile(r"(?:router|gate_inp|mlp\.gate|moe\.gate|block_sparse_moe\.gate|mixer\.gate|ffn\.gate)(?:\.|$)")
_ATTENTION = re.compile(
    r"attn|attention|self_attention|mixer|mamba|ssm|linear_attn|recurrent|conv\.|time_mix|query_key_value|qkv"
)
_MLP = re.compile(
    r"mlp|ffn|feed_forward|shared_expert|fc\d|c_fc|dense_h_to_4h|dense_4h_to_h|intermediate|output\.dense"
)
_KV = re.compile(r"(?:k_proj|v_proj|attn_k|attn_v|wk|wv|key|value)(?:\.|$)")
_MLA_DOWN = re.compile(r"(?:q_a_proj|kv_a_proj_with_mqa|kv_a_proj|attn_q_a|attn_kv_a_mqa|indexer)")


def layer_of(name: str) -> int | None:
    """The layer number in a tensor's name."""
    found = _LAYER.search(name)
    return int(found[1]) if found and len(found[1]) < 6 else None


def part_of(name: str) -> PartName:
    """The part of the model that a tensor belongs to, from its name."""
    found = _LAYER.search(name)
    prefix, inner = (name[: found.start() + 1], name[found.end() :]) if found else (name, name)
    if _VISION.search(prefix):
        return "vision"
    if found is None:
        if _HEAD.search(name):
            return "lm_head"
        if _EMBEDDING.search(name):
            return "embedding"
    # The module's own name decides: "self_attn_layer_norm" is a norm, "self_attn.q_norm" too.
    for part, pattern in _INNER:
        if pattern.search(inner):
            return part
    return "embedding" if _EMBEDDING.search(inner) else "other"


_INNER: Final[tuple[tuple[PartName, re.Pattern[str]], ...]] = (
    ("norms", _NORM),
    ("experts", re.compile(_EXPERTS.pattern + r"|^(?:\w+\.)*experts\.")),
    ("other", _ROUTER),
    ("attention", _ATTENTION),
    ("mlp", _MLP),
)


def shard_of(name: str, part: PartName) -> Shard:
    """How vLLM spreads this tensor over tensor-parallel ranks."""
    if part in ("embedding", "lm_head"):
        return "vocab"
    if part in ("norms", "other") or _MLA_DOWN.search(name):
        return "replicated"
    if part == "attention" and _KV.search(name):
        return "kv"
    return "split"
