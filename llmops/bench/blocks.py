"""A level cut into blocks of consecutive requests: what comparisons rest on, because requests are not independent.

Requests that run at the same time share the server's state, so a test over single requests calls every drift a change.
A block's median is one observation.
"""

from __future__ import annotations

import itertools
import math
from typing import Any, Final

from llmops.bench import stats
from llmops.bench.samples import Samples

BLOCKS: Final = 10
METRICS: Final = ("ttft_ms", "tpot_ms", "e2e_ms")


def blocks_of(samples: Samples) -> dict[str, list[float]]:
    """Median of each latency in each block, in order of time; at least two requests a block."""
    rows = sorted(samples.ok, key=lambda row: row.at_ns)
    count = min(BLOCKS, len(rows) // 2)
    found: dict[str, list[float]] = {}
    for name in METRICS:
        values = [value for row in rows if (value := getattr(row, name)) is not None]
        if count < 2 or len(values) < 2 * count:
            continue
        edges = [round(i * len(values) / count) for i in range(count + 1)]
        found[name] = [
            round(stats.percentile(sorted(values[low:high]), 0.5), 4) for low, high in itertools.pairwise(edges)
        ]
    return found


def log_means(blocks: dict[str, Any], name: str) -> list[float]:
    """Logarithms of one metric's blocks."""
    return [math.log(value) for value in blocks.get(name, ()) if value > 0]
