"""Largest and smallest settings that an engine accepts, as pure arithmetic shared by planning and diagnosis."""

from __future__ import annotations

import math
from typing import Final

# Ranks that vLLM's LoRA kernels are compiled for (vllm/config/lora.py; 1 since 0.12).
LORA_RANKS: Final = (1, 8, 16, 32, 64, 128, 256, 320, 512)
# vLLM allocates KV cache in blocks of this many tokens unless told otherwise.
BLOCK_TOKENS: Final = 16
# vLLM pads the vocabulary to a multiple of this before it splits it over ranks (vocab_parallel_embedding.py).
VOCAB_PADDING: Final = 64


def largest_utilization(free_gib: float, total_gib: float, *, margin_gib: float = 0.0, step: float = 0.01) -> float:
    """The largest gpu_memory_utilization that the start check ``free >= utilization * total`` accepts.

    Rounded down to ``step``; 0.0 when nothing is free. ``margin_gib`` keeps that much of the free memory untouched.
    """
    if total_gib <= 0:
        return 0.0
    share = max(0.0, free_gib - margin_gib) / total_gib
    return min(1.0, round(math.floor(share / step + 1e-9) * step, 6))


def kv_tokens(kv_gib: float, kv_bytes_per_token: float, *, block: int = BLOCK_TOKENS) -> int:
    """Tokens that fit in ``kv_gib``, in whole blocks; 0 when it is negative or a token costs nothing."""
    if kv_gib <= 0 or kv_bytes_per_token <= 0:
        return 0
    return int(kv_gib * 2**30 // (kv_bytes_per_token * block)) * block


def largest_model_len(tokens: int, model_limit: int | None = None, *, block: int = BLOCK_TOKENS) -> int:
    """The largest max_model_len for a pool of ``tokens``: whole blocks, at most what the model was made for."""
    length = max(0, tokens) // block * block
    return length if model_limit is None else min(length, model_limit)


def largest_num_seqs(tokens: int, tokens_each: int, *, ceiling: int = 1024) -> int:
    """Requests of ``tokens_each`` tokens that a pool of ``tokens`` holds at once, between 1 and ``ceiling``."""
    return max(1, min(ceiling, tokens // max(1, tokens_each)))


def num_seqs_for_memory(spare_gib: float, bytes_per_seq: float, *, current: int, floor: int = 1) -> int:
    """The largest max_num_seqs whose warm-up needs ``spare_gib`` less than with ``current``.

    ``bytes_per_seq`` is the sampler's cost of a sequence (``vocab * bytes per logit``). Rounded down to a power of two,
    which keeps the engine's list of CUDA graph sizes short.
    """
    if bytes_per_seq <= 0:
        return current
    wanted = current - math.ceil(max(0.0, spare_gib) * 2**30 / bytes_per_seq)
    if wanted >= current:
        return current
    return max(floor, 2 ** int(math.log2(wanted))) if wanted >= 1 else floor


def padded_vocab(vocab: int) -> int:
    """The vocabulary as split over ranks: rounded up to a multiple of 64."""
    return -(-vocab // VOCAB_PADDING) * VOCAB_PADDING


def valid_tensor_parallel(
    *,
    heads: int,
    kv_heads: int,
    vocab: int | None = None,
    limit: int = 8,
    row_dims: tuple[int, ...] = (),
    column_dims: tuple[int, ...] = (),
    group_size: int | None = None,
    kernel_k: int = 1,
) -> tuple[int, ...]:
    """Tensor-parallel degrees up to ``limit`` that a model can be split into.

    Args:
        heads: Attention heads; the degree divides them. 0 for a model without attention.
        kv_heads: The degree divides them, or is a multiple of them (they are then copied).
        vocab: Its padded size must be divisible.
        row_dims: Input sizes of layers split by input (o_proj, down_proj).
        column_dims: Output sizes of layers split by output (q/k/v, gate/up).
        limit: Highest degree considered.
        group_size: Quantisation group; a split input must keep whole groups.
        kernel_k: A split input must stay a multiple of this (128 for Marlin).
    """
    return tuple(
        degree
        for degree in range(1, limit + 1)
        if why_not_tensor_parallel(
            degree,
            heads=heads,
            kv_heads=kv_heads,
            vocab=vocab,
            row_dims=row_dims,
            column_dims=column_dims,
            group_size=group_size,
            kernel_k=kernel_k,
        )
        is None
    )


def why_not_tensor_parallel(
    degree: int,
    *,
    heads: int,
    kv_heads: int,
    vocab: int | None = None,
    row_dims: tuple[int, ...] = (),
    column_dims: tuple[int, ...] = (),
    group_size: int | None = None,
    kernel_k: int = 1,
) -> str | None:
    """The rule that forbids this tensor-parallel degree, in one sentence; None when it is valid."""
    if degree == 1:
        return None
    padded = padded_vocab(vocab) if vocab else 0
    reasons: list[tuple[int | None, str]] = [
        (heads % degree, f"{heads} attention heads are not divisible by {degree}"),
        (
            kv_heads and kv_heads % degree and degree % kv_heads,
            f"{kv_heads} KV heads neither divide nor are divided by {degree}",
        ),
        (padded % degree, f"the vocabulary of {padded} (padded) is not divisible by {degree}"),
    ]
    reasons += [
        (size % degree, f"a layer dimension of {size} is not divisible by {degree}")
        for size in (*row_dims, *column_dims)
    ]
    for size in row_dims:
        part = size // degree
        split = f"{size} / {degree} = {part} is no multiple of"
        reasons.append((group_size and part % group_size, f"{split} the quantisation group {group_size}"))
        reasons.append((part % kernel_k, f"{split} {kernel_k}, which the kernel needs"))
    return next((reason for broken, reason in reasons if broken), None)


def next_lora_rank(rank: int) -> int | None:
    """The smallest max_lora_rank that accepts an adapter of ``rank``; None when it is larger than any."""
    return next((allowed for allowed in LORA_RANKS if allowed >= rank), None)
