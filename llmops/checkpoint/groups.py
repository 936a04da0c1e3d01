"""Which layers keep which kind of state for past tokens, from a config."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from typing import Any, Final

from llmops.checkpoint.config import Shape, number, section, word
from llmops.checkpoint.facts import AttentionKind, LayerGroup

_KIND_OF: Final[dict[str, AttentionKind]] = {
    "full_attention": "full", "attention": "full", "global": "full", "global_attention": "full", "full": "full",
    "moe": "none", "mlp": "none", "-": "none", "e": "none",
    "sliding_attention": "sliding", "sliding": "sliding", "local": "sliding", "local_attention": "sliding",
    "sliding_window_attention": "sliding", "sliding_window": "sliding", "chunked_attention": "chunked",
    "linear_attention": "linear", "mamba": "linear", "mamba2": "linear", "conv": "linear", "recurrent": "linear",
    "m": "linear", "*": "full", "hybrid": "full", "swa": "sliding",
}  # fmt: skip
# Families whose config states a window although every layer attends to everything, or where the engine ignores it.
_WINDOW_UNUSED: Final = ("qwen2", "qwen3", "qwen2_moe", "qwen3_moe", "qwen2_vl", "qwen2_5_vl")
_STATE_SPACE: Final = ("mamba", "mamba2", "falcon_mamba", "rwkv", "rwkv6", "rwkv7")


def layer_groups(shape: Shape) -> tuple[LayerGroup, ...]:
    """Group the layers by the state they keep, largest kind of cache first."""
    if not shape.layers or (not shape.heads and shape.model_type not in _STATE_SPACE):
        return ()
    kinds = Counter(layer_kinds(shape))
    order: tuple[AttentionKind, ...] = ("mla", "full", "sliding", "chunked", "linear", "none")
    groups = [_group(shape, kind, kinds[kind]) for kind in order if kinds[kind]]
    if shape.model_type == "falcon_h1":  # each layer has both an attention and a Mamba state
        groups.append(_group(shape, "linear", shape.layers))
    return tuple(groups)


def layer_kinds(shape: Shape) -> tuple[AttentionKind, ...]:
    """The kind of each layer, first to last."""
    if shape.model_type in _STATE_SPACE:
        return _all("linear", shape)
    if shape.mla and shape.model_type != "kimi_linear":
        return _all("mla", shape)
    kinds = _listed(shape) or _patterned(shape) or _windowed(shape)
    shared = number(shape.text, "num_kv_shared_layers")
    if 0 < shared < len(kinds):  # Gemma 3n: the last layers read an earlier layer's cache
        kinds = kinds[: len(kinds) - shared] + _all("none", shape)[:shared]
    return kinds


def describe(shape: Shape, groups: tuple[LayerGroup, ...]) -> str:
    """The attention in people's words, such as ``GQA, 5 full + 29 sliding (1024)``."""
    if not groups:
        return "none"
    if groups[0].kind == "mla":
        base = "MLA"
    elif not any(group.kv_heads for group in groups):
        base = "state space"
    elif shape.kv_heads == shape.heads:
        base = "MHA"
    else:
        base = "MQA" if shape.kv_heads == 1 else "GQA"
    if len(groups) == 1 and groups[0].kind in ("full", "mla"):
        return base
    words = [
        f"{group.layers} {group.kind}" + (f" ({group.window})" if group.window else "")
        for group in groups
        if group.kind != "none"
    ]
    return f"{base}, {' + '.join(words)}"


def _listed(shape: Shape) -> tuple[AttentionKind, ...]:
    """From an explicit list of layers."""
    text, total = shape.text, shape.layers
    for name in ("layer_types", "layers_block_type", "block_types", "attention_types"):
        value = text.get(name)
        if isinstance(value, list) and value and all(isinstance(item, str) for item in value):
            kinds = [_KIND_OF.get(item.lower(), "full") for item in value]
            return tuple((kinds * (total // len(kinds) + 1))[:total])
    pattern = text.get("hybrid_override_pattern")
    if isinstance(pattern, str) and pattern:
        return tuple(_KIND_OF.get(mark.lower(), "full") for mark in pattern[:total])
    kinds_by_number = text.get("attn_type_list")  # MiniMax: 1 is softmax attention, 0 linear
    if isinstance(kinds_by_number, list) and len(kinds_by_number) == total:
        return tuple("full" if item == 1 else "linear" for item in kinds_by_number)
    linear = section(text, "linear_attn_config")  # Kimi Linear numbers layers from 1
    full = linear.get("full_attn_layers")
    if isinstance(full, list):
        return tuple(("mla" if shape.mla else "full") if i + 1 in full else "linear" for i in range(total))
    return ()


def _patterned(shape: Shape) -> tuple[AttentionKind, ...]:
    """From a period: every n-th layer is of the other kind."""
    text, total = shape.text, shape.layers
    every = number(text, "full_attention_interval")
    if not every and shape.model_type.startswith("qwen3_next"):
        every = 4
    if every:
        return tuple("full" if (i + 1) % every == 0 else "linear" for i in range(total))
    period = number(text, "attn_layer_period")
    if period:  # Jamba
        offset = number(text, "attn_layer_offset")
        return tuple("full" if i % period == offset else "linear" for i in range(total))
    if shape.model_type.startswith("llama4"):
        chunk = number(text, "attention_chunk_size", default=8192)
        return tuple("full" if (i + 1) % 4 == 0 or not chunk else "chunked" for i in range(total))
    return _sliding_pattern(shape)


def _sliding_pattern(shape: Shape) -> tuple[AttentionKind, ...]:
    text, total = shape.text, shape.layers
    pattern = text.get("sliding_window_pattern")
    if isinstance(pattern, str) and pattern:  # EXAONE 4: "LLLG"
        marks = pattern.upper()[:64]
        return tuple("full" if marks[i % len(marks)] == "G" else "sliding" for i in range(total))
    every = number(text, "sliding_window_pattern", "_sliding_window_pattern")
    defaults = {"gemma2": 2, "gemma3": 6, "gemma3_text": 6, "cohere2": 4, "gpt_oss": 2, "olmo3": 4}
    if not every and number(text, "sliding_window"):
        every = defaults.get(shape.model_type, 0)
    if every > 1 and number(text, "sliding_window"):
        if shape.model_type == "gpt_oss":
            return tuple("sliding" if i % 2 == 0 else "full" for i in range(total))
        return tuple("full" if (i + 1) % every == 0 else "sliding" for i in range(total))
    return ()


def _windowed(shape: Shape) -> tuple[AttentionKind, ...]:
    """From one window for all layers."""
    window = number(shape.text, "sliding_window")
    used = shape.text.get("use_sliding_window", shape.model_type not in _WINDOW_UNUSED)
    slides = window and used and (not shape.context or window < shape.context)
    return _all("sliding" if slides else "full", shape)


def _all(kind: AttentionKind, shape: Shape) -> tuple[AttentionKind, ...]:
    return (kind,) * shape.layers


def _group(shape: Shape, kind: AttentionKind, layers: int) -> LayerGroup:
    if kind == "mla":
        assert shape.mla is not None
        return LayerGroup("mla", layers, 1, shape.mla.kv_rank + shape.mla.rope_dim)
    if kind == "linear":
        return LayerGroup("linear", layers, state_bytes=_state_bytes(shape.text, shape))
    if kind == "none":
        return LayerGroup("none", layers)
    window = None
    if kind == "sliding":
        window = number(shape.text, "sliding_window", "sliding_window_size", "local_attention", default=4096)
    elif kind == "chunked":
        window = number(shape.text, "attention_chunk_size", default=8192)
    heads, head_dim, v_dim = shape.kv_heads, shape.head_dim, number(shape.text, "v_head_dim", default=shape.head_dim)
    if kind == "full" and shape.model_type.startswith("gemma4"):
        # Gemma 4's global layers have their own, wider and fewer, key/value heads.
        heads = number(shape.text, "num_global_key_value_heads", default=heads)
        head_dim = v_dim = number(shape.text, "global_head_dim", default=head_dim)
    return LayerGroup(kind, layers, heads, head_dim, v_dim, window)


def _state_bytes(text: Mapping[str, Any], shape: Shape) -> int:
    """Bytes of one layer's fixed state for one request: the convolution's tail and the recurrent matrix, at 16 bit."""
    value_heads = number(text, "linear_num_value_heads")
    if value_heads:  # gated delta net
        key_heads = number(text, "linear_num_key_heads", default=value_heads)
        key_dim, value_dim = number(text, "linear_key_head_dim"), number(text, "linear_value_head_dim")
        conv = (2 * key_heads * key_dim + value_heads * value_dim) * (
            number(text, "linear_conv_kernel_dim", default=4) - 1
        )
        return 2 * conv + 2 * value_heads * key_dim * value_dim
    inner = number(text, "mamba_d_ssm", "mamba_intermediate", "intermediate_size" if _plain_mamba(shape) else "")
    heads = number(text, "mamba_n_heads", "mamba_num_heads", "num_heads" if shape.model_type == "mamba2" else "")
    head_dim = number(text, "mamba_d_head", "mamba_head_dim", "head_dim" if shape.model_type == "mamba2" else "")
    inner = inner or heads * head_dim or number(text, "mamba_expand", "expand", default=2) * shape.hidden
    state = number(text, "mamba_d_state", "ssm_state_size", "state_size", "d_state", default=16)
    kernel = number(text, "mamba_d_conv", "conv_kernel", "d_conv", "conv_L_cache", "conv_kernel_size", default=4)
    if word(text, "model_type").startswith("lfm2"):  # a short convolution and no recurrent state
        return 2 * shape.hidden * (kernel - 1)
    groups = number(text, "mamba_n_groups", "n_groups")
    return 2 * (inner + 2 * groups * state) * (kernel - 1) + 2 * inner * state


def _plain_mamba(shape: Shape) -> bool:
    return shape.model_type in ("mamba", "falcon_mamba")
