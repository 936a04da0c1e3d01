"""The three engines with the real small model, and what they must agree on. Slow: each loads hundreds of megabytes."""

import importlib.util
import json
import os
import signal
import subprocess
import sys

import openai
import pytest
from serve_process import serving

pytestmark = pytest.mark.slow

# The model is a base model with a weak memory; this form of the question it answers.
FRANCE = "Question: What is the capital of France?\nAnswer:"
QUESTION = [{"role": "user", "content": "What is the capital of France?"}]


def official(served) -> openai.OpenAI:
    return openai.OpenAI(base_url=served.url + "/v1", api_key="none", max_retries=0, timeout=120)


def converse(served) -> str:
    """What every engine must do for the official client; returns its answer to the question."""
    with official(served) as client:
        assert served.model in [model.id for model in client.models.list()]
        chat = client.chat.completions.create(model=served.model, messages=QUESTION, max_tokens=8, temperature=0)
        assert chat.usage.completion_tokens <= 8
        assert chat.choices[0].message.content is not None
        chunks = list(
            client.chat.completions.create(
                model=served.model, messages=QUESTION, max_tokens=8, temperature=0, stream=True,
                stream_options={"include_usage": True},
            )
        )  # fmt: skip
        streamed = "".join(chunk.choices[0].delta.content or "" for chunk in chunks if chunk.choices)
        assert streamed == chat.choices[0].message.content
        assert any(chunk.usage for chunk in chunks)
        with pytest.raises(openai.BadRequestError):
            client.chat.completions.create(model=served.model, messages=QUESTION, max_tokens=10**6)
        text = client.completions.create(model=served.model, prompt=FRANCE, max_tokens=4, temperature=0)
        assert text.usage.completion_tokens <= 4
        return streamed


def test_transformers_serves_the_real_model(small_model, tmp_path):
    with serving(tmp_path, small_model, "--engine", "transformers", "--name", "real") as served:
        assert "Paris" in converse(served)
        assert served.stop(signal.SIGTERM) == 143
        served.nothing_left()


def test_llamacpp_serves_the_real_model(small_gguf, tmp_path):
    with serving(tmp_path, small_gguf, "--name", "real") as served:
        assert served.log.name.startswith("real-llamacpp")
        with official(served) as client:
            answer = client.completions.create(model="real", prompt=FRANCE, max_tokens=8, temperature=0)
        assert "Paris" in answer.choices[0].text
        assert served.stop(signal.SIGTERM) == 143
        served.nothing_left()


RANDOM_ADAPTER = """
import json, sys
from pathlib import Path
import numpy
from safetensors.numpy import save_file
out, layers, wide, tall = Path(sys.argv[1]), *map(int, sys.argv[2:])
out.mkdir()
draw = numpy.random.default_rng(0)
name = "base_model.model.model.layers.{}.self_attn.q_proj.lora_{}.weight"
tensors = {}
for layer in range(layers):
    tensors[name.format(layer, "A")] = draw.normal(size=(8, wide)).astype("float32")
    tensors[name.format(layer, "B")] = draw.normal(size=(tall, 8)).astype("float32")
save_file(tensors, out / "adapter_model.safetensors")
config = {"peft_type": "LORA", "task_type": "CAUSAL_LM", "r": 8, "lora_alpha": 16, "lora_dropout": 0.0, "bias": "none",
          "target_modules": ["q_proj"], "inference_mode": True, "base_model_name_or_path": "base"}
(out / "adapter_config.json").write_text(json.dumps(config))
"""


def random_adapter(model, out):
    """An adapter of the queries, whose weights say nothing, so that the adapted model says something else."""
    config = json.loads((model / "config.json").read_text())
    sizes = (config["num_hidden_layers"], config["hidden_size"], config["num_attention_heads"] * config["head_dim"])
    subprocess.run([sys.executable, "-c", RANDOM_ADAPTER, str(out), *map(str, sizes)], check=True)
    return out


def quantised(llmops, small_model, model_cache, method):
    """The real model quantised by the project itself, kept between runs."""
    package = {"gptq": "gptqmodel", "bnb-nf4": "bitsandbytes"}[method]
    if importlib.util.find_spec(package) is None:
        pytest.skip(f"needs {package}")
    out = model_cache / f"gemma-3-270m-{method}"
    if not (out / "config.json").is_file():
        # Serving is what is tested here: little calibration, no gate.
        little = ("--samples", "32", "--seq-len", "256", "--group-size", "32") if method == "gptq" else ()
        result = llmops("quantize", small_model, "--method", method, "-o", out, *little, "--no-gate", timeout=900)
        assert (out / "config.json").is_file(), result.stderr
    return out


@pytest.mark.parametrize("kind", ["plain", "gptq"])
def test_vllm_serves_the_real_model_with_an_adapter_and_leaves_nothing(
    kind, llmops, small_model, model_cache, tmp_path, vllm_environment
):
    model = small_model if kind == "plain" else quantised(llmops, small_model, model_cache, kind)
    adapter = random_adapter(model, tmp_path / "adapter")
    with serving(
        tmp_path, model, "--engine", "vllm", "--name", "real", "--max-model-len", "2048", "--kv-cache-gib", "1",
        "--lora", f"extra={adapter}", env=vllm_environment, seconds=500,
    ) as served:  # fmt: skip
        assert len(served.children) >= 4, "guard, API server, engine core, worker"
        said = converse(served)
        if kind == "plain":
            assert "Paris" in said
        with official(served) as client:
            assert {"real", "extra"} <= {each.id for each in client.models.list()}
            chunks = client.completions.create(model="extra", prompt=FRANCE, max_tokens=8, temperature=0, stream=True)
            adapted = "".join(chunk.choices[0].text for chunk in chunks)
            plain = client.completions.create(model="real", prompt=FRANCE, max_tokens=8, temperature=0)
        assert adapted != plain.choices[0].text
        assert served.stop(signal.SIGINT) == 130
        served.nothing_left()


def test_a_tiny_model_says_the_same_on_vllm_and_here(tiny_llama, tmp_path, vllm_environment):
    """Two engines with nothing in common, float32 and greedy: the same text. Then the engine is killed."""
    prompt = {"prompt": "def main(self):", "max_tokens": 24, "temperature": 0, "extra_body": {"ignore_eos": True}}
    texts = []
    ours, theirs = tmp_path / "ours", tmp_path / "theirs"
    for tmp in (ours, theirs):
        tmp.mkdir()
    with serving(ours, tiny_llama, "--engine", "transformers") as served, official(served) as client:
        texts.append(client.completions.create(model=served.model, **prompt).choices[0].text)
    adapter = random_adapter(tiny_llama, tmp_path / "adapter")
    with (
        serving(
            theirs,
            tiny_llama,
            "--engine",
            "vllm",
            "--no-heal",
            "--lora",
            f"extra={adapter}",
            env=vllm_environment,
            seconds=500,
        ) as served,
        official(served) as client,
    ):
        texts.append(client.completions.create(model=served.model, **prompt).choices[0].text)
        adapted = client.completions.create(model="extra", **prompt).choices[0].text
        assert adapted != texts[0]
        worker = served.children[-1]
        os.kill(worker.pid, signal.SIGKILL)
        assert served.process.wait(60) == 5
        served.nothing_left()
        assert "error:" in served.stderr()
    assert texts[0] == texts[1]


@pytest.mark.parametrize("method", ["gptq", "bnb-nf4"])
def test_quantised_checkpoints_are_served(llmops, small_model, tmp_path, model_cache, method):
    out = quantised(llmops, small_model, model_cache, method)
    with serving(tmp_path, out, "--name", "quantised", seconds=300) as served, official(served) as client:
        answer = client.completions.create(model="quantised", prompt=FRANCE, max_tokens=8, temperature=0)
        assert answer.usage.completion_tokens == 8
        assert answer.choices[0].text.strip()


GENERATE = """
import json, sys, torch
from transformers import AutoModelForCausalLM, AutoTokenizer
torch.set_num_threads(1)
tokenizer = AutoTokenizer.from_pretrained(sys.argv[1])
model = AutoModelForCausalLM.from_pretrained(sys.argv[1], dtype="auto").eval()
ids = tokenizer(sys.argv[2], return_tensors="pt")
out = model.generate(**ids, max_new_tokens=24, min_new_tokens=24, do_sample=False)
print(json.dumps(tokenizer.decode(out[0][ids["input_ids"].shape[1]:], skip_special_tokens=True)))
"""


def test_the_batch_says_what_the_library_alone_says(tiny_llama, tmp_path):
    prompt = "import os\n\ndef walk(top):"
    alone = subprocess.run(
        [sys.executable, "-c", GENERATE, str(tiny_llama), prompt], capture_output=True, text=True, check=True
    )
    with serving(tmp_path, tiny_llama, "--engine", "transformers") as served, official(served) as client:
        answer = client.completions.create(
            model=served.model, prompt=prompt, max_tokens=24, temperature=0, extra_body={"min_tokens": 24}
        )
    assert answer.choices[0].text == json.loads(alone.stdout.splitlines()[-1])
