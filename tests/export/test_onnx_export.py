"""Real exports through the command line, compared with PyTorch by a second process."""

import hashlib
import importlib.util
import json
import shutil

import pytest

pytestmark = pytest.mark.skipif(
    any(
        importlib.util.find_spec(name) is None
        for name in ("torch", "transformers", "onnx", "onnxscript", "onnxruntime")
    ),
    reason="pip install 'llmops[cpu,onnx]'",
)


def test_an_export_agrees_and_its_record_is_true(tiny_onnx, tiny_llama):
    out, result = tiny_onnx
    data = result.json["data"]
    assert result.json["schema"] == "llmops.export onnx/1"
    lengths = [row["lengths"] for row in data["parity"]["cases"]]
    assert [1] in lengths
    assert [13, 8] in lengths  # left padding
    assert data["parity"]["agreement"] >= 0.99
    assert data["parity"]["max_difference"] < 1e-4
    assert data["parity"]["provider"] == "CPUExecutionProvider"
    record = json.loads((out / "export.json").read_text())
    assert record["dimensions"] == {"batch": [1, 16], "sequence": [1, 2048]}
    for name, facts in record["files"].items():
        assert hashlib.sha256((out / name).read_bytes()).hexdigest() == facts["sha256"], name
    assert (out / "tokenizer.json").read_bytes() == (tiny_llama / "tokenizer.json").read_bytes()
    assert {"torch", "transformers", "onnx", "onnxruntime"} <= set(record["versions"])
    assert sorted(p.name for p in out.parent.iterdir() if not p.name.startswith("tiny-")) == [
        "tiny"
    ]  # nothing is left over
    ids = record["inputs"][0]
    assert (ids["name"], ids["dims"]) == ("input_ids", ["batch", "sequence"])


def test_the_graph_needs_its_mask(tiny_onnx):
    """An export that ignores the attention mask would pass every test without padding."""
    import numpy as np
    import onnxruntime

    session = onnxruntime.InferenceSession(str(tiny_onnx[0] / "model.onnx"), providers=["CPUExecutionProvider"])
    ids = np.array([[9, 9, 9, 40, 50, 60]], np.int64)
    seen, hidden = np.ones_like(ids), np.array([[0, 0, 0, 1, 1, 1]])
    place = np.maximum(hidden.cumsum(-1) - 1, 0)
    runs = [
        session.run(None, {"input_ids": ids, "attention_mask": m, "position_ids": place})[0] for m in (seen, hidden)
    ]
    alone = session.run(None, {"input_ids": ids[:, 3:], "attention_mask": seen[:, 3:], "position_ids": place[:, 3:]})[0]
    assert np.abs(runs[1][0, -1] - alone[0, -1]).max() < 1e-5
    assert np.abs(runs[0][0, -1] - runs[1][0, -1]).max() > 1e-3


def test_a_second_export_to_the_same_place_is_refused(llmops, tiny_onnx, tiny_llama):
    before = (tiny_onnx[0] / "export.json").read_bytes()
    result = llmops("export", "onnx", tiny_llama, "-o", tiny_onnx[0])
    assert result.code == 2
    assert "--force" in result.stderr
    assert (tiny_onnx[0] / "export.json").read_bytes() == before


def test_a_dry_run_writes_nothing(llmops, tiny_llama, tmp_path):
    result = llmops("export", "onnx", tiny_llama, "-o", tmp_path / "out", "-n", "--json")
    assert result.code == 0, result.stderr
    assert result.json["data"]["plan"]["task"] == "causal-lm"
    assert not list(tmp_path.iterdir())


def test_an_absent_provider_is_an_error_not_a_slow_cpu_run(llmops, tiny_llama, tmp_path):
    result = llmops(
        "export", "onnx", tiny_llama, "-o", tmp_path / "out", "--exporter", "torchscript", "--provider", "cuda"
    )
    assert result.code == 3
    assert "no CUDAExecutionProvider" in result.stderr
    assert not list(tmp_path.iterdir())  # refused before the work


@pytest.fixture(scope="session")
def loud_llama(tiny_llama, tmp_path_factory):
    """The tiny Llama with a head whose products leave the range of float16."""
    import subprocess
    import sys

    out = tmp_path_factory.mktemp("models") / "loud"
    shutil.copytree(tiny_llama, out)
    code = (
        "import sys; from safetensors.torch import load_file, save_file; p = sys.argv[1]; w = load_file(p);"
        "w['lm_head.weight'] *= 3e6; save_file(w, p, metadata={'format': 'pt'})"
    )
    subprocess.run([sys.executable, "-c", code, str(out / "model.safetensors")], check=True, capture_output=True)
    return out


def test_an_export_that_does_not_agree_is_put_aside(llmops, loud_llama, tmp_path):
    out = tmp_path / "out"
    result = llmops(
        "export", "onnx", loud_llama, "-o", out, "--dtype", "float16", "--exporter", "torchscript", "--json"
    )
    assert result.code == 1, result.stderr
    assert result.json["ok"] is False
    assert "onnx-parity" in [f["rule"] for f in result.json["findings"] if f["severity"] == "error"]
    assert not out.exists()
    assert (tmp_path / "out.rejected" / "export.json").is_file()
    assert result.json["data"]["out"].endswith("out.rejected")


def test_the_cache_variant_decodes_as_the_model_does(llmops, tiny_llama, tmp_path):
    out = tmp_path / "cache"
    result = llmops(
        "export", "onnx", tiny_llama, "-o", out, "--task", "causal-lm-cache", "--exporter", "torchscript", "--json"
    )
    assert result.code == 0, result.stderr
    parity = result.json["data"]["parity"]
    assert parity["greedy_agrees"] is True
    assert {tuple(row["lengths"]) for row in parity["greedy"]} == {(8,), (13, 8)}  # one row, and a left-padded batch
    names = [t["name"] for t in json.loads((out / "export.json").read_text())["inputs"]]
    assert names[3:5] == ["past_key_values.0.key", "past_key_values.0.value"]


@pytest.mark.slow
def test_a_classifier_keeps_its_labels_and_segments(llmops, tiny_bert, tmp_path):
    result = llmops("export", "onnx", tiny_bert, "-o", tmp_path / "bert", "--exporter", "torchscript", "--json")
    assert result.code == 0, result.stderr
    record = json.loads((tmp_path / "bert" / "export.json").read_text())
    assert record["task"] == "classification"
    assert record["dimensions"]["sequence"] == [1, 64]  # cut to the model's own limit
    assert "token_type_ids" in [t["name"] for t in record["inputs"]]
    assert json.loads((tmp_path / "bert" / "config.json").read_text())["id2label"]["1"] == "positive"


@pytest.mark.slow
@pytest.mark.parametrize(
    "options",
    [
        ("--task", "causal-lm-cache"),
        ("--dtype", "bfloat16"),
        ("--dtype", "float16", "--exporter", "torchscript", "--opset", "17"),
    ],
)
def test_every_variant_of_the_tiny_model_agrees(llmops, tiny_llama, tmp_path, options):
    result = llmops("export", "onnx", tiny_llama, "-o", tmp_path / "out", *options, "--json")
    assert result.code == 0, result.stderr
    assert result.json["data"]["parity"]["agreement"] >= 0.95


@pytest.mark.slow
def test_the_genai_format_agrees_too(llmops, tiny_llama, tmp_path):
    result = llmops(
        "export", "onnx", tiny_llama, "-o", tmp_path / "out", "--format", "genai", "--precision", "fp32", "--json"
    )
    assert result.code == 0, result.stderr
    assert result.json["data"]["parity"]["greedy_agrees"] is True
    assert (tmp_path / "out" / "genai_config.json").is_file()


@pytest.mark.slow
@pytest.mark.parametrize("task", ["causal-lm", "causal-lm-cache"])
def test_the_real_small_model_agrees(small_model_onnx, task):
    _, result = small_model_onnx(task)
    data = result.json["data"]
    parity, plan = data["parity"], data["plan"]
    peaks = (data["timing"]["peak_rss_bytes"], parity["peak_rss_bytes"])
    print(f"peaks: {peaks} of {plan['ram_bytes']}, {plan['check_bytes']}; export {data['timing']['export_s']} s")
    assert peaks[0] <= plan["ram_bytes"]  # what the pre-flight asks for covers what is taken
    assert peaks[1] <= plan["check_bytes"]
    assert parity["agreement"] >= 0.99
    assert max(max(row["lengths"]) for row in parity["cases"]) > 512  # beyond its sliding window
    if task == "causal-lm-cache":
        assert parity["greedy_agrees"] is True


@pytest.mark.slow
def test_a_real_sentence_encoder_gives_the_same_vectors(llmops, minilm, tmp_path):
    result = llmops("export", "onnx", minilm, "-o", tmp_path / "out", "--json", timeout=600)
    assert result.code == 0, result.stderr
    data = result.json["data"]
    assert (data["plan"]["task"], data["plan"]["pooling"], data["plan"]["normalize"]) == ("embedding", "mean", True)
    assert min(row["agreement"] for row in data["parity"]["cases"]) > 0.9999
