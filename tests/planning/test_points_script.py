"""The script that compares the planner with logged starts, on starts that are made up with other coefficients than ours."""

import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
from paper_models import facts

from llmops.hardware.paper import host_from_gpus
from llmops.planning.coefficients import coefficients
from llmops.planning.memory import Setting, account

SCRIPT = Path(__file__).parents[2] / "benchmarks" / "planning" / "points.py"
TOTAL_GIB = host_from_gpus("H100-80GB").gpus[0].total_gib
# An engine whose sampler and whose context outside PyTorch take more than ours say.
OTHER = replace(coefficients("0.19.0"), sampler_bytes=21.0, non_torch_gib=(0.6, 2.6, 0.6))


def start(name: str, model: str, **changes) -> dict:
    setting = Setting(
        tensor_parallel=1, pipeline_parallel=1, dtype="bfloat16", kv_cache_dtype="auto", online_quantization=None,
        max_model_len=8192, max_num_seqs=1024, max_num_batched_tokens=8192, utilization=0.95, enforce_eager=False,
    )  # fmt: skip
    memory, _ = account(facts(model), setting, TOTAL_GIB, OTHER)
    return {
        "id": name, "model": model, "engine": "vLLM 0.19.0", "gpu": "H100 80GB", "gpu_total_gib": TOTAL_GIB, "tp": 1,
        "gpu_memory_utilization": 0.95, "max_model_len": 8192, "max_num_batched_tokens": 8192, "dtype": "bfloat16",
        "weights_gib": memory.weights_gib, "activation_peak_gib": memory.activation_gib, "pp": 1,
        "non_torch_gib": memory.non_torch_gib, "kv_cache_gib": memory.kv_cache_gib, "free_at_start_gib": 78.5, **changes,
    }  # fmt: skip


@pytest.fixture
def compared(tmp_path):
    def run(points, *options):
        file = tmp_path / "points.jsonl"
        file.write_text("\n".join(map(json.dumps, points)))
        command = [sys.executable, str(SCRIPT), str(file), "--json", *options]
        result = subprocess.run(command, capture_output=True, text=True, check=False)
        assert result.returncode in (0, 1), result.stderr
        return json.loads(result.stdout)

    return run


MODELS = ("llama-3.1-8b-instruct", "qwen2.5-7b-instruct", "phi-4", "gemma-3-4b-it")


def test_left_out_models_are_planned_with_what_the_others_tell(compared):
    points = [start(f"p{number}", model) for number, model in enumerate(MODELS)]
    ours, left_out = compared(points), compared(points, "--leave-one-out")
    error = "KV GiB error %, weights given"
    assert ours["summary"][error] > 1, "the made-up engine differs from ours"
    assert left_out["summary"][error] < 0.05, "and is found from the other models' starts"


def test_a_model_is_left_out_with_all_that_is_made_of_it(compared):
    """Two settings of one model teach nothing about it: its row stays as it is, and that is said."""
    points = [start("a", MODELS[0]), start("b", MODELS[0], max_model_len=4096)]
    found = compared(points, "--leave-one-out")
    assert [skipped[0] for skipped in found["skipped"]] == ["a", "b"]
    assert found["summary"] == compared(points)["summary"]


def test_a_plan_that_the_engine_would_refuse_is_counted(compared):
    assert compared([start("good", MODELS[0])])["summary"]["plans that vLLM would refuse"] == 0
    tight = start("tight", MODELS[0], kv_cache_gib=0.9)
    occupied = start("occupied", MODELS[0], free_at_start_gib=60)
    found = compared([tight, occupied])
    assert found["summary"]["plans that vLLM would refuse"] == 2
    assert not found["summary"]["ok"]
    why = [row["refused"] for row in found["rows"]]
    assert "needs 1.00 GiB, the log leaves 0.90" in why[0]
    assert "of 60 GiB free at the start" in why[1]
