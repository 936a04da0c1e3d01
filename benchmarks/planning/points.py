"""Compare the planner with memory reports of real vLLM starts.

    python benchmarks/planning/points.py POINTS.jsonl [--leave-one-out] [--json]

Each line of POINTS.jsonl is one start: ``model``, ``engine`` ("vLLM 0.19.0"), ``gpu``, ``gpu_total_gib``, ``tp``, ``pp``,
``gpu_memory_utilization``, ``max_model_len``, ``dtype``, ``quantization``, ``kv_cache_dtype``, and what the log said:
``weights_gib``, ``activation_peak_gib``, ``non_torch_gib``, ``kv_cache_gib``, ``kv_tokens``. Model facts come from
``models/*.json`` beside this script (config.json fields), never from the points. Two errors are shown for the KV cache:
with the logged weights given (``--weights-gib``), and from the model's files alone. With ``--leave-one-out`` each model is
planned with coefficients that were found from the other models' points (``left_out.py``).

Every point is also planned with its context and its share of the card left to the planner, and that plan is put to vLLM's
own two checks (what is free at the start, and room for one request) with the figures of the log, not of the plan.
"""

from __future__ import annotations

import argparse
import json
import re
import statistics
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from known_models import find_model, load_models
from left_out import Start, planned_with, refit
from start_check import why_refused

from llmops.checkpoint.facts import ModelFacts
from llmops.errors import LlmopsError
from llmops.hardware.host import Host
from llmops.hardware.paper import host_from_gpus
from llmops.planning.coefficients import coefficients
from llmops.planning.plan import plan
from llmops.planning.types import ModelPlan, PlanSpec


@dataclass(frozen=True)
class Row:
    """One point with the planner's answers and their errors in percent; None where the log does not say.

    ``refused``: why vLLM would not start one of the plans, None when it would start all.
    """

    id: str
    model: str
    setting: str
    kv_gib: float
    given_gib: float | None
    given_error: float | None
    alone_gib: float | None
    alone_error: float | None
    weights_error: float | None
    activation: str
    bytes_error: float | None
    tokens_error: float | None
    refused: str | None


def main() -> int:
    """Print the table; exit 1 when a mean error is above its target."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("points", type=Path)
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--leave-one-out", action="store_true", help="coefficients from the other models' points only")
    options = parser.parse_args()
    rows, skipped = evaluate(options.points, leave_one_out=options.leave_one_out)
    summary = summarise(rows)
    if options.json:
        json.dump({"summary": summary, "rows": [vars(row) for row in rows], "skipped": skipped}, sys.stdout, indent=1)
        return 0 if summary["ok"] else 1
    _print(rows)
    for point_id, why in skipped:
        print(f"  skipped {point_id}: {why}")
    for name, value in summary.items():
        print(f"{name:34} {value}")
    return 0 if summary["ok"] else 1


def evaluate(path: Path, *, leave_one_out: bool = False) -> tuple[list[Row], list[tuple[str, str]]]:
    """All points that say enough to be planned, and why the others do not."""
    starts: list[Start] = []
    skipped: list[tuple[str, str]] = []
    with tempfile.TemporaryDirectory() as scratch:
        known = load_models(Path(scratch))
        for line in path.read_text(encoding="utf-8").splitlines():
            point = json.loads(line)
            try:
                starts.append(started(point, known))
            except (LookupError, LlmopsError) as error:
                skipped.append((point["id"], str(error)))
    if not leave_one_out:
        return [compare(start) for start in starts], skipped
    return [left_out(start, starts, skipped) for start in starts], skipped


def left_out(start: Start, starts: list[Start], skipped: list[tuple[str, str]]) -> Row:
    """One point with coefficients from the starts of other models."""
    row = refit(start.row, [other for other in starts if other.shape != start.shape])
    if row is None:
        skipped.append((start.point["id"], "no other model's start of these versions: planned with the row as it is"))
        return compare(start)
    with planned_with(row):
        return compare(start)


def started(point: dict[str, Any], known: dict[str, ModelFacts]) -> Start:
    """A point with its model's facts and its plan.

    Raises:
        LookupError: It does not say enough, or its model is not known.
    """
    for field in ("kv_cache_gib", "gpu_total_gib", "gpu_memory_utilization", "tp"):
        if point.get(field) is None:
            raise LookupError(f"the point does not state {field}")
    facts, host = find_model(point["model"], known), _host(point)
    version = _spec(point).engine_version
    row = coefficients(version, host.gpus[0].compute_capability)
    return Start(point, facts, plan(_spec(point), [facts], host).models[0], row)


def compare(start: Start) -> Row:
    """Plan one point twice and compare."""
    point, host = start.point, _host(start.point)
    alone = plan(_spec(point), [start.facts], host).models[0]
    given = None
    if point.get("weights_gib"):
        # With a pipeline the fullest stage decides; logs that state both give it as what was loaded.
        weights = point.get("model_load_gib") or point["weights_gib"]
        given = plan(_spec(point, weights), [start.facts], host).models[0]
    logged = float(point["kv_cache_gib"])
    per_token = logged * 2**30 / point["kv_tokens"] if point.get("kv_tokens") else None
    return Row(
        id=point["id"],
        model=point["model"].split("/")[-1][:36],
        setting=f"{point['engine'].removeprefix('vLLM ')} TP{point['tp']} PP{point.get('pp') or 1}",
        kv_gib=logged,
        given_gib=given.memory.kv_cache_gib if given else None,
        given_error=_error(given.memory.kv_cache_gib, logged) if given else None,
        alone_gib=alone.memory.kv_cache_gib,
        alone_error=_error(alone.memory.kv_cache_gib, logged),
        weights_error=_error(alone.memory.weights_gib, point.get("model_load_gib") or point.get("weights_gib")),
        activation=f"{alone.memory.activation_gib:.2f}/{point.get('activation_peak_gib')}",
        bytes_error=_error(alone.memory.kv_bytes_per_token, per_token) if (point.get("pp") or 1) == 1 else None,
        tokens_error=_error(_exact(alone, logged, point), point.get("kv_tokens")),
        refused=why_refused(start, (_spec(point), *_free_specs(point)), host),
    )


def _free_specs(point: dict[str, Any]) -> Iterator[PlanSpec]:
    """The same start with the context and the share of the card left to the planner."""
    for goal in ("throughput", "context"):
        yield _spec(point).model_copy(update={"max_model_len": None, "gpu_memory_utilization": None, "goal": goal})


def _exact(chosen: ModelPlan, logged: float, point: dict[str, Any]) -> float | None:
    """Tokens that the logged GiB would give at the planned bytes a token."""
    if (point.get("pp") or 1) != 1:
        return None
    return logged * 2**30 / chosen.memory.kv_bytes_per_token if chosen.memory.kv_bytes_per_token else None


def _spec(point: dict[str, Any], weights_gib: float | None = None) -> PlanSpec:
    online = point.get("flags", {}).get("quantization")
    dtype = point.get("dtype") or "auto"
    cache = point.get("kv_cache_dtype") or "auto"
    return PlanSpec(
        engine="vllm",
        engine_version=re.sub(r"^vLLM\s*", "", point["engine"]) or None,
        tensor_parallel=point["tp"],
        pipeline_parallel=point.get("pp") or 1,
        replicas=1,
        max_model_len=point.get("max_model_len"),
        gpu_memory_utilization=point["gpu_memory_utilization"],
        max_num_seqs=point.get("max_num_seqs") or point.get("flags", {}).get("max_num_seqs"),
        max_num_batched_tokens=point.get("max_num_batched_tokens"),
        dtype=dtype if dtype in ("bfloat16", "float16", "float32") else "auto",
        kv_cache_dtype=cache if cache.startswith("fp8") else "auto",
        quantization=online,
        weights_gib=weights_gib,
        enforce_eager=bool(point.get("flags", {}).get("enforce_eager")),
    )


def _host(point: dict[str, Any]) -> Host:
    name = re.sub(r",|datacenter", "", str(point["gpu"]))
    count = point["tp"] * (point.get("pp") or 1)
    size = f"{point['gpu_total_gib']}GiB"
    try:
        return host_from_gpus(f"{name}:{size}*{count}")
    except LlmopsError:
        return host_from_gpus(f"H100-80GB:{size}*{count}")


def _error(planned: float | None, logged: float | None) -> float | None:
    return None if planned is None or not logged else round(100 * (planned - logged) / logged, 2)


def summarise(rows: list[Row]) -> dict[str, Any]:
    """Mean absolute errors in percent, and whether they are within the targets (3, 6 and 0.1)."""

    def mean(values: Iterator[float | None]) -> float | None:
        kept = [abs(value) for value in values if value is not None]
        return round(statistics.mean(kept), 3) if kept else None

    given, alone = mean(row.given_error for row in rows), mean(row.alone_error for row in rows)
    per_token = [abs(row.bytes_error) for row in rows if row.bytes_error is not None]
    return {
        "points": len(rows),
        "KV GiB error %, weights given": given,
        "KV GiB error %, files alone": alone,
        "weights error %": mean(row.weights_error for row in rows),
        "KV bytes a token, worst error %": max(per_token, default=None),
        "KV bytes a token, within 0.1 %": f"{sum(error <= 0.1 for error in per_token)} of {len(per_token)}",
        "plans that vLLM would refuse": sum(row.refused is not None for row in rows),
        "ok": (given or 0) <= 3 and (alone or 0) <= 6 and not any(row.refused for row in rows),
    }


def _print(rows: list[Row]) -> None:
    print(
        f"{'id':6}{'model':38}{'setting':22}{'KV':>7}{'given':>8}{'%':>8}{'alone':>8}{'%':>8}{'w %':>7}{'act':>12}{'B/tok %':>9}"
    )
    for row in rows:
        numbers = (row.given_gib, row.given_error, row.alone_gib, row.alone_error, row.weights_error)
        given, given_error, alone, alone_error, weights = (f"{n:.2f}" if n is not None else "-" for n in numbers)
        per_token = f"{row.bytes_error:.2f}" if row.bytes_error is not None else "-"
        print(
            f"{row.id:6}{row.model:38}{row.setting:22}{row.kv_gib:7.2f}{given:>8}{given_error:>8}{alone:>8}{alone_error:>8}"
            f"{weights:>7}{row.activation:>12}{per_token:>9}"
        )
        if row.refused:
            print(f"      vLLM would refuse a plan: {row.refused}")


if __name__ == "__main__":
    raise SystemExit(main())
