"""The recipes of recipes/export/ run from a checkpoint to a Triton server whose models have answered."""

import importlib.util
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.slow
RECIPES = Path(__file__).parent.parent.parent / "recipes" / "export"


def run(llmops, name, model, tmp_path, *options):
    result = llmops("run", RECIPES / f"{name}.yaml", "--model", model, *options, "--json", cwd=tmp_path, timeout=600)
    assert result.code == 0, result.stderr
    steps = {step["verb"]: step["data"] for step in result.json["data"]["steps"]}
    assert set(steps["triton"]["states"].values()) == {"READY"}
    return steps


def test_the_embedding_recipe(llmops, triton_python, minilm, tmp_path):
    steps = run(llmops, "embedding", minilm, tmp_path)
    assert steps["export"]["parity"]["agreement"] > 0.9999
    assert steps["triton"]["answers"] == {"embedder": "384 numbers"}


def test_the_classifier_recipe(llmops, triton_python, tmp_path):
    model = tmp_path / "bert"
    program = Path(__file__).parent.parent / "export" / "tiny_bert.py"
    subprocess.run([sys.executable, program, model], check=True, capture_output=True)
    steps = run(llmops, "classifier", model, tmp_path, "--set", "export.exporter=torchscript")
    assert steps["triton"]["answers"]["classifier"].split()[0] in ("negative", "positive")


def test_the_guides_ensemble_on_a_tiny_llama(llmops, triton_python, tiny_llama, tmp_path):
    """Its engine is built with TensorRT-RTX, and where there is no GPU the Python backend computes in its place."""
    if importlib.util.find_spec("tensorrt_rtx") is None:
        pytest.skip("pip install 'llmops[tensorrt]'")
    options = ("build.backend=rtx", "export.exporter=torchscript", "export.dtype=float32", "triton.middle=python")
    steps = run(llmops, "llama-8b-ensemble", tiny_llama, tmp_path, *[word for o in options for word in ("--set", o)])
    assert steps["build"]["profiles"][0]["input_ids"]["max"] == [16, 2048]
    assert set(steps["triton"]["answers"]) == {"llama_8b", "llama_8b_ensemble"}


def test_without_a_gpu_the_guides_ensemble_says_what_is_missing(llmops, tiny_llama, tmp_path):
    from llmops.hardware.detect import detect

    if detect(sample_s=0).usable_gpus:
        pytest.skip("there is a GPU")
    options = ("--set", "export.exporter=torchscript", "--json")
    result = llmops("run", RECIPES / "llama-8b-ensemble.yaml", "--model", tiny_llama, *options, cwd=tmp_path)
    assert result.code == 3
    assert "no usable GPU" in result.stderr
