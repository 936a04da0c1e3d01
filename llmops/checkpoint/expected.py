"""The tensors that a config implies, for models whose weights are not here (or only their index is)."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from llmops.checkpoint.config import Shape, number, section, vision_config
from llmops.checkpoint.facts import Quantization
from llmops.checkpoint.groups import layer_kinds
from llmops.checkpoint.quantization import is_ignored
from llmops.checkpoint.tensors import Tensor

_LEARNED_POSITIONS = ("opt", "gpt2", "gpt_bigcode", "bert", "roberta", "xlm-roberta", "electra", "distilbert")
_FLOAT_BITS = {"float32": ("F32", 32), "float64": ("F64", 64), "float16": ("F16", 16), "bfloat16": ("BF16", 16)}


def expected_tensors(
    config: Mapping[str, Any], shape: Shape, quantization: Quantization | None
) -> Iterator[tuple[Tensor, bool]]:
    """Yield each tensor with whether it is quantised. Quantised bytes include scales and zero points.

    Exact for plain decoder families and their quantised forms; an estimate for encoders of images and sound.
    """
    for name, dims, linear in _named_shapes(config, shape):
        module = name.removesuffix(".weight")
        quantised = linear and quantization is not None and not is_ignored(module, quantization)
        if quantised and quantization is not None:
            if quantization.method == "mxfp4" and "experts" not in name and quantization.quant_method == "mxfp4":
                quantised = False  # gpt-oss: only the experts
            else:
                elements = dims[0] * dims[1] * (dims[2] if len(dims) > 2 else 1)
                yield Tensor(name, _stored(quantization), dims, int(elements * stored_bits(quantization) / 8)), True
                continue
        label, bits = _FLOAT_BITS.get(shape.dtype, ("BF16", 16))
        tensor = Tensor(name, label, dims, 0)
        yield Tensor(name, label, dims, tensor.elements * bits // 8), quantised


def stored_bits(quantization: Quantization) -> float:
    """Stored bits of a quantised weight with its scales and zero points."""
    group = quantization.group_size
    if quantization.method in ("nf4", "fp4"):
        return 4.127 if quantization.detail else 4.5
    if quantization.method == "nvfp4":
        return 4.5
    if quantization.method == "mxfp4":
        return 4.25
    if quantization.bits < 8 and group:
        zero = 0 if quantization.symmetric and quantization.quant_method == "compressed-tensors" else quantization.bits
        return quantization.bits + (16 + zero) / group
    if quantization.detail and quantization.detail.startswith("blocks"):
        return quantization.bits + 32 / (128 * 128)
    return quantization.bits


def _stored(quantization: Quantization) -> str:
    if quantization.method == "fp8":
        return "F8_E4M3"
    if quantization.bits == 8:
        return "I8"
    return "U8" if quantization.method in ("nf4", "fp4", "mxfp4", "nvfp4") else "I32"


def _named_shapes(config: Mapping[str, Any], shape: Shape) -> Iterator[tuple[str, tuple[int, ...], bool]]:
    if not shape.hidden or not shape.layers:
        return
    yield "model.embed_tokens.weight", (shape.vocab, shape.hidden), False
    if shape.model_type in _LEARNED_POSITIONS:
        yield "model.embed_positions.weight", (shape.context, shape.hidden), False
    for index, kind in enumerate(layer_kinds(shape)):
        prefix = f"model.layers.{index}."
        if kind == "linear":
            yield from _linear_attention(prefix, shape)
        elif shape.heads:
            yield from _attention(prefix, shape, kind)
        yield from _feed_forward(prefix, shape, index)
        norms = 4 if shape.model_type.startswith(("gemma2", "gemma3")) else 2
        for norm in range(norms):
            yield f"{prefix}norm{norm}.weight", (shape.hidden,), False
    yield "model.norm.weight", (shape.hidden,), False
    if not shape.tied:
        yield "lm_head.weight", (shape.vocab, shape.hidden), False
    yield from _vision(config, shape)


def _attention(prefix: str, shape: Shape, kind: str) -> Iterator[tuple[str, tuple[int, ...], bool]]:
    at = prefix + "self_attn."
    if shape.mla and kind == "mla":
        yield from _mla(at, shape)
        return
    head_dim, kv_heads = shape.head_dim, shape.kv_heads
    if kind == "full" and shape.model_type.startswith("gemma4"):
        head_dim = number(shape.text, "global_head_dim", default=head_dim)
        kv_heads = number(shape.text, "num_global_key_value_heads", default=kv_heads)
    query, key = shape.heads * head_dim, kv_heads * head_dim
    gate = 2 if shape.model_type.startswith("qwen3_next") or shape.text.get("attn_output_gate") is True else 1
    yield at + "q_proj.weight", (query * gate, shape.hidden), True
    yield at + "k_proj.weight", (key, shape.hidden), True
    yield at + "v_proj.weight", (key, shape.hidden), True
    yield at + "o_proj.weight", (shape.hidden, query), True
    if shape.attention_bias:
        yield at + "q_proj.bias", (query,), False
        yield at + "k_proj.bias", (key,), False
        yield at + "v_proj.bias", (key,), False
    if shape.qk_norm:
        yield at + "q_norm.weight", (head_dim,), False
        yield at + "k_norm.weight", (head_dim,), False


def _mla(at: str, shape: Shape) -> Iterator[tuple[str, tuple[int, ...], bool]]:
    mla = shape.mla
    assert mla is not None
    query = shape.heads * (mla.nope_dim + mla.rope_dim)
    if mla.q_rank:
        yield at + "q_a_proj.weight", (mla.q_rank, shape.hidden), True
        yield at + "q_a_layernorm.weight", (mla.q_rank,), False
        yield at + "q_b_proj.weight", (query, mla.q_rank), True
    else:
        yield at + "q_proj.weight", (query, shape.hidden), True
    yield at + "kv_a_proj_with_mqa.weight", (mla.kv_rank + mla.rope_dim, shape.hidden), True
    yield at + "kv_a_layernorm.weight", (mla.kv_rank,), False
    yield at + "kv_b_proj.weight", (shape.heads * (mla.nope_dim + mla.v_dim), mla.kv_rank), True
    yield at + "o_proj.weight", (shape.hidden, shape.heads * mla.v_dim), True


def _linear_attention(prefix: str, shape: Shape) -> Iterator[tuple[str, tuple[int, ...], bool]]:
    """A Mamba or gated-delta-net mixer: its two large projections."""
    text = shape.text
    value_heads = number(text, "linear_num_value_heads")
    if value_heads:
        key = number(text, "linear_num_key_heads", default=value_heads) * number(text, "linear_key_head_dim")
        value = value_heads * number(text, "linear_value_head_dim")
        yield prefix + "linear_attn.in_proj_qkvz.weight", (2 * key + 2 * value, shape.hidden), True
        yield prefix + "linear_attn.in_proj_ba.weight", (2 * value_heads, shape.hidden), True
        yield prefix + "linear_attn.out_proj.weight", (shape.hidden, value), True
        return
    heads = number(text, "mamba_n_heads", "mamba_num_heads")
    inner = heads * number(text, "mamba_d_head", "mamba_head_dim")
    inner = inner or number(text, "mamba_expand", "expand", default=2) * shape.hidden
    state = number(text, "mamba_d_state", "ssm_state_size", "state_size", default=16)
    groups = number(text, "mamba_n_groups", "n_groups", default=1)
    yield prefix + "mamba.in_proj.weight", (2 * inner + 2 * groups * state + heads, shape.hidden), True
    yield prefix + "mamba.out_proj.weight", (shape.hidden, inner), True


def _feed_forward(prefix: str, shape: Shape, index: int) -> Iterator[tuple[str, tuple[int, ...], bool]]:
    experts, hidden = shape.experts, shape.hidden
    if experts is None or not experts.has(index):
        inner = number(shape.text, "intermediate_size_mlp", default=shape.intermediate)
        yield from _mlp(prefix + "mlp.", hidden, inner, gated=shape.gated_mlp)
        return
    columns = 2 if shape.gated_mlp else 1
    yield prefix + "mlp.experts.gate_up_proj", (experts.count, columns * experts.intermediate, hidden), True
    yield prefix + "mlp.experts.down_proj", (experts.count, hidden, experts.intermediate), True
    yield prefix + "mlp.gate.weight", (experts.count, hidden), False
    if experts.shared and experts.shared_intermediate:
        yield from _mlp(prefix + "mlp.shared_expert.", hidden, experts.shared_intermediate, gated=shape.gated_mlp)


def _mlp(at: str, hidden: int, inner: int, *, gated: bool) -> Iterator[tuple[str, tuple[int, ...], bool]]:
    if gated:
        yield at + "gate_proj.weight", (inner, hidden), True
    yield at + "up_proj.weight", (inner, hidden), True
    yield at + "down_proj.weight", (hidden, inner), True


def _vision(config: Mapping[str, Any], shape: Shape) -> Iterator[tuple[str, tuple[int, ...], bool]]:
    """A vision transformer by its usual fields, and a projector of two layers: an estimate."""
    vision = vision_config(config)
    hidden, depth = (
        number(vision, "hidden_size", "embed_dim", "width"),
        number(vision, "num_hidden_layers", "depth", "layers"),
    )
    if not hidden or depth > 1000:
        return
    inner = number(vision, "intermediate_size", default=4 * hidden)
    gated = 3 if vision.get("model_type") in ("pixtral", "qwen2_5_vl") or vision.get("hidden_act") == "silu" else 2
    for index in range(depth):
        at = f"vision_tower.layers.{index}."
        yield at + "attn.weight", (4 * hidden, hidden), False
        yield at + "mlp.weight", (gated * inner, hidden), False
    patch = number(vision, "patch_size", default=14)
    yield "vision_tower.patch_embed.weight", (hidden, 3 * patch * patch), False
    out = number(vision, "out_hidden_size", default=shape.hidden) or shape.hidden
    positions = (number(vision, "image_size") // patch) ** 2 if patch else 0
    if positions < 100_000 and "siglip" in str(vision.get("model_type")):
        yield "vision_tower.position_embedding.weight", (positions, hidden), False
    family = shape.model_type if not section(config, "text_config") else str(config.get("model_type"))
    if family.startswith(("qwen2_vl", "qwen2_5_vl", "qwen3_vl")):  # four patches become one
        yield "visual.merger.mlp.0.weight", (4 * hidden, 4 * hidden), False
        yield "visual.merger.mlp.2.weight", (out, 4 * hidden), False
        return
    yield "multi_modal_projector.linear.weight", (out, hidden), False
    if family.startswith(("mistral3", "llava", "internvl", "pixtral")):
        yield "multi_modal_projector.linear_2.weight", (out, out), False
    if section(config, "audio_config"):
        audio = section(config, "audio_config")
        width, layers = number(audio, "hidden_size", "d_model"), number(audio, "num_hidden_layers", "encoder_layers")
        yield "audio_tower.layers.weight", (min(layers, 1000) * 12, width, width), False
