"""An engine without a server, with a tiny model made on the spot."""

from __future__ import annotations

import importlib.util

import pytest


@pytest.mark.slow
def test_transformers_at_batch_sizes(llmops, tiny_llama):
    options = ("--sweep", "1,3", "--requests", "2", "--input-tokens", "16", "--output-tokens", "8")
    result = llmops("bench", "--offline", "transformers", tiny_llama, *options, "--json")
    assert result.code == 0, result.stderr
    batches = result.json["data"]["batches"]
    assert [(batch["batch"], batch["output_tokens"], batch["repeats"]) for batch in batches] == [(1, 8, 2), (3, 8, 2)]
    for batch in batches:
        assert batch["output_tokens_per_s"] > 0
        whole_s = (batch["first_ms"] + 7 * batch["step_ms"]) / 1000
        # The figure agrees with its own parts: the first token and seven more steps for each row.
        assert batch["batch"] * 8 / whole_s == pytest.approx(batch["output_tokens_per_s"], rel=0.6)


@pytest.mark.slow
@pytest.mark.skipif(importlib.util.find_spec("onnxruntime") is None, reason="pip install 'llmops[onnx]'")
@pytest.mark.parametrize("task", ["causal-lm", "causal-lm-cache"])
def test_onnx_runtime_with_and_without_a_cache(llmops, tiny_llama, tmp_path, task):
    made = llmops("export", "onnx", tiny_llama, "-o", tmp_path / "onnx", "--task", task, "--no-check")
    assert made.code == 0, made.stderr
    options = ("--sweep", "2", "--requests", "1", "--input-tokens", "8", "--output-tokens", "4", "--json")
    result = llmops("bench", "--offline", "onnxruntime", tmp_path / "onnx", *options)
    assert result.code == 0, result.stderr
    assert result.json["data"]["batches"][0]["output_tokens"] == 4
    assert "onnxruntime" in result.json["data"]["versions"]


def test_refusals(llmops, tmp_path):
    unknown = llmops("bench", "--offline", "onxruntime", tmp_path)
    assert unknown.code == 2
    assert "onnxruntime" in unknown.stderr
    missing = llmops("bench", "--offline", "transformers", tmp_path / "none")
    assert missing.code == 2
