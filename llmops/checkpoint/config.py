"""config.json of any model family brought to one shape. Untrusted input: every value is checked before it is used."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

from llmops.checkpoint.defaults import with_defaults

_MAX = 2**40
_TEXT_SECTIONS: Final = ("text_config", "llm_config", "language_config", "language_model_config", "thinker_config")
_VISION_SECTIONS: Final = ("vision_config", "vision_model_config", "vit_config", "visual")
_AUDIO_SECTIONS: Final = ("audio_config", "speech_config", "sound_config")
# Architectures that compute embeddings or scores, not text.
_ENCODERS: Final = ("bert", "roberta", "xlm", "deberta", "electra", "distilbert", "mpnet", "nomic_bert", "modernbert")
# In these families config.json says nothing of the gate, and there is none: two matrices, not three.
_UNGATED: Final = (
    "gpt2", "gpt_neox", "gpt_neo", "gptj", "gpt_bigcode", "opt", "bloom", "falcon", "phi", "mpt", "starcoder2", "bert",
    "roberta", "xlm-roberta", "distilbert", "electra", "nemotron", "camembert", "codegen", "persimmon", "nemotron_h",
)  # fmt: skip
# Learned or no position embeddings: nothing is precomputed.
_NO_ROPE: Final = ("gpt2", "opt", "bloom", "mpt", "gpt_bigcode", "bert", "mamba", "falcon_mamba", "rwkv", "roberta")
_ATTENTION_BIAS: Final = (
    "qwen2",
    "qwen2_moe",
    "qwen2_vl",
    "qwen2_5_vl",
    "gpt2",
    "gpt_neox",
    "opt",
    "phi",
    "starcoder2",
)
_QK_NORM: Final = ("qwen3", "qwen3_moe", "gemma3", "gemma3_text", "olmo2")


@dataclass(frozen=True, slots=True)
class Mla:
    """Multi-head latent attention: one compressed vector of rank + rotary part a token."""

    kv_rank: int
    rope_dim: int
    nope_dim: int
    v_dim: int
    q_rank: int | None


@dataclass(frozen=True, slots=True)
class Experts:
    """Mixture of experts as configured. ``first`` layers stay dense; of the rest each ``step``-th has experts."""

    count: int
    per_token: int
    intermediate: int
    shared: int
    shared_intermediate: int
    first: int
    step: int

    def layers(self, total: int) -> int:
        """How many of ``total`` layers have experts."""
        return sum(self.has(i) for i in range(total))

    def has(self, layer: int) -> bool:
        """Whether this layer has experts."""
        return layer >= self.first and (layer + 1) % self.step == 0


@dataclass(frozen=True, slots=True)
class Shape:
    """The language model's dimensions."""

    model_type: str
    architecture: str
    layers: int
    hidden: int
    intermediate: int
    heads: int
    kv_heads: int
    head_dim: int
    vocab: int
    context: int
    tied: bool
    gated_mlp: bool
    attention_bias: bool
    qk_norm: bool
    mla: Mla | None
    experts: Experts | None
    dtype: str
    rope_scaling: str | None
    text: Mapping[str, Any]


def number(config: Mapping[str, Any], *names: str, default: int = 0) -> int:
    """The first of ``names`` that holds a natural number."""
    for name in names:
        value = config.get(name)
        if type(value) is int and 0 <= value < _MAX:
            return value
        if type(value) is float and value.is_integer() and 0 <= value < _MAX:
            return int(value)
    return default


def section(config: Mapping[str, Any], *names: str) -> Mapping[str, Any]:
    """The first of ``names`` that holds an object; an empty one when none does."""
    for name in names:
        value = config.get(name)
        if isinstance(value, dict) and value:
            return value
    return {}


def word(config: Mapping[str, Any], *names: str, default: str = "") -> str:
    """The first of ``names`` that holds text, cut to 200 characters."""
    for name in names:
        value = config.get(name)
        if isinstance(value, str) and value:
            return value[:200]
    return default


def text_config(config: Mapping[str, Any]) -> Mapping[str, Any]:
    """The language model's section of a multimodal config, with missing keys taken from the top."""
    inner = section(config, *_TEXT_SECTIONS)
    if not inner:
        return with_defaults(config)
    deeper = section(inner, *_TEXT_SECTIONS)
    lifted = {key: value for key, value in config.items() if key not in (*_VISION_SECTIONS, *_AUDIO_SECTIONS)}
    return {**lifted, **with_defaults({**inner, **deeper})}


def multimodal(config: Mapping[str, Any]) -> tuple[str, ...]:
    """Which other inputs the model takes, by its config sections."""
    inner = section(config, "thinker_config")
    kinds = [("vision", _VISION_SECTIONS), ("audio", _AUDIO_SECTIONS)]
    return tuple(kind for kind, names in kinds if section(config, *names) or section(inner, *names))


def vision_config(config: Mapping[str, Any]) -> Mapping[str, Any]:
    """The vision encoder's section, empty without one."""
    found = section(config, *_VISION_SECTIONS) or section(section(config, "thinker_config"), *_VISION_SECTIONS)
    return with_defaults(found)


def read_shape(config: Mapping[str, Any]) -> Shape:
    """Bring a config.json to one shape. Missing values become 0, never an exception."""
    text = text_config(config)
    family = word(text, "model_type") or word(config, "model_type")
    hidden = number(text, "hidden_size", "n_embd", "d_model", "dim", "n_embed", "model_dim")
    heads = number(text, "num_attention_heads", "n_head", "n_heads", "num_heads", "attention_heads")
    layers = number(text, "num_hidden_layers", "n_layer", "n_layers", "num_layers", "num_blocks")
    architectures = config.get("architectures")
    named = architectures[0] if isinstance(architectures, list) and architectures else ""
    return Shape(
        model_type=family,
        architecture=str(named)[:200] or word(text, "architectures") or family,
        layers=min(layers, 1000),  # no model has as many; a hostile config may claim any number
        hidden=hidden,
        intermediate=_intermediate(text, hidden),
        heads=heads,
        kv_heads=_kv_heads(text, heads),
        head_dim=_head_dim(text, hidden, heads),
        vocab=number(text, "vocab_size", "padded_vocab_size", "n_vocab") or number(config, "vocab_size"),
        context=_context(text),
        tied=_tied(config, text, family),
        gated_mlp=_gated(text, family),
        attention_bias=bool(text.get("attention_bias", text.get("qkv_bias", family in _ATTENTION_BIAS))),
        qk_norm=bool(text.get("use_qk_norm", text.get("qk_norm", family in _QK_NORM))),
        mla=_mla(text, family),
        experts=_experts(text),
        dtype=_dtype(config, text),
        rope_scaling=_rope_scaling(text),
        text=text,
    )


def is_generative(config: Mapping[str, Any], shape: Shape) -> bool:
    """Whether the model writes text (and so has a KV cache), by its class and family."""
    name = shape.architecture
    if any(end in name for end in ("CausalLM", "ConditionalGeneration", "LMHead", "Vision2Seq", "ForCondGen")):
        return True
    if any(shape.model_type.startswith(family) or family in shape.model_type for family in _ENCODERS):
        return bool(config.get("is_decoder"))
    return not any(end in name for end in ("Classification", "ForMaskedLM", "EmbeddingModel", "RewardModel"))


def _intermediate(text: Mapping[str, Any], hidden: int) -> int:
    direct = text.get("intermediate_size")
    if isinstance(direct, list) and direct and all(type(item) is int for item in direct):
        return int(max(direct))  # Gemma 3n states one value a layer
    ffn = section(text, "ffn_config")
    found = number(
        text, "intermediate_size", "ffn_dim", "n_inner", "ffn_hidden_size", "d_ff", "d_inner", "inner_dim", "hidden_dim"
    )
    ratio = number(text, "expansion_ratio", default=4)
    return found or number(ffn, "ffn_hidden_size") or ratio * hidden


def _kv_heads(text: Mapping[str, Any], heads: int) -> int:
    found = number(
        text,
        "num_key_value_heads",
        "num_kv_heads",
        "n_head_kv",
        "n_kv_heads",
        "multi_query_group_num",
        "num_query_groups",
    ) or number(section(text, "attn_config"), "kv_n_heads")
    if text.get("multi_query") is True and not text.get("new_decoder_architecture"):
        return number(text, "multi_query_group_num", default=1)
    return found or heads


def _head_dim(text: Mapping[str, Any], hidden: int, heads: int) -> int:
    found = number(text, "head_dim", "kv_channels", "attention_head_dim", "d_kv")
    return found or (hidden // heads if heads else 0)


def _context(text: Mapping[str, Any]) -> int:
    base = number(
        text, "max_position_embeddings", "n_positions", "max_seq_len", "seq_length", "n_ctx", "max_sequence_length",
        "model_max_length", "max_seq_length", "seq_len",
    )  # fmt: skip
    scaling = _rope_section(text)
    kind = word(scaling, "rope_type", "type")
    factor = scaling.get("factor", 1)
    original = number(scaling, "original_max_position_embeddings")
    if word(text, "model_type").startswith("gemma3"):  # its context is stated after scaling
        return base
    if kind not in ("yarn", "linear", "dynamic") or not isinstance(factor, (int, float)) or not 1 < factor < 1e4:
        return base
    # Some configs state the context before scaling, some after: where the original length is given it decides.
    return int(original * factor) if original else int(base * factor)


def rotary_elements(text: Mapping[str, Any], head_dim: int, mla: Mla | None, kinds: frozenset[str]) -> int:
    """Elements of the cosine and sine tables that engines precompute: positions x rotary size.

    Linear scaling lengthens the table by its factor, images and video (``mrope_section``) by 4. Gemma has a table of its
    own for sliding layers.
    """
    family = word(text, "model_type")
    if family.startswith(_NO_ROPE) or not head_dim:
        return 0
    scaling = _rope_section(text)
    share = text.get("partial_rotary_factor", scaling.get("partial_rotary_factor", text.get("rotary_pct", 1.0)))
    rotary = mla.rope_dim if mla else head_dim * (share if isinstance(share, (int, float)) and 0 < share <= 1 else 1)
    base, factor = _context(text), scaling.get("factor", 1)
    positions = base
    if word(scaling, "rope_type", "type") == "linear" and isinstance(factor, (int, float)) and 1 < factor < 1e4:
        own = number(text, "max_position_embeddings", default=base)
        positions = int(own * factor)
    if "mrope_section" in scaling:
        positions *= 4
    local = base if family.startswith("gemma3") and "sliding" in kinds else 0
    return int((positions + local) * rotary)


def _rope_section(text: Mapping[str, Any]) -> Mapping[str, Any]:
    found = section(text, "rope_scaling", "rope_parameters")
    return section(found, "full_attention") or found


def _rope_scaling(text: Mapping[str, Any]) -> str | None:
    found = _rope_section(text)
    kind = word(found, "rope_type", "type")
    if not kind or kind == "default":
        return None
    factor = found.get("factor")
    return f"{kind} x{factor:g}" if isinstance(factor, (int, float)) else kind


def _tied(config: Mapping[str, Any], text: Mapping[str, Any], family: str) -> bool:
    value = text.get("tie_word_embeddings", config.get("tie_word_embeddings"))
    if isinstance(value, bool):
        return value
    # The library's default is to tie; these families set it to false in their classes, so their configs stay silent.
    untied = ("llama", "mistral", "mixtral", "qwen2", "qwen3", "phi", "deepseek", "gpt_neox", "olmo", "glm", "gpt_oss",
              "baichuan", "internlm", "yi", "stablelm", "persimmon", "dbrx", "minimax", "kimi", "exaone", "granitemoe",
              "nemotron", "jamba", "zamba", "ernie4", "hunyuan", "seed_oss", "smollm3", "mllama", "bamba", "falcon_h1",
              "falcon_mamba", "arcee", "apertus", "qwen", "chatglm", "aquila", "decilm", "solar", "longcat", "step",
              "minicpm3", "dots")  # fmt: skip
    return not family.startswith(untied)


def _gated(text: Mapping[str, Any], family: str) -> bool:
    if text.get("mlp_hidden_act") == "relu2" or text.get("hidden_act") == "relu2":
        return False
    return family not in _UNGATED


def _mla(text: Mapping[str, Any], family: str) -> Mla | None:
    rank = number(text, "kv_lora_rank")
    if not rank or family == "minicpm3":  # served with its keys and values expanded
        return None
    return Mla(
        kv_rank=rank,
        rope_dim=number(text, "qk_rope_head_dim", default=64),
        nope_dim=number(text, "qk_nope_head_dim", default=128),
        v_dim=number(text, "v_head_dim", default=128),
        q_rank=number(text, "q_lora_rank") or None,
    )


def _experts(text: Mapping[str, Any]) -> Experts | None:
    ffn = section(text, "ffn_config")
    count = number(
        text, "num_local_experts", "n_routed_experts", "num_experts", "moe_num_experts", "num_routed_experts"
    ) or number(ffn, "moe_num_experts")
    if count < 2:
        return None
    inner = number(text, "moe_intermediate_size", "expert_ffn_hidden_size", "expert_intermediate_size")
    inner = inner or number(ffn, "ffn_hidden_size") or number(text, "intermediate_size", "ffn_dim")
    shared = number(text, "n_shared_experts", "num_shared_experts", "num_shared_expert", "moe_num_shared_experts")
    shared_inner = number(
        text, "shared_expert_intermediate_size", "shared_intermediate_size", "moe_shared_expert_intermediate_size"
    )
    family = word(text, "model_type")
    if family.startswith("llama4"):
        shared, shared_inner = 1, inner
    return Experts(
        count=count,
        per_token=number(
            text, "num_experts_per_tok", "num_experts_per_token", "moe_top_k", "top_k_experts", "moe_topk", "top_k"
        ) or number(ffn, "moe_top_k", default=1),
        intermediate=inner,
        shared=shared or (1 if shared_inner else 0),
        shared_intermediate=shared_inner or shared * inner,
        first=number(text, "first_k_dense_replace", "num_dense_layers", "moe_layer_start_index"),
        step=max(1, number(text, "decoder_sparse_step", "interleave_moe_layer_step", "moe_layer_freq",
                           "moe_layer_interval", default=1)),
    )  # fmt: skip


def _dtype(config: Mapping[str, Any], text: Mapping[str, Any]) -> str:
    name = word(config, "dtype", "torch_dtype") or word(text, "dtype", "torch_dtype")
    return name.removeprefix("torch.") or "float32"
