"""``llmops inspect`` as a user runs it."""

import json

import pytest
from model_files import checkpoint, gguf, sharded


def test_a_table_and_a_document(llmops, tmp_path):
    model = checkpoint(tmp_path / "tiny")
    shown = llmops("inspect", model)
    assert shown.code == 0
    for words in ("LlamaForCausalLM", "GQA; 4 heads, 2 KV heads of 16", "512 tokens", "the files are whole"):
        assert words in shown.stdout
    assert max(map(len, shown.stdout.splitlines())) <= 100
    document = llmops("inspect", model, "--json").json
    assert document["schema"] == "llmops.inspect/1"
    assert document["ok"]
    assert document["data"]["parameters"] == 2 * (64 * 64 * 2 + 32 * 64 * 2 + 3 * 64 * 128 + 128) + 2 * 256 * 64 + 64
    assert document["data"]["kv_bytes_per_token"] == 256
    assert {"part": "mlp", "in": 128, "out": 64, "count": 2} in document["data"]["linear_shapes"]


def test_gguf_in_one_table(llmops, tmp_path):
    shown = llmops("inspect", gguf(tmp_path / "tiny.gguf"))
    assert shown.code == 0
    assert "Q8_0" in shown.stdout


def test_a_damaged_shard_is_answered_with_1_and_its_name(llmops, tmp_path):
    model = sharded(tmp_path / "m")
    shard = model / "model-00002-of-00002.safetensors"
    shard.write_bytes(shard.read_bytes()[:-100])
    result = llmops("inspect", model, "--json")
    assert result.code == 1
    assert not result.json["ok"]
    assert result.json["findings"][0]["file"].endswith(shard.name)


def test_findings_reach_sarif(llmops, tmp_path):
    model = sharded(tmp_path / "m")
    (model / "model-00002-of-00002.safetensors").unlink()
    report = tmp_path / "found.sarif"
    assert llmops("inspect", model, "--report", report).code == 1
    results = json.loads(report.read_text())["runs"][0]["results"]
    assert [result["ruleId"] for result in results] == ["shard-missing"]


@pytest.mark.parametrize("make", ["nothing", "empty", "text", "folder", "bad-json", "list-json", "not-safetensors"])
def test_what_is_no_model_is_refused_with_2_and_a_hint(llmops, tmp_path, make):
    path = tmp_path / "thing"
    if make == "empty":
        path.write_bytes(b"")
    elif make == "text":
        path.write_text("hello")
    elif make == "folder":
        path.mkdir()
    elif make in ("bad-json", "list-json"):
        path.mkdir()
        (path / "config.json").write_text("{" if make == "bad-json" else "[1]")
    elif make == "not-safetensors":
        path = tmp_path / "x.safetensors"
        path.write_bytes(b"this is a text file and no tensor at all")
    result = llmops("inspect", path)
    assert result.code == 2
    assert [line.split(":")[0] for line in result.error_lines] == ["error", "hint"]
    assert "Traceback" not in result.stderr


def test_a_hub_id_is_told_apart_from_a_wrong_path(llmops, tmp_path):
    result = llmops("inspect", "meta-llama/Llama-3.1-8B", cwd=tmp_path)
    assert result.code == 2
    assert "hf download" in result.stderr


@pytest.mark.slow
def test_the_real_small_model(llmops, small_gguf):
    data = llmops("inspect", small_gguf, "--json").json["data"]
    assert data["quantization"]["detail"] == "Q4_K_M"
    assert 268_000_000 < data["parameters"] < 269_000_000
    assert data["attention"] == "MQA, 3 full + 15 sliding (512)"
