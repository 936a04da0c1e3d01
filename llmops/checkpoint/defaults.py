"""Values that published configs leave out because they are their family's defaults.

The sections of multimodal configs state only what differs from the class's defaults: ``gemma-3-4b-it`` does not even say
how many heads it has. Values are those of the configuration classes in transformers 5.19.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

_GEMMA3: Final = {
    "num_hidden_layers": 26, "hidden_size": 2304, "intermediate_size": 9216, "num_attention_heads": 8,
    "num_key_value_heads": 4, "head_dim": 256, "vocab_size": 262208, "max_position_embeddings": 131072,
    "sliding_window": 4096, "tie_word_embeddings": True,
}  # fmt: skip
_QWEN2_VL: Final = {
    "num_hidden_layers": 80, "hidden_size": 8192, "intermediate_size": 29568, "num_attention_heads": 64,
    "num_key_value_heads": 8, "vocab_size": 152064, "max_position_embeddings": 32768,
}  # fmt: skip
FAMILY_DEFAULTS: Final[Mapping[str, Mapping[str, Any]]] = {
    "gemma3_text": _GEMMA3,
    "gemma3": _GEMMA3,
    "gemma3n_text": {
        "num_hidden_layers": 35, "hidden_size": 2048, "intermediate_size": 16384, "num_attention_heads": 8,
        "num_key_value_heads": 2, "head_dim": 256, "vocab_size": 262400, "max_position_embeddings": 32768,
        "sliding_window": 512, "sliding_window_pattern": 5, "num_kv_shared_layers": 15, "tie_word_embeddings": True,
    },
    "gemma4_text": {
        "num_attention_heads": 8, "num_key_value_heads": 4, "head_dim": 256, "vocab_size": 262144,
        "max_position_embeddings": 131072, "sliding_window": 512, "sliding_window_pattern": 6,
        "tie_word_embeddings": True,
    },
    "gemma2": {"head_dim": 256, "sliding_window": 4096, "max_position_embeddings": 8192, "vocab_size": 256000},
    "gemma": {"head_dim": 256, "max_position_embeddings": 8192, "vocab_size": 256000},
    "llama4_text": {
        "num_hidden_layers": 48, "hidden_size": 5120, "intermediate_size": 8192, "intermediate_size_mlp": 16384,
        "num_attention_heads": 40, "num_key_value_heads": 8, "head_dim": 128, "vocab_size": 202048,
        "max_position_embeddings": 131072, "num_local_experts": 16, "num_experts_per_tok": 1,
        "attention_chunk_size": 8192, "tie_word_embeddings": False,
    },
    "mllama_text_model": {
        "num_hidden_layers": 40, "hidden_size": 4096, "intermediate_size": 14336, "num_attention_heads": 32,
        "num_key_value_heads": 8, "vocab_size": 128256, "max_position_embeddings": 131072,
        "tie_word_embeddings": False,
    },
    "qwen2_vl_text": _QWEN2_VL,
    "qwen2_5_vl_text": _QWEN2_VL,
    "qwen3_5_text": {
        "num_hidden_layers": 32, "hidden_size": 4096, "intermediate_size": 12288, "num_attention_heads": 16,
        "num_key_value_heads": 4, "head_dim": 256, "vocab_size": 248320, "full_attention_interval": 4,
        "linear_num_value_heads": 32, "linear_num_key_heads": 16, "linear_key_head_dim": 128,
        "linear_value_head_dim": 128, "linear_conv_kernel_dim": 4,
    },
    "qwen3_5_moe_text": {
        "num_hidden_layers": 40, "hidden_size": 2048, "num_attention_heads": 16, "num_key_value_heads": 2,
        "head_dim": 256, "vocab_size": 248320, "num_experts": 256, "num_experts_per_tok": 8,
        "moe_intermediate_size": 512, "shared_expert_intermediate_size": 512, "full_attention_interval": 4,
        "linear_num_value_heads": 32, "linear_num_key_heads": 16, "linear_key_head_dim": 128,
        "linear_value_head_dim": 128, "linear_conv_kernel_dim": 4,
    },
    "mistral": {
        "num_hidden_layers": 32, "hidden_size": 4096, "intermediate_size": 14336, "num_attention_heads": 32,
        "num_key_value_heads": 8, "vocab_size": 32000, "max_position_embeddings": 131072, "sliding_window": 4096,
        "tie_word_embeddings": False,
    },
    "mixtral": {"num_local_experts": 8, "num_experts_per_tok": 2, "num_key_value_heads": 8, "tie_word_embeddings": False},
    "llama": {
        "num_hidden_layers": 32, "hidden_size": 4096, "intermediate_size": 11008, "num_attention_heads": 32,
        "vocab_size": 32000, "max_position_embeddings": 2048, "tie_word_embeddings": False,
    },
    "gpt_oss": {
        "head_dim": 64, "vocab_size": 201088, "sliding_window": 128, "num_experts_per_tok": 4,
        "attention_bias": True, "tie_word_embeddings": False,
    },
    "cohere2": {"sliding_window": 4096, "sliding_window_pattern": 4, "tie_word_embeddings": True},
    "falcon": {"multi_query": True, "num_attention_heads": 71},
    # Vision encoders.
    "siglip_vision_model": {"num_hidden_layers": 12, "hidden_size": 768, "intermediate_size": 3072},
    "clip_vision_model": {"num_hidden_layers": 12, "hidden_size": 768, "intermediate_size": 3072},
    "pixtral": {"num_hidden_layers": 24, "hidden_size": 1024, "intermediate_size": 4096},
}  # fmt: skip


def with_defaults(config: Mapping[str, Any]) -> Mapping[str, Any]:
    """``config`` over its family's defaults."""
    family = config.get("model_type")
    defaults = FAMILY_DEFAULTS.get(family) if isinstance(family, str) else None
    return {**defaults, **config} if defaults else config
