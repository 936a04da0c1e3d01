"""Compare the planner with memory reports of real vLLM starts.

    python benchmarks/planning/points.py POINTS.jsonl [--all] [--json]

Each line of POINTS.jsonl is one start: ``model``, ``engine`` ("vLLM 0.19.0"), ``gpu``, ``gpu_total_gib``, ``tp``, ``pp``,
``gpu_memory_utilization``, ``max_model_len``, ``dtype``, ``quantization``, ``kv_cache_dtype``, and what the log said:
``weights_gib``, ``activation_peak_gib``, ``non_torch_gib``, ``kv_cache_gib``, ``kv_tokens``. Model facts come from
``models/*.json`` beside this script (config.json fields), never from the points. Two errors are shown for the KV cache:
with the logged weights given (``--weights-gib``), and from the model's files alone.
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

from llmops.checkpoint.facts import ModelFacts
from llmops.checkpoint.reader import read_model
from llmops.errors import LlmopsError
from llmops.hardware.host import Host
from llmops.hardware.paper import host_from_gpus
from llmops.planning.plan import plan
from llmops.planning.types import ModelPlan, PlanSpec

HERE = Path(__file__).resolve().parent


@dataclass(frozen=True)
class Row:
    """One point with the planner's answers and their errors in percent; None where the log does not say."""

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


def main() -> int:
    """Print the table; exit 1 when a mean error is above its target."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("points", type=Path)
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    rows, skipped = evaluate(options.points)
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


def evaluate(path: Path) -> tuple[list[Row], list[tuple[str, str]]]:
    """All points that say enough to be planned, and why the others do not."""
    rows: list[Row] = []
    skipped: list[tuple[str, str]] = []
    with tempfile.TemporaryDirectory() as scratch:
        known = load_models(Path(scratch))
        for line in path.read_text(encoding="utf-8").splitlines():
            point = json.loads(line)
            try:
                rows.append(compare(point, known))
            except (LookupError, LlmopsError) as error:
                skipped.append((point["id"], str(error)))
    return rows, skipped


def load_models(scratch: Path) -> dict[str, ModelFacts]:
    """Facts by model name, each read from a directory that has only a config.json."""
    found: dict[str, ModelFacts] = {}
    for file in sorted((HERE / "models").glob("*.json")):
        entry = json.loads(file.read_text(encoding="utf-8"))
        directory = scratch / file.stem
        directory.mkdir()
        (directory / "config.json").write_text(json.dumps(entry["config"]), encoding="utf-8")
        facts = read_model(directory)
        found |= {key: facts for name in entry["models"] for key in (name.lower(), name.lower().split("/")[-1])}
    return found


def find_model(name: str, known: dict[str, ModelFacts]) -> ModelFacts:
    """Facts for a point's model name, which may carry a remark in brackets.

    A name that is in no file may still be the base or a tuned form of one that is, which has the same shape, or such a
    model quantised, which its name then says.
    """
    plain = re.sub(r"\s*\(.*\)$", "", name).strip().lower()
    for key in (plain, plain.split("/")[-1]):
        if key in known:
            return known[key]
    family, method = _family(plain)
    for key, facts in known.items():
        if (facts.quantization is None or method is None) and _family(key)[0] == family:
            return facts if method is None or facts.quantization else _quantised(facts, method)
    raise LookupError(f"no facts of {name!r}")


# Words of a name that do not change a model's shape.
_TUNED = {"instruct", "it", "pt", "chat", "hf", "base", "meta", "thinking", "preview", "2507", "0528"}
# Words that say how a model is quantised -> files whose quantisation is meant.
_METHODS = {
    "awq": "qwen2.5-72b-instruct-awq",
    "w4a16": "llama-3.3-70b-instruct-quantized.w4a16",
    "gptq": "llama-3.3-70b-instruct-quantized.w4a16",
    "w8a8": "llama-3.3-70b-instruct-quantized.w8a8",
    "fp8": "qwen2.5-7b-instruct-fp8-dynamic",
}


def _family(name: str) -> tuple[frozenset[str], str | None]:
    """Words of a name that tell its shape, and how it is quantised."""
    words = set(re.split(r"[-_. ]+", name.rsplit("/", maxsplit=1)[-1]))
    method = next((method for method in _METHODS if method in words), None)
    noise = {"quantized", "dynamic", "int4", "int8", "marlin", "block", method or ""}
    return frozenset(words - _TUNED - (noise if method else set())), method


def _quantised(facts: ModelFacts, method: str) -> ModelFacts:
    """The same model quantised as others of this kind are."""
    models = {
        file.stem: json.loads(file.read_text(encoding="utf-8"))["config"] for file in (HERE / "models").glob("*.json")
    }
    config = next(each for stem, each in models.items() if stem == facts.name)
    with tempfile.TemporaryDirectory() as scratch:
        config["quantization_config"] = models[_METHODS[method]]["quantization_config"]
        (Path(scratch) / "config.json").write_text(json.dumps(config), encoding="utf-8")
        return read_model(Path(scratch))


def compare(point: dict[str, Any], known: dict[str, ModelFacts]) -> Row:
    """Plan one point twice and compare."""
    for field in ("kv_cache_gib", "gpu_total_gib", "gpu_memory_utilization", "tp"):
        if point.get(field) is None:
            raise LookupError(f"the point does not state {field}")
    facts = find_model(point["model"], known)
    host = _host(point)
    alone = plan(_spec(point), [facts], host).models[0]
    given = None
    if point.get("weights_gib"):
        # With a pipeline the fullest stage decides; logs that state both give it as what was loaded.
        weights = point.get("model_load_gib") or point["weights_gib"]
        given = plan(_spec(point, weights), [facts], host).models[0]
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
    )


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
        "ok": (given or 0) <= 3 and (alone or 0) <= 6,
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


if __name__ == "__main__":
    raise SystemExit(main())
