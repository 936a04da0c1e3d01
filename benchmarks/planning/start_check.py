"""vLLM's own checks at its start, with what a log says of the memory instead of what a plan expects."""

from __future__ import annotations

from collections.abc import Iterable

from left_out import Start

from llmops.errors import LlmopsError
from llmops.hardware.host import Host
from llmops.planning import cache as kv
from llmops.planning.limits import padded_vocab
from llmops.planning.plan import plan
from llmops.planning.types import ModelPlan, PlanSpec


def why_refused(start: Start, specs: Iterable[PlanSpec], host: Host) -> str | None:
    """Why vLLM would not start one of the plans that are said to fit; None when it would start all of them."""
    for spec in specs:
        try:
            found = plan(spec, [start.facts], host).models[0]
        except LlmopsError:
            continue  # the planner itself refuses
        if found.fits and (why := _refusal(start, found)):
            return why
    return None


def _refusal(start: Start, found: ModelPlan) -> str | None:
    point, facts, degree = start.point, start.facts, found.tensor_parallel
    share = found.gpu_memory_utilization or 0.9
    budget = share * float(point["gpu_total_gib"])
    free = point.get("free_at_start_gib")
    if free is not None and budget > free:
        return f"{budget:.2f} GiB of {free} GiB free at the start (utilization {share:g})"
    if (
        facts.heads % degree
        or padded_vocab(facts.vocab) % degree
        or (facts.kv_heads % degree and degree % facts.kv_heads)
    ):
        return f"TP {degree} does not divide the model"
    if facts.context_length and found.max_model_len > facts.context_length:
        return f"a context of {found.max_model_len}, made for {facts.context_length}"
    if found.max_num_batched_tokens < found.max_num_seqs:
        return f"{found.max_num_batched_tokens} batched tokens for {found.max_num_seqs} sequences"
    room = _room_gib(start, found, budget)
    need = _request_gib(start, found)
    if room < need:
        return f"a request of {found.max_model_len} tokens needs {need:.2f} GiB, the log leaves {room:.2f}"
    return None


def _room_gib(start: Start, found: ModelPlan, budget: float) -> float:
    """What the log's cache would be with another share of the card.

    Where the plan also serves fewer sequences, its own formula says by how much the warm-up shrinks.
    """
    point = start.point
    more = budget - float(point["gpu_memory_utilization"]) * float(point["gpu_total_gib"])
    return float(point["kv_cache_gib"]) + more + start.plan.memory.activation_gib - found.memory.activation_gib


def _request_gib(start: Start, found: ModelPlan) -> float:
    cache = kv.layout(
        start.facts,
        tensor_parallel=found.tensor_parallel,
        pipeline_parallel=found.pipeline_parallel,
        kv_bytes=kv.KV_BYTES.get(found.dtype if found.kv_cache_dtype == "auto" else found.kv_cache_dtype, 2.0),
    )
    return kv.request_bytes(cache, found.max_model_len, found.max_num_batched_tokens) / 2**30
