"""The main job as a user runs it: the shipped recipe on the real small model, then its result behind two engines."""

import signal
import sys
from pathlib import Path

import openai
import pytest

sys.path.insert(0, str(Path(__file__).parents[1] / "serve"))

from serve_process import serving

pytestmark = pytest.mark.slow

REPO = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def quickstart(tmp_path_factory, llmops, small_gguf, model_cache):
    workplace = tmp_path_factory.mktemp("quickstart")
    result = llmops(
        "run", REPO / "recipes" / "quickstart.yaml", "--json",
        cwd=workplace, env={"LLMOPS_CACHE_DIR": str(model_cache)}, timeout=1500,
    )  # fmt: skip
    assert result.code == 0, result.stderr
    return workplace / "runs" / "quickstart", result


def test_every_step_answers_yes_from_real_numbers(quickstart):
    run, result = quickstart
    steps = {step["verb"]: step for step in result.json["data"]["steps"]}
    assert all(step["ok"] for step in result.json["data"]["steps"])
    quality = steps["quantize"]["data"]["quality"]
    assert 0.01 < quality["kl_mean"] < 0.3
    assert 1.0 < quality["ppl_ratio"] < 1.25
    assert quality["tokens"] > 1000
    sizes = steps["quantize"]["data"]["sizes"]
    assert sizes["after_bytes"] < 0.8 * sizes["before_bytes"]
    assert "Paris" in steps["chat"]["data"][0]["answer"]
    assert steps["bench"]["data"]["counts"]["failed"] == 0
    assert steps["diagnose"]["data"]["status"] == "healthy"
    assert (run / "report.html").read_text().count("<svg") >= 3


def test_the_quantised_model_answers_the_official_client(quickstart, tmp_path):
    run, _ = quickstart
    with serving(tmp_path, run / "quantized", "--engine", "transformers", "--name", "q", seconds=300) as served:
        with openai.OpenAI(base_url=served.url + "/v1", api_key="none", max_retries=0, timeout=120) as client:
            question = [{"role": "user", "content": "What is the capital of France?"}]
            answer = client.chat.completions.create(model="q", messages=question, max_tokens=12, temperature=0)
        assert "Paris" in answer.choices[0].message.content
        assert served.stop(signal.SIGTERM) == 143
        served.nothing_left()


def test_the_quantised_model_answers_on_vllm(quickstart, tmp_path, vllm_environment):
    run, _ = quickstart
    with (
        serving(
            tmp_path, run / "quantized", "--engine", "vllm", "--name", "q", "--max-model-len", "2048",
            "--kv-cache-gib", "1", env=vllm_environment, seconds=600,
        ) as served,
        openai.OpenAI(base_url=served.url + "/v1", api_key="none", max_retries=0, timeout=300) as client,
    ):  # fmt: skip
        question = [{"role": "user", "content": "What is the capital of France?"}]
        answer = client.chat.completions.create(model="q", messages=question, max_tokens=12, temperature=0)
        assert "Paris" in answer.choices[0].message.content
