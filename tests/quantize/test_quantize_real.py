"""The real small model through every method, as a user runs it: judged, loaded by transformers, served."""

import importlib.util
import json
import subprocess
import sys
from pathlib import Path

import openai
import pytest

sys.path.insert(0, str(Path(__file__).parents[1] / "serve"))

from serve_process import serving

# Not importorskip: importing these takes ten seconds of CPU, and only children use them.
MISSING = [name for name in ("gptqmodel", "bitsandbytes") if importlib.util.find_spec(name) is None]
pytestmark = [pytest.mark.slow, pytest.mark.skipif(bool(MISSING), reason=f"needs {', '.join(MISSING)}")]

TEXT = ("--samples", "32", "--seq-len", "256")
OPTIONS = {
    "gptq-8": ("--method", "gptq", "--bits", "8", *TEXT),
    "gptq-4": ("--method", "gptq", "--bits", "4", "--group-size", "64", *TEXT),
    "bnb-int8": ("--method", "bnb-int8"),
    "bnb-nf4": ("--method", "bnb-nf4"),
    "w8a8": ("--method", "w8a8"),
}
# The model is a base model with a weak memory; this form of the question it answers.
FRANCE = "Question: What is the capital of France?\nAnswer:"


@pytest.fixture(scope="module")
def quantised(llmops, small_model, tmp_path_factory):
    """Quantise once a method; gives the JSON document and the directory of the result."""
    made = {}

    def run(name, env=None):
        if name not in made:
            out = tmp_path_factory.mktemp("real") / name
            options = (*OPTIONS[name], "--chunks", "4", "--json")
            result = llmops("quantize", small_model, "-o", out, *options, env=env, timeout=1800)
            assert result.code in (0, 1), result.stderr
            made[name] = (result, Path(result.json["data"]["out"]))
        return made[name]

    return run


@pytest.mark.parametrize(
    ("name", "passes", "largest_kl"),
    [("gptq-8", True, 0.02), ("bnb-int8", True, 0.06), ("gptq-4", None, 0.35), ("bnb-nf4", None, 0.6)],
)
def test_quality_of_a_method(quantised, name, passes, largest_kl):
    """8 bit passes; 4 bit of so small a model gets a verdict, and the verdict is the exit code."""
    result, out = quantised(name)
    data = result.json["data"]
    assert data["quality"]["kl_mean"] < largest_kl
    assert data["sizes"]["after_bytes"] < 0.9 * data["sizes"]["before_bytes"]
    assert data["gate"]["passed"] is (result.code == 0)
    assert out.name == (name if result.code == 0 else f"{name}.rejected")
    if passes:
        assert result.code == 0
    assert all(sample["model"] for sample in data["comparison"]["samples"])
    assert set(data["comparison"]["by_language"]) == {"en", "ja"}


def test_progress_names_layers_with_their_loss_and_the_time_that_is_left(quantised):
    result, _ = quantised("gptq-4")
    lines = [line for line in result.stderr.splitlines() if "loss" in line]
    assert lines, result.stderr
    assert any("left" in line for line in lines)


def test_more_bits_are_better(quantised):
    four, eight = (quantised(name)[0].json["data"]["quality"]["kl_mean"] for name in ("gptq-4", "gptq-8"))
    assert eight < four / 5


def test_the_plan_foretold_the_size(llmops, quantised, small_model, tmp_path):
    planned = llmops("quantize", small_model, "-o", tmp_path / "out", *OPTIONS["gptq-4"], "--dry-run", "--json")
    plan, made = planned.json["data"], quantised("gptq-4")[0].json["data"]
    assert plan["sizes"]["after_bytes"] == pytest.approx(made["sizes"]["after_bytes"], rel=0.02)
    assert plan["needs"]["memory_bytes"] > 0.8 * made["peak_rss_bytes"]


def test_a_gguf_file_is_converted_first(llmops, quantised, small_gguf, tmp_path):
    """The model of the other tests is this file converted, so both ways end in the same bytes."""
    out = tmp_path / "out"
    result = llmops("quantize", small_gguf, "-o", out, *OPTIONS["bnb-int8"], "--no-gate", "--json", timeout=900)
    assert result.code == 0, result.stderr
    assert (out / "tokenizer.json").is_file()
    assert [path.name for path in tmp_path.iterdir()] == ["out"]
    assert result.json["data"]["weights_sha256"] == quantised("bnb-int8")[0].json["data"]["weights_sha256"]


def test_w8a8_in_its_own_environment(quantised, llmcompressor_environment):
    result, out = quantised("w8a8", llmcompressor_environment)
    assert result.code == 0, result.stderr
    assert json.loads((out / "config.json").read_text())["quantization_config"]["quant_method"] == "compressed-tensors"
    assert result.json["data"]["serve_command"].endswith("--engine vllm")


# What any user of transformers writes; nothing of llmops is in it.
GENERATE = """
import json, sys, torch
from transformers import AutoModelForCausalLM, AutoTokenizer
answers = []
for path in sys.argv[2:]:
    tokenizer = AutoTokenizer.from_pretrained(path)
    model = AutoModelForCausalLM.from_pretrained(path, dtype="auto").eval()
    ids = tokenizer(sys.argv[1], return_tensors="pt")
    out = model.generate(**ids, max_new_tokens=5, do_sample=False)
    answers.append(tokenizer.decode(out[0][ids["input_ids"].shape[1]:], skip_special_tokens=True))
print(json.dumps(answers))
"""


def answers(python, *models) -> list[str]:
    command = [python, "-c", GENERATE, FRANCE, *map(str, models)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=600, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    return json.loads(done.stdout.splitlines()[-1])


def test_each_reloads_in_transformers(quantised):
    eight, int8, four, nf4 = answers(
        sys.executable, *(quantised(name)[1] for name in ("gptq-8", "bnb-int8", "gptq-4", "bnb-nf4"))
    )
    assert "Paris" in eight
    assert "Paris" in int8
    assert four.strip()
    assert nf4.strip()


def test_w8a8_reloads_in_the_transformers_of_its_environment(quantised, llmcompressor_environment):
    python = Path(llmcompressor_environment["LLMOPS_ENGINES_DIR"]) / "llmcompressor" / "bin" / "python"
    (answer,) = answers(python, quantised("w8a8", llmcompressor_environment)[1])
    assert "Paris" in answer


# The engine of the stated command first; GPTQ of 4 bits on both.
@pytest.mark.parametrize(
    ("name", "engine", "stated"),
    [
        ("gptq-4", "transformers", True),
        ("gptq-4", "vllm", False),
        ("bnb-nf4", "transformers", True),
        ("w8a8", "vllm", True),
    ],
)
def test_it_is_served(quantised, tmp_path, request, name, engine, stated):
    env = request.getfixturevalue("llmcompressor_environment") if name == "w8a8" else None
    result, out = quantised(name, env)
    assert result.json["data"]["serve_command"].endswith(f"--engine {engine}") is stated
    options = ["--engine", engine, "--name", name, "--max-model-len", "1024"]
    if engine == "vllm":
        env = request.getfixturevalue("vllm_environment")
        options += ["--kv-cache-gib", "1"]
    with (
        serving(tmp_path, out, *options, env=env, seconds=500) as served,
        openai.OpenAI(base_url=served.url + "/v1", api_key="none", max_retries=0, timeout=120) as client,
    ):
        answer = client.completions.create(model=name, prompt=FRANCE, max_tokens=5, temperature=0)
        assert answer.usage.completion_tokens > 0
        assert answer.choices[0].text.strip()
        if name == "w8a8":
            assert "Paris" in answer.choices[0].text


def test_what_vllm_does_not_serve_on_a_cpu_is_said_before_it_starts(llmops, quantised, tmp_path, vllm_environment):
    result = llmops("serve", quantised("gptq-8")[1], "--engine", "vllm", env=vllm_environment)
    assert result.code == 2
    assert "vLLM on a CPU reads GPTQ of 4 bits" in result.stderr
