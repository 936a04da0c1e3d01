"""The real small model through every method, as a user runs it. Verdicts of 8 bit are passes; of 4 bit, stated."""

import json
import os
import subprocess
from pathlib import Path

import pytest

pytestmark = pytest.mark.slow
pytest.importorskip("gptqmodel", reason="pip install 'llmops[gptq]'")
pytest.importorskip("bitsandbytes", reason="pip install 'llmops[bnb]'")

TEXT = ("--samples", "32", "--seq-len", "256", "--chunks", "4")


def interpreter_of(engine: str) -> Path | None:
    """The engine's own environment where it is installed."""
    from llmops.engines import environments
    from llmops.errors import LlmopsError

    try:
        return environments.interpreter(engine)
    except LlmopsError:
        return None


@pytest.fixture(scope="module")
def quantised(llmops, small_model, tmp_path_factory):
    """Quantise once for each set of options; gives the JSON document and the directory of the result."""
    made = {}

    def run(*options):
        if options not in made:
            out = tmp_path_factory.mktemp("real") / "out"
            result = llmops("quantize", small_model, "-o", out, *options, "--json", timeout=1800)
            assert result.code in (0, 1), result.stderr
            made[options] = (result.json, Path(result.json["data"]["out"]), result.code)
        return made[options]

    return run


@pytest.mark.parametrize(
    ("options", "passes", "largest_kl"),
    [
        (("--method", "gptq", "--bits", "8", *TEXT), True, 0.02),
        (("--method", "bnb-int8", "--chunks", "4"), True, 0.06),
        (("--method", "gptq", "--bits", "4", *TEXT), None, 0.35),
        (("--method", "bnb-nf4", "--chunks", "4"), None, 0.6),
    ],
)
def test_quality_of_a_method(quantised, options, passes, largest_kl):
    document, out, code = quantised(*options)
    data = document["data"]
    assert data["quality"]["kl_mean"] < largest_kl
    assert data["sizes"]["after_bytes"] < 0.9 * data["sizes"]["before_bytes"]
    assert data["gate"]["passed"] is (code == 0)
    assert out.is_dir()
    if passes:
        assert code == 0
    assert all(sample["model"] for sample in data["comparison"]["samples"])
    assert set(data["comparison"]["by_language"]) == {"en", "ja"}


def test_more_bits_are_better(quantised):
    four, _, _ = quantised("--method", "gptq", "--bits", "4", *TEXT)
    eight, _, _ = quantised("--method", "gptq", "--bits", "8", *TEXT)
    assert eight["data"]["quality"]["kl_mean"] < four["data"]["quality"]["kl_mean"] / 5


def test_the_plan_foretold_the_size(llmops, quantised, small_model, tmp_path):
    options = ("--method", "gptq", "--bits", "4", *TEXT)
    plan = llmops("quantize", small_model, "-o", tmp_path / "out", *options, "--dry-run", "--json").json["data"]
    made = quantised(*options)[0]["data"]
    assert plan["sizes"]["after_bytes"] == pytest.approx(made["sizes"]["after_bytes"], rel=0.02)
    assert plan["needs"]["memory_bytes"] > 0.8 * made["peak_rss_bytes"]


def test_a_gguf_file_is_converted_first(llmops, small_gguf, tmp_path):
    result = llmops(
        "quantize", small_gguf, "-o", tmp_path / "out", "--method", "bnb-int8", "--no-gate", "--json", timeout=900
    )
    assert result.code == 0, result.stderr
    assert (tmp_path / "out" / "tokenizer.json").is_file()
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


@pytest.mark.skipif(interpreter_of("llmcompressor") is None, reason="llmops engines install llmcompressor")
def test_w8a8_in_its_own_environment(quantised):
    document, out, code = quantised("--method", "w8a8", "--chunks", "4")
    assert code == 0
    assert json.loads((out / "config.json").read_text())["quantization_config"]["quant_method"] == "compressed-tensors"
    assert document["data"]["serve_command"].endswith("--engine vllm")


SERVE = """
import sys
from vllm import LLM, SamplingParams
if __name__ == "__main__":
    model = LLM(sys.argv[1], max_model_len=512, max_num_batched_tokens=512, max_num_seqs=2, enforce_eager=True)
    answer = model.generate(["<bos>Question: What is the capital of France?\\nAnswer:"], SamplingParams(max_tokens=4, temperature=0))
    print("ANSWER", answer[0].outputs[0].text)
"""


@pytest.mark.skipif(interpreter_of("vllm") is None, reason="llmops engines install vllm")
def test_vllm_loads_the_gptq_checkpoint(quantised, tmp_path):
    _, out, _ = quantised("--method", "gptq", "--bits", "4", *TEXT)
    script = tmp_path / "serve.py"
    script.write_text(SERVE)
    env = os.environ | {"VLLM_CPU_KVCACHE_SPACE": "1", "HF_HUB_OFFLINE": "1", "VLLM_LOGGING_LEVEL": "WARNING"}
    done = subprocess.run(
        [interpreter_of("vllm"), script, out], capture_output=True, text=True, env=env, timeout=600, check=False
    )
    assert "ANSWER" in done.stdout, done.stderr[-2000:]


@pytest.mark.gpu
@pytest.mark.parametrize("method", ["gptq", "bnb-nf4", "bnb-int8"])
def test_the_same_commands_on_a_gpu(llmops, small_model, tmp_path, method):
    torch = pytest.importorskip("torch")
    if not torch.cuda.is_available():
        pytest.skip("no CUDA device")
    options = ("--method", method, "--device", "cuda:0", *TEXT)
    result = llmops("quantize", small_model, "-o", tmp_path / "out", *options, "--json", timeout=1800)
    assert result.code in (0, 1), result.stderr
    assert result.json["data"]["device"] == "cuda:0"
    assert result.json["data"]["device_peak_bytes"] > 0
