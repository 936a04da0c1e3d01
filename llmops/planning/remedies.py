"""What would make a plan fit that does not: concrete flags, most harmless first."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import TYPE_CHECKING

from llmops.planning import cache as kv
from llmops.planning.candidates import free_at_start, loading_gib
from llmops.planning.coefficients import RESERVE_GIB
from llmops.planning.memory import account
from llmops.planning.parallel import tensor_parallel_obstacle

if TYPE_CHECKING:
    from llmops.planning.candidates import Candidate, Request


def remedies_for(request: Request, best: Candidate) -> tuple[str, ...]:
    """Each line is one change that alone would do, or says that none does."""
    setting, memory = best.setting, best.memory
    found: list[str] = []
    room = max(0.0, best.pool_bytes - RESERVE_GIB * 2**30)
    longest = kv.longest_request(room, best.cache, setting.max_model_len, setting.max_num_batched_tokens)
    if longest >= 256:
        found.append(f"--max-model-len {longest // 16 * 16}: the longest request that fits")
    need = kv.request_bytes(best.cache, setting.max_model_len, setting.max_num_batched_tokens) / 2**30
    wanted = (memory.budget_gib + need + RESERVE_GIB - memory.kv_cache_gib) / memory.total_gib
    if wanted <= 0.97:
        found.append(f"--gpu-memory-utilization {math.ceil(wanted * 100) / 100:g}")
    if setting.max_num_seqs > 16 and request.spec.max_num_seqs:
        found.append(f"--max-num-seqs {max(16, setting.max_num_seqs // 4)}: a smaller warm-up")
    if not setting.kv_cache_dtype.startswith("fp8") and _fits(request, best, kv_cache_dtype="fp8"):
        found.append("--kv-cache-dtype fp8: half the cache a token")
    if request.facts.quantization is None and setting.online_quantization is None:
        capability = request.gpu.compute_capability
        if (capability is None or capability >= (8, 0)) and _fits(request, best, online_quantization="fp8"):
            found.append("--quantization fp8: half the weights, quantised while loading")
        quarter = _fits(request, best, weights_gib=memory.weights_gib * 0.3)
        if quarter:
            found.append("llmops quantize --method gptq: about 30 % of the weights")
    found += _more_gpus(request, best)
    return tuple(found) or ("no single change is enough: a smaller model, or GPUs with more memory",)


def _fits(request: Request, best: Candidate, **changes: str | float) -> bool:
    setting = replace(best.setting, **changes)  # type: ignore[arg-type]  # each change is of its field's type
    memory, cache = account(request.facts, setting, request.gpu.total_gib, request.row)
    need = kv.request_bytes(cache, setting.max_model_len, setting.max_num_batched_tokens) / 2**30
    loads = loading_gib(request, setting) <= free_at_start(request, best.split)
    return loads and memory.kv_cache_gib >= need


def _more_gpus(request: Request, best: Candidate) -> list[str]:
    tp = best.setting.tensor_parallel
    for degree in (2, 4, 8, 16):
        valid = degree > tp and tensor_parallel_obstacle(request.facts, degree) is None
        # Weights stated for one GPU say nothing of what they are when split further.
        if valid and request.spec.weights_gib is None and _fits(request, best, tensor_parallel=degree):
            return [f"{degree} such GPUs with tensor parallelism"]
    return []
