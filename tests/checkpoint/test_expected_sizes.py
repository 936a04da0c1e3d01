"""Sizes computed from a configuration against the real model classes, built without memory."""

import importlib.util
import json
import subprocess
import sys
from pathlib import Path

import pytest

from llmops.checkpoint.reader import read_model

MODELS = Path(__file__).parents[2] / "benchmarks" / "planning" / "models"
EXACT = (
    "llama-3.1-8b-instruct", "llama-3.2-1b-instruct", "qwen2.5-7b-instruct", "qwen3-8b", "qwen3-30b-a3b", "gpt-oss-20b",
    "gemma-2-9b-it", "mistral-7b-instruct-v0.3", "mixtral-8x7b-instruct-v0.1", "phi-4", "deepseek-v2-lite", "deepseek-r1",
    "qwen1.5-moe-a2.7b", "granite-3.1-2b-instruct",
)  # fmt: skip
CLOSE = ("opt-125m", "gemma-3-4b-it", "qwen2.5-vl-7b-instruct", "mistral-small-3.2-24b-instruct-2506")


@pytest.mark.slow
@pytest.mark.skipif(importlib.util.find_spec("transformers") is None, reason="needs pip install 'llmops[cpu]'")
def test_computed_parameters_are_those_of_the_real_classes(tmp_path):
    files = [MODELS / f"{name}.json" for name in (*EXACT, *CLOSE)]
    counter = Path(__file__).with_name("count_on_meta.py")
    done = subprocess.run([sys.executable, counter, *files], capture_output=True, text=True, check=True, timeout=300)
    for file, real in json.loads(done.stdout.splitlines()[-1]).items():
        config = json.loads(Path(file).read_text())["config"]
        config.pop("quantization_config", None)
        directory = tmp_path / Path(file).stem
        directory.mkdir()
        (directory / "config.json").write_text(json.dumps(config))
        off = abs(read_model(directory).parameters - real) / real
        assert off < (0.0005 if directory.name in EXACT else 0.005), (directory.name, off)
