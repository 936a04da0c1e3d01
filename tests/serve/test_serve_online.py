"""``serve --quantization``: weights that are quantised while a plain model is loaded."""

import importlib.util
from dataclasses import replace

import openai
import pytest
from serve_process import serving

from llmops.checkpoint import read_model
from llmops.checkpoint.facts import Quantization
from llmops.errors import UsageError
from llmops.hardware.detect import detect
from llmops.planning.cpu import plan_on_cpu
from llmops.planning.types import PlanSpec
from llmops.serve.online import online


@pytest.fixture(scope="module")
def facts(tiny_llama):
    return read_model(tiny_llama)


@pytest.mark.parametrize(
    ("wanted", "engine", "gpus", "word"),
    [
        (None, "vllm", 0, None),
        ("none", "llamacpp", 0, None),
        ("bnb-nf4", "transformers", 0, "bnb-nf4"),
        ("bitsandbytes", "transformers", 0, "bnb-nf4"),
        ("bnb-int8", "transformers", 0, "bnb-int8"),
        ("bnb-nf4", "vllm", 1, "bitsandbytes"),
        ("bitsandbytes", "ray", 1, "bitsandbytes"),
        ("fp8", "vllm", 2, "fp8"),
    ],
)
def test_each_engine_has_its_own_word(facts, wanted, engine, gpus, word):
    assert online(wanted, facts, engine, gpus=gpus) == word


@pytest.mark.parametrize(
    ("wanted", "engine", "gpus", "said"),
    [
        ("bnb-nf5", "transformers", 0, "no such method"),
        ("fp8", "transformers", 0, "quantises bnb-nf4, bnb-int8"),
        ("bnb-int8", "vllm", 1, "quantises fp8, bnb-nf4"),
        ("fp8", "vllm", 0, "on GPUs only"),
        ("bnb-nf4", "llamacpp", 0, "quantises nothing"),
    ],
)
def test_what_it_cannot_do_is_refused(facts, wanted, engine, gpus, said):
    with pytest.raises(UsageError, match=said):
        online(wanted, facts, engine, gpus=gpus)


def test_a_quantised_model_is_not_quantised_again(facts):
    quantised = replace(facts, quantization=Quantization("gptq", "gptq", 4, 128))
    with pytest.raises(UsageError, match="quantised already"):
        online("bnb-nf4", quantised, "transformers", gpus=0)


def test_the_plan_counts_smaller_weights(facts):
    plain, small = (
        plan_on_cpu(facts, PlanSpec(engine="transformers", quantization=word, dtype="bfloat16"), detect(), port=1)
        for word in (None, "bnb-nf4")
    )
    linears = sum(
        layer.in_features * layer.out_features for layer in facts.linears if layer.part in ("attention", "mlp")
    )
    saved = (plain.memory.weights_gib - small.memory.weights_gib) * 2**30
    assert saved == pytest.approx(linears * (2 - 0.5 - 1 / 64), rel=0.05)
    assert small.quantization == "bnb-nf4"


def test_it_is_refused_by_the_command_before_anything_starts(llmops, tiny_llama):
    result = llmops("serve", tiny_llama, "--engine", "transformers", "--quantization", "fp8")
    assert result.code == 2
    assert "quantises bnb-nf4, bnb-int8 while it loads" in result.stderr


@pytest.mark.skipif(importlib.util.find_spec("bitsandbytes") is None, reason="pip install 'llmops[bnb]'")
def test_a_plain_model_is_served_in_four_bits(tiny_llama, tmp_path):
    options = ("--engine", "transformers", "--quantization", "bnb-nf4", "--name", "small")
    with (
        serving(tmp_path, tiny_llama, *options) as served,
        openai.OpenAI(base_url=served.url + "/v1", api_key="none", max_retries=0, timeout=60) as client,
    ):
        answer = client.completions.create(model="small", prompt="import os", max_tokens=4, temperature=0)
        assert answer.usage.completion_tokens > 0
        assert "LlamaConfig (bnb-nf4)" in served.log.read_text()
