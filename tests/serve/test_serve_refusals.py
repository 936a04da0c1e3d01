"""What cannot work is refused before anything is started: one line, a hint, the right exit code."""

import functools
import json
import shutil
import socket
import struct

import pytest


@pytest.fixture
def llmops(llmops):
    """With a short limit: what is refused is refused at once."""
    return functools.partial(llmops, timeout=60)


def refused(result, code, *words):
    error, *hint = result.error_lines
    assert result.code == code, result.stderr
    assert hint, "there is no hint"
    for word in words:
        assert word in result.stderr, result.stderr
    assert "starting" not in result.stderr
    return error, hint[0]


@pytest.fixture
def broken_copy(tiny_llama, tmp_path):
    copy = tmp_path / "copy"
    shutil.copytree(tiny_llama, copy)
    return copy


def test_a_missing_model(llmops, tmp_path):
    refused(llmops("serve", tmp_path / "nope"), 2, "nope")


def test_truncated_weights(llmops, broken_copy):
    weights = broken_copy / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1000])
    refused(llmops("serve", broken_copy, "--port", "0"), 2, "model.safetensors")


def test_weights_that_are_not_there(llmops, broken_copy):
    (broken_copy / "model.safetensors").unlink()
    refused(llmops("serve", broken_copy, "--port", "0"), 2)


def test_no_tokenizer(llmops, broken_copy):
    for name in ("tokenizer.json", "tokenizer_config.json"):
        (broken_copy / name).unlink(missing_ok=True)
    refused(llmops("serve", broken_copy, "--port", "0"), 2, "tokenizer")


def test_a_taken_port_names_its_owner(llmops, tiny_llama):
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        error, hint = refused(llmops("serve", tiny_llama, "--port", port), 3, str(port))
    assert "pid" in error
    assert "--port 0" in hint


def test_an_engine_that_is_not_installed(llmops, tiny_llama, tmp_path):
    result = llmops("serve", tiny_llama, "--engine", "vllm", env={"LLMOPS_ENGINES_DIR": str(tmp_path)})
    refused(result, 3, "llmops engines install vllm")


def test_an_image_without_docker(llmops, tiny_llama, tmp_path):
    image = ("--engine", "vllm", "--image", "vllm/vllm-openai:v0.19.0")
    refused(llmops("serve", tiny_llama, *image, env={"PATH": str(tmp_path)}), 3, "docker", "engines install vllm")


@pytest.mark.parametrize(
    ("options", "word"),
    [
        (("--engine", "transformers", "--image", "i:1"), "--engine vllm --image"),
        (("--engine", "transformers", "--replicas", "2"), "--engine ray"),
        (("--engine", "ray", "--lora", "a=."), "--engine vllm"),
        (("--engine", "ray", "--api-key-env", "PATH"), "llmops gateway"),
    ],
)
def test_options_that_an_engine_has_no_way_to_follow(llmops, tiny_llama, options, word):
    refused(llmops("serve", tiny_llama, *options), 2, word)


def test_tensorrt_llm_without_a_gpu(llmops, tiny_llama):
    refused(llmops("serve", tiny_llama, "--engine", "trtllm", env={"CUDA_VISIBLE_DEVICES": ""}), 3, "NVIDIA GPUs")
    refused(llmops("engines", "install", "trtllm", env={"CUDA_VISIBLE_DEVICES": ""}), 3, "NVIDIA GPUs")


def test_a_head_size_that_vllm_cannot_serve_on_the_cpu(llmops, broken_copy):
    import json

    config = json.loads((broken_copy / "config.json").read_text())
    config |= {"head_dim": 16, "num_attention_heads": 4, "num_key_value_heads": 2}
    (broken_copy / "config.json").write_text(json.dumps(config))
    refused(llmops("serve", broken_copy, "--engine", "vllm"), 3, "head_dim 16")


def test_adapters_on_an_engine_without_them(llmops, tiny_llama, tmp_path):
    refused(llmops("serve", tiny_llama, "--engine", "transformers", "--lora", f"a={tmp_path}"), 2, "--engine vllm")


def test_an_adapter_written_wrongly(llmops, tiny_llama):
    refused(llmops("serve", tiny_llama, "--lora", "adapter"), 2, "NAME=DIR")


def test_a_variable_that_is_not_set(llmops, tiny_llama):
    refused(llmops("serve", tiny_llama, "--api-key-env", "NO_SUCH_VARIABLE"), 2, "NO_SUCH_VARIABLE")


def test_more_context_than_the_model_has(llmops, tiny_llama):
    refused(llmops("serve", tiny_llama, "--max-model-len", 1000000, "--port", 0), 2, "--max-model-len")


def test_a_number_out_of_range(llmops, tiny_llama):
    refused(llmops("serve", tiny_llama, "--threads", 0), 2, "--threads")


def test_the_wrong_engine_for_the_file(llmops, tiny_llama):
    refused(llmops("serve", tiny_llama, "--engine", "llamacpp"), 2, "transformers")


def test_a_gguf_that_is_cut_off(llmops, tiny_gguf, tmp_path):
    cut = tmp_path / "cut.gguf"
    cut.write_bytes(tiny_gguf.read_bytes()[:-5000])
    refused(llmops("serve", cut, "--port", "0"), 2, "cut.gguf")


def test_a_file_that_only_claims_to_be_gguf(llmops, tmp_path):
    fake = tmp_path / "fake.gguf"
    fake.write_bytes(b"GGUF" + struct.pack("<IQQ", 3, 1, 1))
    refused(llmops("serve", fake, "--port", "0"), 2)


def test_memory_that_is_not_there(llmops, tiny_llama):
    refused(llmops("serve", tiny_llama, "--kv-cache-gib", 100000, "--port", 0), 3)


def test_an_engine_that_refuses_its_flag_is_explained(llmops, tiny_llama, tmp_path):
    result = llmops("serve", tiny_llama, "--port", 0, "--log", tmp_path / "engine.log", "--", "--no-such-flag")
    assert result.code == 5, result.stderr
    assert "--no-such-flag" in result.stderr
    assert str(tmp_path / "engine.log") in result.stderr


def test_a_dry_run_starts_nothing_and_shows_the_command(llmops, tiny_llama):
    result = llmops("serve", tiny_llama, "--port", 0, "--dry-run", "--json", "--", "--extra", "1")
    data = result.json["data"]
    assert result.code == 0
    assert data["engine"] == "transformers"
    assert "no GPU" in data["reason"] or "GPU" in data["reason"]
    assert data["argv"][-2:] == ["--extra", "1"]
    assert data["argv"][data["argv"].index("--host") + 1] == "127.0.0.1"
    assert data["log"] is None


def test_a_model_without_a_chat_template_is_said_to_be_so(llmops, broken_copy):
    (broken_copy / "chat_template.jinja").unlink(missing_ok=True)
    settings = broken_copy / "tokenizer_config.json"
    settings.write_text(json.dumps({k: v for k, v in json.loads(settings.read_text()).items() if k != "chat_template"}))
    said = " ".join(llmops("serve", broken_copy, "--port", 0, "--dry-run").stdout.split())
    assert "no chat template: /v1/chat/completions will refuse" in said
    template = broken_copy / "mine.jinja"
    template.write_text("{{ messages[0].content }}")
    given = llmops("serve", broken_copy, "--port", 0, "--dry-run", "--chat-template", template)
    assert "no chat template" not in given.stdout
