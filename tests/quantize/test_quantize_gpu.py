"""The same commands on a CUDA device: quantise and judge there, serve with vLLM. Run with ``pytest -m gpu``."""

import sys
from pathlib import Path

import openai
import pytest

sys.path.insert(0, str(Path(__file__).parents[1] / "serve"))

from serve_process import serving

pytestmark = [pytest.mark.gpu, pytest.mark.slow]

TEXT = ("--samples", "32", "--seq-len", "256", "--chunks", "4")
FRANCE = "Question: What is the capital of France?\nAnswer:"


@pytest.fixture(scope="session")
def gpu():
    """The first usable GPU, or a reason to skip."""
    from llmops.hardware.detect import detect

    gpus = detect().usable_gpus
    if not gpus:
        pytest.skip("no usable NVIDIA GPU on this machine")
    return gpus[0]


@pytest.fixture
def quantise(llmops, gpu, small_model, tmp_path, request):
    """Quantise on the GPU with the engine's environment at hand; gives the result and where it is."""

    def run(*options):
        env = None
        if any(word in options for word in ("w8a8", "fp8", "awq", "llmcompressor")):
            env = request.getfixturevalue("llmcompressor_environment")
        device = ("--device", f"cuda:{gpu.index}")
        out = tmp_path / "out"
        result = llmops("quantize", small_model, "-o", out, *options, *device, "--json", env=env, timeout=1800)
        assert result.code in (0, 1), result.stderr
        return result.json, Path(result.json["data"]["out"])

    return run


@pytest.mark.parametrize(
    "options",
    [
        ("--method", "gptq", "--bits", "4", *TEXT),
        ("--method", "gptq", "--bits", "8", *TEXT),
        ("--method", "gptq", "--engine", "llmcompressor", *TEXT),
        ("--method", "awq", *TEXT),
        ("--method", "w8a8", "--chunks", "4"),
        ("--method", "fp8", "--chunks", "4"),
        ("--method", "bnb-nf4", "--chunks", "4"),
        ("--method", "bnb-int8", "--chunks", "4"),
    ],
    ids=lambda options: "-".join(options[1:4:2]),
)
def test_each_method_runs_and_is_judged_on_the_gpu(quantise, gpu, options):
    document, out = quantise(*options)
    data = document["data"]
    assert data["device"] == f"cuda:{gpu.index}"
    assert data["device_peak_bytes"] > 0
    assert data["quality"]["tokens"] > 1000
    assert data["gate"]["passed"] is (not out.name.endswith(".rejected"))
    if data["bits"] == 8:
        assert data["gate"]["passed"] is True


def test_the_default_method_follows_the_gpu_and_vllm_serves_it(
    quantise, gpu, llmops, tmp_path, vllm_environment, request
):
    request.getfixturevalue("llmcompressor_environment")
    document, out = quantise("--target", "vllm", *TEXT)
    expected = "fp8" if gpu.compute_capability >= (8, 9) else "gptq"
    assert document["data"]["method"] == expected
    assert document["data"]["serve_command"].endswith("--engine vllm")
    with (
        serving(tmp_path, out, "--engine", "vllm", "--name", "made", env=vllm_environment, seconds=900) as served,
        openai.OpenAI(base_url=served.url + "/v1", api_key="none", max_retries=0, timeout=120) as client,
    ):
        answer = client.completions.create(model="made", prompt=FRANCE, max_tokens=8, temperature=0)
        assert answer.choices[0].text.strip()


def test_evaluate_runs_on_the_gpu_by_itself(llmops, gpu, small_model):
    result = llmops("evaluate", small_model, "--against", small_model, "--chunks", "2", "--json", timeout=600)
    assert result.code == 0, result.stderr
    assert result.json["data"]["conditions"]["device"] == f"cuda:{gpu.index}"
    assert result.json["data"]["quality"]["kl_mean"] < 0.01


def test_a_device_that_is_not_there_is_refused(llmops, gpu, small_model, tmp_path):
    result = llmops("quantize", small_model, "-o", tmp_path / "out", "--method", "bnb-nf4", "--device", "cuda:99")
    assert result.code == 3
    assert "no usable GPU" in result.stderr
    assert list(tmp_path.iterdir()) == []
