"""What the engine itself says of its memory, beside what was planned; kept as calibration for this machine."""

from __future__ import annotations

import json
import re
import time
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Final

from llmops.planning.types import ModelPlan
from llmops.settings import settings

_GIB: Final = r"([\d.]+)\s*GiB"
_LINES: Final[dict[str, re.Pattern[str]]] = {
    "weights_gib": re.compile(rf"Model loading took {_GIB}"),
    "kv_cache_gib": re.compile(rf"Available KV cache memory: {_GIB}"),
    "cudagraph_gib": re.compile(rf"Graph capturing finished in .*?took {_GIB}"),
    "kv_tokens": re.compile(r"(?:GPU|CPU) KV cache size: ([\d,]+) tokens|KV cache holds ([\d,]+) tokens"),
}


@dataclass(frozen=True, slots=True)
class Term:
    """One quantity as planned and as the engine reports it."""

    name: str
    planned: float | None
    reported: float

    @property
    def off_percent(self) -> float | None:
        """By how much the report differs from the plan."""
        return round(100 * (self.reported / self.planned - 1), 1) if self.planned else None


def read_back(lines: Iterable[str], plan: ModelPlan) -> tuple[Term, ...]:
    """Compare an engine's start log with its plan. The first report of each quantity counts."""
    planned = {
        "weights_gib": plan.memory.weights_gib,
        "kv_cache_gib": plan.memory.kv_cache_gib,
        "cudagraph_gib": plan.memory.cudagraph_gib,
        "kv_tokens": float(plan.kv_tokens) if plan.kv_tokens else None,
    }
    found: dict[str, float] = {}
    for line in lines:
        for name, pattern in _LINES.items():
            match = None if name in found else pattern.search(line)
            if match:
                found[name] = float((match[1] or match[2]).replace(",", ""))
    return tuple(Term(name, planned[name], value) for name, value in found.items())


def keep(terms: tuple[Term, ...], plan: ModelPlan, version: str | None, file: Path | None = None) -> None:
    """Append one line to the machine's calibration; a whole line in one write, so that two servers do not mix."""
    if not terms:
        return
    file = file or settings().state_dir / "calibration.jsonl"
    file.parent.mkdir(parents=True, exist_ok=True)
    entry = {
        "at": int(time.time()),
        "model": plan.name,
        "engine": plan.engine,
        "engine_version": version,
        "gpus": len(plan.gpus),
        "tensor_parallel": plan.tensor_parallel,
        "max_model_len": plan.max_model_len,
        "max_num_seqs": plan.max_num_seqs,
        "terms": [asdict(term) for term in terms],
    }
    with file.open("a", encoding="utf-8") as out:
        out.write(json.dumps(entry) + "\n")
