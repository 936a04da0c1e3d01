"""The calculators that planning and diagnosis share."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llmops.planning import limits


@given(st.floats(0, 200), st.floats(0.1, 200), st.floats(0, 5))
def test_utilization_is_accepted_by_the_start_check(free, total, margin):
    share = limits.largest_utilization(free, total, margin_gib=margin)
    assert 0 <= share <= 1
    assert share * total <= max(0.0, free - margin) + 1e-6
    assert share >= 0.99 or (share + 0.011) * total > max(0.0, free - margin)


def test_utilization_of_a_known_message():
    # "(59.32/79.15 GiB) ... desired (0.9, 71.24 GiB)": 0.74 is the largest that starts.
    assert limits.largest_utilization(59.32, 79.15) == 0.74


@given(st.floats(0.01, 100), st.integers(1, 2**20))
def test_tokens_fill_whole_blocks_and_no_more(gib, per_token):
    tokens = limits.kv_tokens(gib, per_token)
    assert tokens % 16 == 0
    assert tokens * per_token <= gib * 2**30
    assert (tokens + 16) * per_token > gib * 2**30


def test_tokens_of_nothing():
    assert limits.kv_tokens(-1, 100) == limits.kv_tokens(1, 0) == 0
    assert limits.largest_model_len(50519) == 50512
    assert limits.largest_model_len(50519, 32768) == 32768
    assert limits.largest_num_seqs(10_000, 3000) == 3
    assert limits.largest_num_seqs(10, 3000) == 1


@given(st.floats(0, 20), st.floats(1, 1e7), st.integers(1, 2048))
def test_fewer_sequences_free_what_is_asked_or_reach_the_floor(spare, per_seq, current):
    fewer = limits.num_seqs_for_memory(spare, per_seq, current=current)
    assert 1 <= fewer <= current
    assert fewer == 1 or (current - fewer) * per_seq >= spare * 2**30 * (1 - 1e-9)


@pytest.mark.parametrize(
    ("shape", "valid"),
    [
        ({"heads": 32, "kv_heads": 8, "vocab": 128256}, (1, 2, 4, 8)),
        ({"heads": 40, "kv_heads": 8, "vocab": 151936}, (1, 2, 4, 8)),  # 5 divides the heads, not the vocabulary
        ({"heads": 28, "kv_heads": 4, "vocab": 152064}, (1, 2, 4)),
        ({"heads": 71, "kv_heads": 1, "vocab": 65024}, (1,)),
        ({"heads": 64, "kv_heads": 8, "vocab": 152064, "row_dims": (8192, 29568), "group_size": 128, "kernel_k": 128}, (1,)),
        ({"heads": 12, "kv_heads": 12, "vocab": 50272}, (1, 2, 4)),
    ],
)  # fmt: skip
def test_tensor_parallel_degrees(shape, valid):
    found = limits.valid_tensor_parallel(**shape)
    assert found == valid or found == tuple(sorted({*valid, *[n for n in found if n in (3, 6)]}))
    for degree in range(1, 9):
        why = limits.why_not_tensor_parallel(degree, **shape)
        assert (why is None) == (degree in found)
        assert why is None or str(degree) in why or "128" in why


@given(st.integers(1, 600))
def test_lora_ranks(rank):
    allowed = limits.next_lora_rank(rank)
    if rank > 512:
        assert allowed is None
    else:
        assert allowed in limits.LORA_RANKS
        assert allowed >= rank
        assert not any(rank <= other < allowed for other in limits.LORA_RANKS)
