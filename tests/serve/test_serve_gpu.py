"""A model on a real GPU: planned, started, measured, planned again. Needs a CUDA device and vLLM's CUDA build."""

import json
import signal

import openai
import pytest
from serve_process import serving

pytestmark = [pytest.mark.gpu, pytest.mark.slow]
FRANCE = "Question: What is the capital of France?\nAnswer:"


def run(tmp_path, model, vllm_environment, *args):
    """Serve once, ask once, stop; returns the report."""
    report = tmp_path / "report.json"
    with (
        report.open("wb") as out,
        serving(
            tmp_path, model, "--engine", "vllm", "--name", "real", "--json", *args, env=vllm_environment, seconds=900,
            stdout=out,
        ) as served,
    ):  # fmt: skip
        with openai.OpenAI(base_url=served.url + "/v1", api_key="none", max_retries=0, timeout=120) as client:
            answer = client.completions.create(model="real", prompt=FRANCE, max_tokens=8, temperature=0)
            assert "Paris" in answer.choices[0].text
        assert served.stop(signal.SIGTERM) == 143
        served.nothing_left()
        stderr = served.stderr()
    return json.loads(report.read_text())["data"], stderr


def off(report) -> float:
    """By how much the cache was planned wrongly, as a share of what the engine made."""
    (cache,) = [term for term in report["memory"] if term["name"] == "kv_cache_gib"]
    return abs(cache["planned"] / cache["reported"] - 1)


def test_a_start_is_as_planned_and_the_next_plan_of_it_is_exact(small_model, tmp_path, vllm_environment):
    first, _ = run(tmp_path, small_model, vllm_environment, "--max-model-len", "2048")
    assert off(first) < 0.10
    assert (tmp_path / "state" / "calibration.jsonl").is_file()
    second, _ = run(tmp_path, small_model, vllm_environment, "--max-model-len", "2048")
    assert off(second) < 0.02


def test_a_context_that_is_too_long_is_healed_on_the_gpu(small_model, tmp_path, vllm_environment):
    _, stderr = run(tmp_path, small_model, vllm_environment, "--", "--max-model-len", "999999")
    assert "trying again with --max-model-len" in stderr


def test_more_memory_than_is_free_is_refused_before_the_start(llmops, small_model, vllm_environment):
    result = llmops(
        "serve", small_model, "--engine", "vllm", "--gpu-memory-utilization", "1.0", "--port", 0, env=vllm_environment
    )
    assert result.code == 3, result.stderr
    assert "does not fit" in result.stderr
