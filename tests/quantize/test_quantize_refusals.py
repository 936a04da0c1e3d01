"""Every input that engines take silently or die of late is refused by the command, with its code, leaving nothing."""

import json
import shutil
import struct
from pathlib import Path

import pytest

USAGE, MACHINE, OUTSIDE = 2, 3, 5


@pytest.fixture
def model(tiny_llama, tmp_path) -> Path:
    """A copy of the tiny model to break."""
    return Path(shutil.copytree(tiny_llama, tmp_path / "model"))


@pytest.fixture
def refused(llmops, tmp_path):
    """Run quantize, expect a refusal, check that nothing is left; returns the error as the JSON document has it."""

    def run(model, *options, code=USAGE, env=None) -> dict:
        before = sorted(tmp_path.rglob("*"))
        result = llmops("quantize", model, "-o", tmp_path / "out", "--json", *options, env=env, cwd=tmp_path)
        assert result.code == code, result.stderr
        document = result.json
        assert document["ok"] is False
        assert document["error"]["exit_code"] == code
        assert document["error"]["hint"], "a refusal says what to do"
        assert "\n" not in document["error"]["message"]
        assert [line.partition(":")[0] for line in result.error_lines] == ["error", "hint"]
        assert sorted(tmp_path.rglob("*")) == before, "something was left behind"
        return document["error"] | {"rules": [finding["rule"] for finding in document["findings"]]}

    return run


GPTQ = ("--method", "gptq", "--group-size", "32")


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (("--method", "gptx"), "no method 'gptx'"),
        (("--method", "bnb-fp4"), "no method"),
        ((*GPTQ, "--bits", "5"), "4 or 8 bit"),
        (("--method", "bnb-nf4", "--bits", "8"), "stores 4 bit"),
        (("--method", "gptq", "--group-size", "100"), "32, 64, 128 and -1"),
        (("--method", "gptq", "--group-size", "128"), "has 64 inputs, which groups of 128 do not divide"),
        (("--method", "gptq", "--group-size", "32", "--tensor-parallel", "4"), "on 4 ranks"),
        ((*GPTQ, "--calibration", "missing.txt"), "there is no such file"),
        ((*GPTQ, "--calibration", ""), "--calibration is empty"),
        ((*GPTQ, "--desc-act", "--target", "vllm"), "no longer loads GPTQ in activation order"),
        ((*GPTQ, "--calibration", "builtin:klingon"), "no such built-in"),
        ((*GPTQ, "--samples", "2", "--seq-len", "4"), "8 tokens of calibration"),
        ((*GPTQ, "--samples", "8", "--seq-len", "4096"), "longer than the model's context"),
        ((*GPTQ, "--samples", "0"), "at least 1"),
        ((*GPTQ, "--samples", "9000", "--seq-len", "1"), "rows of fewer than 32 tokens"),
        ((*GPTQ, "--engine", "autogptq"), "no quantiser 'autogptq'"),
        ((*GPTQ, "--engine", "bitsandbytes"), "cannot make gptq"),
        ((*GPTQ, "--engine-python", "/nowhere/python"), "not an executable"),
        ((*GPTQ, "--device", "tpu"), "--device tpu"),
        ((*GPTQ, "--target", "ollama"), "--target ollama"),
        (("--method", "bnb-nf4", "--desc-act"), "no meaning"),
        (("--method", "bnb-nf4", "--chunks", "1"), "too little"),
        (("--method", "bnb-nf4", "--chunk-tokens", "4096"), "longer than the model's context"),
        (("--method", "bnb-nf4", "--min-agreement", "90"), "0 to 1"),
        (("--method", "bnb-nf4", "--max-kl", "-1"), "above 0"),
        (("--method", "bnb-nf4", "--eval-text", "missing.txt"), "there is no such file"),
    ],
)
def test_options_that_cannot_be(refused, tiny_llama, options, said):
    assert said in refused(tiny_llama, *options)["message"]


def test_all_problems_are_named_at_once(refused, tiny_llama):
    error = refused(tiny_llama, "--method", "gptq", "--bits", "3", "--group-size", "48", "--threads", "0")
    assert error["rules"] == ["bits", "group-size", "number"]


@pytest.mark.parametrize(
    ("name", "content", "said"),
    [
        ("empty.txt", b"", "it is empty"),
        ("latin.txt", "été ".encode("latin-1") * 9000, "not UTF-8"),
        ("binary.txt", b"abc\0def" * 9000, "NUL"),
        ("short.txt", b"too short", "9 bytes of text"),
        ("bad.jsonl", b'{"text": "fine"}\n{"text": 3}\n', "line 2"),
        ("broken.jsonl", b'{"text": "fine"}\nnot json\n', "line 2 is not JSON"),
        ("chat.jsonl", b'{"messages": [{"role": "user"}]}\n', "line 1"),
    ],
)
def test_calibration_that_cannot_be_used(refused, tiny_llama, tmp_path, name, content, said):
    (tmp_path / name).write_bytes(content)
    assert said in refused(tiny_llama, *GPTQ, "--calibration", tmp_path / name)["message"]


def test_a_directory_as_calibration(refused, tiny_llama, tmp_path):
    assert "directory" in refused(tiny_llama, *GPTQ, "--calibration", tmp_path)["message"]


def test_too_few_tokens_are_found_before_the_model_is_loaded(refused, tiny_llama, tmp_path):
    """Enough bytes to look sufficient, but too few tokens: counted with the model's own tokenizer."""
    (tmp_path / "words.txt").write_text("The keyword argument is an expression. " * 260)
    error = refused(tiny_llama, *GPTQ, "--calibration", tmp_path / "words.txt", "--samples", "32", "--seq-len", "256")
    assert "at least 8192 are needed" in error["message"]


def test_a_model_that_is_not_there(refused, tmp_path):
    assert "there is no" in refused(tmp_path / "nothing", "--method", "bnb-nf4")["message"]


def test_a_hub_id_without_a_hub(refused):
    refused("some-org/some-model", "--method", "bnb-nf4", code=OUTSIDE, env={"HF_HUB_OFFLINE": "1"})


def test_no_tokenizer(refused, model):
    for path in model.glob("token*"):
        path.unlink()
    assert "no tokenizer" in refused(model, "--method", "bnb-nf4")["message"]


def edit_config(model: Path, **changes) -> None:
    config = json.loads((model / "config.json").read_text())
    (model / "config.json").write_text(json.dumps(config | changes))


def test_an_architecture_that_transformers_does_not_know(refused, model):
    edit_config(model, model_type="llama99", architectures=["Llama99ForCausalLM"])
    error = refused(model, *GPTQ)
    assert "does not know the model type 'llama99'" in error["message"]


def test_a_model_that_is_quantised_already(refused, model):
    edit_config(model, quantization_config={"quant_method": "bitsandbytes", "load_in_4bit": True})
    assert "quantised already" in refused(model, "--method", "bnb-int8")["message"]


def test_truncated_weights(refused, model):
    weights = model / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1000])
    assert refused(model, *GPTQ)["rules"] == ["model-incomplete"]


def test_a_missing_shard(refused, model):
    (model / "model.safetensors").rename(model / "model-00001-of-00002.safetensors")
    index = {"metadata": {}, "weight_map": {"lm_head.weight": "model-00002-of-00002.safetensors"}}
    (model / "model.safetensors.index.json").write_text(json.dumps(index))
    assert refused(model, *GPTQ)["rules"] == ["model-incomplete"]


def test_no_weights_at_all(refused, model):
    (model / "model.safetensors").unlink()
    refused(model, *GPTQ)


@pytest.mark.parametrize("method", [("--method", "bnb-nf4"), GPTQ])
def test_weights_of_another_shape_than_the_configuration(refused, model, method):
    """With a quantisation configuration, transformers loads and saves such a model without a word."""
    edit_config(model, intermediate_size=256)
    assert "another shape than config.json says (and 5 more)" in refused(model, *method)["message"]


def test_weights_in_a_format_that_can_run_code(refused, model):
    (model / "model.safetensors").rename(model / "pytorch_model.bin")
    error = refused(model, *GPTQ)
    assert "pytorch_model.bin, a format that can run code" in error["message"]
    assert "safetensors" in error["hint"]


def test_an_output_that_would_replace_the_original(llmops, model, tmp_path):
    """The model itself, its parent, and the place of an older result that failed."""
    (tmp_path / "out.rejected").symlink_to(model)
    (tmp_path / "config.json").write_text("{}")
    before = sorted(tmp_path.rglob("*"))
    for out in (model, tmp_path, tmp_path / "out"):
        result = llmops("quantize", model, "-o", out, "--method", "bnb-nf4", "--force")
        assert result.code == USAGE, result.stderr
        assert "which this run replaces" in result.stderr
    assert sorted(tmp_path.rglob("*")) == before


def test_a_tokenizer_that_cannot_be_read(refused, model):
    (model / "tokenizer.json").write_text("{}")
    assert "tokenizer" in refused(model, "--method", "bnb-nf4")["message"]


def test_more_memory_and_disk_than_there_is(refused, model, tmp_path):
    """A checkpoint of two terabytes that takes no space: a real header over a sparse file."""
    size = 2 << 40
    rows = size // 2 // 64
    header = json.dumps(
        {"model.layers.0.mlp.up_proj.weight": {"dtype": "BF16", "shape": [rows, 64], "data_offsets": [0, rows * 128]}}
    ).encode()
    with (model / "model.safetensors").open("wb") as file:
        file.write(struct.pack("<Q", len(header)) + header)
        file.truncate(8 + len(header) + rows * 128)
    error = refused(model, "--method", "bnb-nf4", code=MACHINE)
    assert error["rules"] == ["memory", "disk"]


def test_a_target_that_cannot_load_it(refused, tiny_llama):
    error = refused(tiny_llama, "--method", "bnb-nf4", "--target", "vllm", env={"CUDA_VISIBLE_DEVICES": ""})
    assert "cannot load bnb-nf4" in error["message"]


def test_an_engine_that_is_not_installed(refused, tiny_llama, tmp_path):
    error = refused(tiny_llama, "--method", "w8a8", code=MACHINE, env={"LLMOPS_ENGINES_DIR": str(tmp_path / "none")})
    assert "llmops engines install llmcompressor" in error["hint"]


def test_an_output_that_exists(llmops, tiny_llama, tmp_path):
    out = tmp_path / "out"
    out.mkdir()
    (out / "precious.txt").write_text("keep me")
    for more in ((), ("--force",)):  # --force replaces a checkpoint, never something else
        result = llmops("quantize", tiny_llama, "-o", out, "--method", "bnb-nf4", *more)
        assert result.code == USAGE
    assert (out / "precious.txt").read_text() == "keep me"


def test_dry_run_prints_the_plan_and_leaves_nothing(llmops, tiny_llama, tmp_path):
    result = llmops("quantize", tiny_llama, "-o", tmp_path / "out", *GPTQ, "--dry-run", "--json")
    assert result.code == 0, result.stderr
    data = result.json["data"]
    assert data["dry_run"] is True
    assert data["engine"] == "gptqmodel"
    assert data["sizes"]["after_bytes"] < data["sizes"]["before_bytes"]
    assert data["linears"] == 14
    assert data["calibration"]["name"] == "builtin:ja-en"
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("device", "code", "said"), [("tpu", USAGE, "not known"), ("cuda:7", MACHINE, "no usable GPU")]
)
def test_evaluate_refuses_a_device_that_is_not_there(llmops, tiny_llama, device, code, said):
    result = llmops("evaluate", tiny_llama, "--against", tiny_llama, "--device", device)
    assert result.code == code
    assert said in result.stderr


def test_evaluate_refuses_models_of_different_vocabularies(llmops, tiny_llama, model):
    edit_config(model, vocab_size=4096)
    result = llmops("evaluate", model, "--against", tiny_llama)
    assert result.code == USAGE
