"""The KV cache as vLLM lays it out: layers in groups of equal size, blocks shared by the groups."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Final

from llmops.checkpoint.facts import LayerGroup, ModelFacts
from llmops.planning.limits import BLOCK_TOKENS

KV_BYTES: Final = {"float32": 4.0, "bfloat16": 2.0, "float16": 2.0, "fp8": 1.0, "fp8_e4m3": 1.0, "fp8_e5m2": 1.0}


@dataclass(frozen=True, slots=True)
class CacheLayout:
    """How the cache of one device is divided.

    Attributes:
        bytes_per_token: Pool bytes divided by reported tokens: padding layers of hybrids included.
        padded_layers: Layers that the pool is sized for; more than the model has when groups are padded.
        pages_per_block: Layers in one group; a block holds this many pages.
        groups: Groups by kind with their windows; each takes its own blocks of a request.
        state_bytes: Fixed bytes of a request for linear-attention layers.
        page_bytes: Bytes of one layer's page of one block.
        block_tokens: Tokens of a block.
        formula: How ``bytes_per_token`` comes about, for people.
    """

    bytes_per_token: float
    padded_layers: int
    pages_per_block: int
    groups: tuple[tuple[str, int | None, int], ...]
    state_bytes: int
    page_bytes: float
    formula: str
    block_tokens: int = BLOCK_TOKENS

    @property
    def grows(self) -> bool:
        """Whether a request's cache grows with its length at all."""
        return self.bytes_per_token > 0


def layout(
    facts: ModelFacts,
    *,
    tensor_parallel: int = 1,
    pipeline_parallel: int = 1,
    kv_bytes: float = 2.0,
    block: int = BLOCK_TOKENS,
) -> CacheLayout:
    """Divide the cache for one device.

    Layers of one kind need no padding. Otherwise the group size is the smaller of the counts of layers with full and with
    other attention, and each kind is padded up to whole groups (vLLM logs "Add N padding layers").
    """
    caching = [group for group in facts.groups if group.kind not in ("linear", "none") and group.layers]
    linear = [group for group in facts.groups if group.kind == "linear"]
    per_stage = [max(1, math.ceil(group.layers / pipeline_parallel)) for group in caching]
    state = sum(math.ceil(g.layers / pipeline_parallel) * g.state_bytes // tensor_parallel for g in linear)
    if not caching:
        return CacheLayout(0.0, 0, 0, (), state, 0.0, "no layer's cache grows with the context", block)
    elements = [group.elements_per_token(tensor_parallel) for group in caching]
    size = min(per_stage)
    if len(caching) > 1 and max(per_stage) < 1.5 * size:
        size = max(per_stage)  # nearly equal counts are padded to the larger one instead
    counts = [math.ceil(count / size) for count in per_stage]
    padded = size * sum(counts) if len(caching) > 1 else per_stage[0]
    width = max(elements)
    per_token = padded * width * kv_bytes if len(caching) > 1 else per_stage[0] * elements[0] * kv_bytes
    return CacheLayout(
        bytes_per_token=per_token,
        padded_layers=padded,
        pages_per_block=size,
        groups=tuple((g.kind, g.window, count) for g, count in zip(caching, counts, strict=True)),
        state_bytes=state,
        page_bytes=width * kv_bytes * block,
        formula=_formula(caching, padded, tensor_parallel, kv_bytes),
        block_tokens=block,
    )


def tokens_in(
    pool_bytes: float, cache: CacheLayout, max_model_len: int, max_num_batched_tokens: int, *, derived: bool = False
) -> int | None:
    """Tokens that vLLM reports for a pool; None when nothing grows.

    With linear-attention layers the report is max_concurrency x max_model_len, because their state is per request;
    ``derived`` says that this engine reports every hybrid so, as newer ones do.
    """
    if not cache.grows or pool_bytes <= 0:
        return 0 if cache.grows else None
    hybrid = len(cache.groups) > 1
    if cache.state_bytes or (derived and hybrid):
        return int(concurrency(pool_bytes, cache, max_model_len, max_num_batched_tokens) * max_model_len)
    if not hybrid:
        return int(pool_bytes // (cache.bytes_per_token * cache.block_tokens)) * cache.block_tokens
    blocks = int(pool_bytes // (cache.page_bytes * cache.pages_per_block))
    return blocks // sum(count for _, _, count in cache.groups) * cache.block_tokens


def concurrency(pool_bytes: float, cache: CacheLayout, length: int, max_num_batched_tokens: int) -> float:
    """Requests of ``length`` tokens that the pool holds at once. Sliding layers keep their window only."""
    needed = request_bytes(cache, length, max_num_batched_tokens)
    return pool_bytes / needed if needed > 0 and pool_bytes > 0 else 0.0


def request_bytes(cache: CacheLayout, length: int, max_num_batched_tokens: int) -> float:
    """Cache bytes of one request of ``length`` tokens.

    A sliding layer holds window - 1 tokens and the chunk being computed, plus one block because a window need not
    start at a block's edge; never more than the whole request (vllm/v1/kv_cache_interface.py).
    """
    if len(cache.groups) <= 1:
        window = cache.groups[0][1] if cache.groups else None
        kind = cache.groups[0][0] if cache.groups else "full"
        kept = _kept_blocks(kind, window, length, max_num_batched_tokens, cache.block_tokens)
        return kept * cache.block_tokens * cache.bytes_per_token + cache.state_bytes
    blocks = sum(
        count * _kept_blocks(kind, window, length, max_num_batched_tokens, cache.block_tokens)
        for kind, window, count in cache.groups
    )
    return blocks * cache.page_bytes * cache.pages_per_block + cache.state_bytes


def longest_request(pool_bytes: float, cache: CacheLayout, limit: int, max_num_batched_tokens: int) -> int:
    """The longest request that fits in the pool, at most ``limit``; 0 when none does."""
    low, high = 0, limit
    while low < high:
        middle = (low + high + 1) // 2
        if request_bytes(cache, middle, max_num_batched_tokens) <= pool_bytes:
            low = middle
        else:
            high = middle - 1
    return low


def _kept_blocks(kind: str, window: int | None, length: int, batched: int, block: int) -> int:
    if kind == "sliding" and window:
        return math.ceil(min(window - 1 + batched, length) / block) + 1
    if kind == "chunked" and window:
        return math.ceil(min(window + batched, length) / block)
    return math.ceil(length / block)


def _formula(groups: list[LayerGroup], padded: int, tensor_parallel: int, kv_bytes: float) -> str:
    group = groups[0]
    if group.kind == "mla":
        return f"{padded} layers x {group.head_dim} (latent + rotary) x {kv_bytes:g} B, the same on every rank"
    heads = max(1, math.ceil(group.kv_heads / tensor_parallel))
    real = sum(g.layers for g in groups)
    padding = f" ({real} and padding)" if len(groups) > 1 and padded != real else ""
    halves = "2" if group.head_dim == group.v_head_dim else f"({group.head_dim}+{group.v_head_dim})/{group.head_dim}"
    return f"{halves} x {padded} layers{padding} x {heads} KV heads x {group.head_dim} x {kv_bytes:g} B"
