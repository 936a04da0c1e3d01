"""How well the planner does on a model that its coefficients have never seen.

The coefficients of ``llmops/planning/coefficients.py`` were chosen with an eye on such logs. Here each model's points are
taken out in turn (quantised twins and all settings of one shape together, since they repeat each other), the coefficients
that logs can tell are found anew from the other points alone, and the points that were left out are planned with those.

Found anew, for each row of versions: bytes of the sampler, the scale of the forward pass, memory outside PyTorch on one
GPU, with tensor parallelism and with a pipeline only. The form of each formula is not; nor is a row of which no other point
exists: that one is left as it is, and counted in ``kept``.
"""

from __future__ import annotations

import statistics
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any
from unittest import mock

from llmops.checkpoint.facts import ModelFacts
from llmops.planning.coefficients import Coefficients, coefficients
from llmops.planning.memory import Setting, activation_peak
from llmops.planning.types import ModelPlan


@dataclass(frozen=True)
class Start:
    """One logged start with what was planned for it."""

    point: dict[str, Any]
    facts: ModelFacts
    plan: ModelPlan
    row: Coefficients

    @property
    def shape(self) -> tuple[int, int, int, int]:
        """The same for all that is made from one model."""
        return self.facts.hidden, self.facts.layers, self.facts.vocab, self.facts.intermediate

    @property
    def setting(self) -> Setting:
        """What its memory depends on."""
        plan = self.plan
        return Setting(
            tensor_parallel=plan.tensor_parallel,
            pipeline_parallel=plan.pipeline_parallel,
            dtype=plan.dtype,
            kv_cache_dtype=plan.kv_cache_dtype,
            online_quantization=plan.quantization if self.facts.quantization is None else None,
            max_model_len=plan.max_model_len,
            max_num_seqs=plan.max_num_seqs,
            max_num_batched_tokens=plan.max_num_batched_tokens,
            utilization=plan.gpu_memory_utilization or 0.9,
            enforce_eager=plan.enforce_eager,
        )

    def peak_error(self, row: Coefficients) -> float:
        """GiB by which a row misses the logged peak."""
        return activation_peak(self.facts, self.setting, row)[0] - float(self.point["activation_peak_gib"])


def refit(row: Coefficients, others: list[Start]) -> Coefficients | None:
    """The row as the other starts alone would give it; None when there are none of it."""
    others = [start for start in others if start.row.since == row.since]
    # On other stages than the last the peak is smaller; the logs do not say whose it is.
    peaks = [one for one in others if one.point.get("activation_peak_gib") and one.plan.pipeline_parallel == 1]
    if not peaks:
        return None
    per_hidden, per_inner, base = row.forward
    # The search begins away from what is known: a logit in float32, and a quarter of the forward pass.
    fitted = replace(row, sampler_bytes=4.0, forward=(1.0, per_inner / per_hidden, base))
    for _ in range(3):
        fitted = _best(fitted, peaks, _sampler_steps)
        fitted = _best(fitted, peaks, _forward_steps)
    kinds = [
        [
            float(start.point["non_torch_gib"])
            for start in others
            if _kind(start) == kind and start.point["non_torch_gib"]
        ]
        for kind in range(3)
    ]
    known = [statistics.median(values) for values in kinds if values]
    # A kind of which nothing is known: as on one GPU, or as what is known.
    one, tensor, pipeline = (statistics.median(values) if values else known[0] for values in kinds)
    return replace(fitted, non_torch_gib=(one, tensor, pipeline))


def _kind(start: Start) -> int:
    return 1 if start.plan.tensor_parallel > 1 else 2 if start.plan.pipeline_parallel > 1 else 0


def _best(row: Coefficients, starts: list[Start], steps: Callable[[Coefficients, Start], Coefficients]) -> Coefficients:
    """The row with the least sum of absolute errors, among those that meet one start exactly."""
    tried = [row, *(steps(row, start) for start in starts)]
    return min(tried, key=lambda each: sum(abs(start.peak_error(each)) for start in starts))


def _sampler_steps(row: Coefficients, start: Start) -> Coefficients:
    """With the sampler's bytes that would explain this start's peak alone."""
    entries = start.plan.max_num_seqs * start.facts.vocab / 2**30
    only = replace(row, forward=(0.0, 0.0, 0.0))
    return replace(row, sampler_bytes=max(0.0, row.sampler_bytes - start.peak_error(only) / entries))


def _forward_steps(row: Coefficients, start: Start) -> Coefficients:
    """With the forward pass scaled so that it would explain this start's peak alone."""
    per_hidden, per_inner, base = row.forward
    bare = replace(row, sampler_bytes=-1000.0)  # never the larger one
    unscaled = start.peak_error(replace(bare, forward=(0.0, 0.0, base)))
    scaled = start.peak_error(bare) - unscaled
    scale = -unscaled / scaled if scaled > 0 else 1.0
    return replace(row, forward=(per_hidden * max(0.1, scale), per_inner * max(0.1, scale), base))


@contextmanager
def planned_with(row: Coefficients) -> Iterator[None]:
    """Plans made in the block use this row for its versions."""

    def chosen(version: str | None, capability: tuple[int, int] | None = None) -> Coefficients:
        found = coefficients(version, capability)
        return row if found.since == row.since else found

    with mock.patch("llmops.planning.candidates.coefficients", chosen):
        yield
