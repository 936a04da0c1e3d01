"""``llmops convert gguf``: refusals before work, and the real conversion."""

import json

import pytest
from model_files import checkpoint, gguf


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["missing.gguf", "-o", "out"], "there is no missing.gguf"),
        (["model", "-o", "out"], "is not a GGUF file"),
        (["cut.gguf", "-o", "out"], "truncated"),
        (["whole.gguf", "-o", "out", "--dtype", "int4"], "'int4'"),
        (["whole.gguf", "-o", "taken"], "was not made from"),
    ],
)
def test_bad_input_is_refused_and_leaves_nothing(llmops, tmp_path, arguments, words):
    checkpoint(tmp_path / "model")
    gguf(tmp_path / "whole.gguf")
    gguf(tmp_path / "cut.gguf", cut=100)
    (tmp_path / "taken").mkdir()
    (tmp_path / "taken" / "important").write_text("mine")
    before = sorted(path.name for path in tmp_path.iterdir())
    result = llmops("convert", "gguf", *arguments, cwd=tmp_path)
    assert result.code == 2, result.stderr
    assert words in result.stderr
    assert sorted(path.name for path in tmp_path.iterdir()) == before
    assert (tmp_path / "taken" / "important").read_text() == "mine"


@pytest.mark.slow
def test_an_architecture_that_cannot_be_converted_is_explained(llmops, tmp_path):
    pytest.importorskip("transformers")
    pytest.importorskip("gguf")
    meta = {"general.architecture": "nosuch", "nosuch.block_count": 1, "nosuch.embedding_length": 64}
    gguf(tmp_path / "odd.gguf", meta)
    result = llmops("convert", "gguf", "odd.gguf", "-o", "out", cwd=tmp_path)
    assert result.code == 5, result.stderr
    assert "nosuch" in result.stderr
    assert not (tmp_path / "out").exists()
    assert not (tmp_path / "out.partial").exists()


@pytest.mark.slow
def test_the_real_conversion_is_whole_and_reused(llmops, small_gguf, tmp_path):
    out = tmp_path / "model"
    first = llmops("convert", "gguf", small_gguf, "-o", out, "--json", timeout=900)
    assert first.code == 0, first.stderr
    assert not first.json["data"]["reused"]
    stamp = json.loads((out / "llmops_source.json").read_text())
    assert stamp["chat_template_added"]
    config = json.loads((out / "config.json").read_text())
    assert "quantization_config" not in config
    assert str(small_gguf.parent) not in (out / "config.json").read_text()
    inspected = llmops("inspect", out, "--json").json
    assert inspected["ok"]
    assert inspected["data"]["dtype"] == "bfloat16"
    again = llmops("convert", "gguf", small_gguf, "-o", out, "--json")
    assert again.json["data"]["reused"]
