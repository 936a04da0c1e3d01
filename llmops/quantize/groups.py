"""Which group sizes a model's layers allow, whole and divided over tensor-parallel ranks. Pure."""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Final

from llmops.checkpoint.facts import Linear, ModelFacts
from llmops.quantize.estimates import to_quantise

# Layers whose input is divided over tensor-parallel ranks, so that a group must fit into a rank's share.
_ROW_PARALLEL: Final = re.compile(r"(?:^|\.)(?:o_proj|down_proj|out_proj|dense_4h_to_h|fc2|c_proj|w2|wo)$")
_PREFERRED: Final = (128, 64, 32)


def ranks_of(layer: Linear, degree: int) -> int:
    """Over how many ranks the layer's input is divided."""
    return degree if _ROW_PARALLEL.search(layer.name) else 1


def first_misfit(facts: ModelFacts, group: int, degree: int) -> Linear | None:
    """The first layer whose input does not divide into whole groups on each rank; -1 is one group a row."""
    for layer in to_quantise(facts):
        unit = 1 if group == -1 else group
        if layer.in_features % (unit * ranks_of(layer, degree)):
            return layer
    return None


def largest_group(facts: ModelFacts, degrees: Iterable[int]) -> int:
    """The largest usual group that every layer allows at each degree; -1 when none does."""
    asked = [degree for degree in degrees if degree > 0]
    for group in _PREFERRED:
        if all(first_misfit(facts, group, degree) is None for degree in asked):
            return group
    return -1
