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
