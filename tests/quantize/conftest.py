"""Quantisers in environments of their own."""

import os
from pathlib import Path

import pytest


@pytest.fixture(scope="session")
def llmcompressor_environment(llmops, model_cache) -> dict[str, str]:
    """llm-compressor in its own environment, made by the command under test and kept between runs."""
    root = Path(os.environ.get("LLMOPS_ENGINES_DIR") or model_cache / "engines")
    env = {"LLMOPS_ENGINES_DIR": str(root)}
    result = llmops("engines", "install", "llmcompressor", "--json", env=env, timeout=1500)
    assert result.code == 0, result.stderr
    assert result.json["data"]["check"]["import_error"] is None
    return env
