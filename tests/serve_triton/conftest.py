"""The real server's environment, and exports to serve."""

import os
from pathlib import Path

import pytest


@pytest.fixture(scope="session")
def triton_python(llmops, model_cache):
    """The interpreter of Triton's environment, made by the command under test and kept between runs."""
    root = Path(os.environ.get("LLMOPS_ENGINES_DIR") or model_cache / "engines")
    result = llmops("engines", "install", "triton", "--json", env={"LLMOPS_ENGINES_DIR": str(root)}, timeout=900)
    assert result.code == 0, result.stderr
    from llmops.settings import settings

    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("LLMOPS_ENGINES_DIR", str(root))
        settings.cache_clear()
        yield Path(result.json["data"]["path"]) / "bin" / "python"


@pytest.fixture(scope="session")
def exported(llmops, tiny_llama, tmp_path_factory):
    """The tiny Llama with and without a cache."""
    out = tmp_path_factory.mktemp("served")
    for name in ("causal-lm", "causal-lm-cache"):
        result = llmops(
            "export", "onnx", tiny_llama, "-o", out / name, "--task", name, "--exporter", "torchscript", "--no-check"
        )
        assert result.code == 0, result.stderr
    return out
