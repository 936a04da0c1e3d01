"""The KV cache against figures that real starts of vLLM logged."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st
from paper_models import facts

from llmops.planning.cache import concurrency, layout, longest_request, request_bytes, tokens_in

GIB = 2**30


@pytest.mark.parametrize(
    ("model", "tp", "kv_bytes", "per_token", "padded"),
    [
        ("llama-3.1-8b-instruct", 1, 2, 2 * 32 * 8 * 128 * 2, 32),
        ("llama-3.1-8b-instruct", 4, 2, 2 * 32 * 2 * 128 * 2, 32),
        ("llama-3.1-8b-instruct", 1, 1, 2 * 32 * 8 * 128, 32),
        ("gemma-3-4b-it", 1, 2, 2 * 35 * 4 * 256 * 2, 35),
        ("gemma-3-12b-it", 1, 2, 2 * 48 * 8 * 256 * 2, 48),
        ("gemma-3-27b-it", 1, 2, 2 * 70 * 16 * 128 * 2, 70),
        ("gemma-2-9b-it", 1, 2, 2 * 42 * 8 * 256 * 2, 42),
        ("gpt-oss-20b", 1, 2, 2 * 24 * 8 * 64 * 2, 24),
        ("deepseek-v2-lite", 1, 2, 27 * 576 * 2, 27),
        ("deepseek-v2-lite", 4, 2, 27 * 576 * 2, 27),
        ("falcon-7b-instruct", 1, 2, 2 * 32 * 1 * 64 * 2, 32),
        ("qwen2.5-7b-instruct", 4, 2, 2 * 28 * 1 * 128 * 2, 28),
    ],
)
def test_bytes_per_token(model, tp, kv_bytes, per_token, padded):
    cache = layout(facts(model), tensor_parallel=tp, kv_bytes=kv_bytes)
    assert (cache.bytes_per_token, cache.padded_layers) == (per_token, padded)


@pytest.mark.parametrize(
    ("model", "tp", "kv_bytes", "gib", "length", "tokens", "held"),
    [
        ("llama-3.1-8b-instruct", 1, 2, 58.11, 8192, 476016, 58.11),
        ("llama-3.1-8b-instruct", 1, 1, 58.11, 8192, 952032, 116.21),
        ("gemma-2-9b-it", 1, 2, 54.12, 8192, 168880, 20.6),
        ("gemma-3-4b-it", 1, 2, 62.51, 8192, 468144, 57.05),
        ("llama-4-scout-17b-16e-instruct", 4, 2, 16.75, 8192, 365968, 44.68),
        ("qwen2.5-72b-instruct", 2, 2, 3.04, 8192, 19920, 2.43),
    ],
)  # fmt: skip
def test_tokens_and_concurrency_of_logged_pools(model, tp, kv_bytes, gib, length, tokens, held):
    cache = layout(facts(model), tensor_parallel=tp, kv_bytes=kv_bytes)
    assert tokens_in(gib * GIB, cache, length, 8192) == pytest.approx(tokens, rel=0.001)
    assert concurrency(gib * GIB, cache, length, 8192) == pytest.approx(held, rel=0.003)


@given(
    st.sampled_from(
        ["llama-3.1-8b-instruct", "gemma-3-27b-it", "gpt-oss-20b", "deepseek-v3", "mistral-7b-instruct-v0.1"]
    ),
    st.floats(0.01, 80),
    st.integers(1, 131072),
)
def test_the_longest_request_fits_and_a_longer_one_does_not(model, gib, limit):  # fmt: skip
    name = model if model != "deepseek-v3" else "deepseek-r1"
    cache = layout(facts(name))
    longest = longest_request(gib * GIB, cache, limit, 2048)
    assert 0 <= longest <= limit
    assert longest == 0 or request_bytes(cache, longest, 2048) <= gib * GIB
    assert longest == limit or request_bytes(cache, longest + 1, 2048) > gib * GIB


def test_sliding_layers_keep_their_window_only():
    cache = layout(facts("gemma-3-27b-it"))
    short, long = request_bytes(cache, 8192, 2048), request_bytes(cache, 131072, 2048)
    full_share = 10 / 70  # one group of ten full layers among seven groups
    assert long < short + (131072 - 8192) * cache.bytes_per_token * full_share * 1.05


def test_linear_attention_has_a_fixed_cost():
    from llmops.checkpoint.config import read_shape
    from llmops.checkpoint.groups import layer_groups

    config = {"model_type": "qwen3_next", "num_hidden_layers": 48, "hidden_size": 2048, "num_attention_heads": 16,
              "num_key_value_heads": 2, "head_dim": 256, "linear_num_value_heads": 32, "linear_num_key_heads": 16,
              "linear_key_head_dim": 128, "linear_value_head_dim": 128, "linear_conv_kernel_dim": 4}  # fmt: skip
    groups = {group.kind: group for group in layer_groups(read_shape(config))}
    assert (groups["full"].layers, groups["linear"].layers) == (12, 36)
    assert groups["linear"].state_bytes == 2 * (8192 * 3 + 32 * 128 * 128)


def test_newer_engines_report_hybrids_by_their_concurrency(tmp_path):
    """A start on the CPU: 2 GiB for Gemma-3-270M at 2048 tokens, blocks of 128, logged as 110,733 tokens."""
    from llmops.checkpoint.reader import read_model

    config = {"model_type": "gemma3_text", "architectures": ["Gemma3ForCausalLM"], "num_hidden_layers": 18,
              "hidden_size": 640, "intermediate_size": 2048, "num_attention_heads": 4, "num_key_value_heads": 1,
              "head_dim": 256, "vocab_size": 262144, "sliding_window": 512, "max_position_embeddings": 32768}  # fmt: skip
    (tmp_path / "config.json").write_text(json.dumps(config))
    cache = layout(read_model(tmp_path), block=128)
    assert tokens_in(2 * GIB, cache, 2048, 2048, derived=True) == pytest.approx(110_733, rel=1e-4)
