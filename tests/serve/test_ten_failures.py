"""Ten real failures on real engines: each heals, or says in one line what it was and what to do. Slow: vLLM starts often.

Most of them are refused before anything starts (``test_serve_refusals``); here the check is passed by, as a flag after
``--`` or an environment that changes between the check and the start does, so that the engine itself fails.
"""

import contextlib
import functools
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
from pathlib import Path

import openai
import psutil
import pytest
from serve_process import alive, environment, serving, until

pytestmark = pytest.mark.slow

PROMPT = "The quick brown fox jumps over the lazy dog while the old clock in the hall strikes nine and the rain begins."


def answers(served) -> bool:
    with openai.OpenAI(base_url=served.url + "/v1", api_key="none", max_retries=0, timeout=120) as client:
        text = client.completions.create(model=served.model, prompt=PROMPT, max_tokens=4, temperature=0)
        return text.usage.completion_tokens > 0


@pytest.fixture
def vllm(llmops, vllm_environment):
    """``llmops serve --engine vllm`` that is expected to fail."""
    return functools.partial(llmops, "serve", env=vllm_environment, timeout=500)


def explained(result, code, *words):
    """One line with the cause and the line of the log that proves it, a hint, and where the log is."""
    assert result.code == code, result.stderr
    error, hint = result.error_lines
    for word in words:
        assert word in error or word in hint, result.stderr
    assert "log" in hint
    return error, hint


def copy_of(model: Path, out: Path, **config) -> Path:
    shutil.copytree(model, out)
    path = out / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | config))
    return out


def test_1_a_context_that_is_too_long_is_shortened(tiny_llama, tmp_path, vllm_environment):
    with serving(
        tmp_path, tiny_llama, "--engine", "vllm", "--kv-cache-gib", "1", "--", "--max-model-len", "999999",
        env=vllm_environment, seconds=500,
    ) as served:  # fmt: skip
        assert answers(served)
        assert "trying again with --max-model-len 2048 (was 999999)" in served.stderr()


def test_2_a_cache_without_room_for_one_request_gets_a_shorter_context(tiny_llama, tmp_path, vllm_environment):
    long = copy_of(tiny_llama, tmp_path / "long", max_position_embeddings=2**24, hidden_size=64)
    with serving(
        tmp_path, long, "--engine", "vllm", "--kv-cache-gib", "1", "--max-model-len", "4096", "--", "--max-model-len",
        str(2**24), env=vllm_environment, seconds=500,
    ) as served:  # fmt: skip
        assert answers(served)
        assert "trying again with --max-model-len" in served.stderr()


def test_3_a_port_that_is_taken_meanwhile_is_left_for_another(tiny_llama, tmp_path):
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        with serving(tmp_path, tiny_llama, "--engine", "transformers", "--", "--port", str(port)) as served:
            assert not served.url.endswith(f":{port}")
            assert answers(served)
            assert "trying again with --port" in served.stderr()


def test_4_a_type_that_is_none(tiny_llama, vllm):
    result = vllm(tiny_llama, "--engine", "vllm", "--port", 0, "--no-heal", "--", "--dtype", "int8")
    explained(result, 5, "a value of one", "argument --dtype: invalid choice: 'int8'")


def test_5_and_7_no_chat_template_is_said_at_the_start_and_a_killed_worker_comes_back(
    tiny_llama, tmp_path, vllm_environment
):
    bare = tmp_path / "bare"
    shutil.copytree(tiny_llama, bare)
    (bare / "chat_template.jinja").unlink(missing_ok=True)
    settings = bare / "tokenizer_config.json"
    settings.write_text(json.dumps({k: v for k, v in json.loads(settings.read_text()).items() if k != "chat_template"}))
    with serving(
        tmp_path, bare, "--engine", "vllm", "--kv-cache-gib", "1", env=vllm_environment, seconds=500
    ) as served:
        assert answers(served)
        assert "no chat template" in served.stderr()
        assert "--chat-template" in served.stderr()
        with (
            openai.OpenAI(base_url=served.url + "/v1", api_key="none", max_retries=0, timeout=120) as client,
            pytest.raises(openai.BadRequestError, match="chat template"),
        ):
            client.chat.completions.create(model=served.model, messages=[{"role": "user", "content": "Hello"}])
        worker = served.children[-1]
        os.kill(worker.pid, signal.SIGKILL)
        until(lambda: not alive(worker))
        until(lambda: "starting again in" in served.stderr(), 120)
        until(lambda: comes_back(served), 400)
        served.tree = psutil.Process(served.process.pid).children(recursive=True)
        served.stop(signal.SIGTERM)
        served.nothing_left()


def comes_back(served) -> bool:
    with contextlib.suppress(openai.APIError):
        return answers(served)
    return False


def test_6_an_adapter_that_cannot_be_read(tiny_llama, tmp_path, vllm):
    broken = tmp_path / "broken"
    broken.mkdir()
    (broken / "adapter_config.json").write_text('{"peft_type": "LORA", "r": 8, "target_modules": ["q_proj"]}')
    (broken / "adapter_model.safetensors").write_bytes(b"\x10\x00\x00\x00\x00\x00\x00\x00{not json}")
    refused = vllm(tiny_llama, "--engine", "vllm", "--port", 0, "--lora", f"bad={broken}")
    assert refused.code == 2, refused.stderr
    assert "--lora bad" in refused.stderr
    missing = f"bad={tmp_path / 'nowhere'}"
    result = vllm(tiny_llama, "--engine", "vllm", "--port", 0, "--kv-cache-gib", 1, "--no-heal", "--",
                  "--enable-lora", "--lora-modules", missing)  # fmt: skip
    explained(result, 5, "There is no LoRA adapter at this path", "adapter_config.json")


def test_8_a_split_that_the_heads_do_not_allow_becomes_the_plans_own(tiny_llama, tmp_path, vllm_environment):
    with serving(
        tmp_path, tiny_llama, "--engine", "vllm", "--kv-cache-gib", "1", "--", "--tensor-parallel-size", "3",
        env=vllm_environment, seconds=500,
    ) as served:  # fmt: skip
        assert answers(served)
        said = served.stderr()
        assert (
            "cannot be split over this number of GPUs: trying again with a split that fits this machine (was 3)" in said
        )


def test_9_a_package_that_is_not_there(tiny_llama, tmp_path, llmops):
    bare = tmp_path / "env"
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", str(bare)], check=True)
    result = llmops("serve", tiny_llama, "--engine", "vllm", "--engine-python", bare / "bin" / "python", "--port", 0)
    explained(result, 5, "A package is missing", "No module named 'vllm'", "llmops engines install vllm")


@pytest.fixture
def small_disk(tmp_path):
    """A file system of half a megabyte, which only root can make."""
    place = tmp_path / "disk"
    place.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=512k", "tmpfs", str(place)], capture_output=True, check=False
    )
    if mounted.returncode:
        pytest.skip("a small file system can be mounted by root only")
    try:
        yield place
    finally:
        subprocess.run(["umount", str(place)], check=True)


def fill(disk: Path) -> None:
    with contextlib.suppress(OSError), (disk / "ballast").open("wb", buffering=0) as ballast:
        while ballast.write(bytes(4096)):
            pass


def test_10_a_disk_that_is_full_is_said_before_the_start(tiny_llama, small_disk, llmops):
    fill(small_disk)
    serve = functools.partial(llmops, "serve", tiny_llama, "--engine", "transformers", "--port", 0, timeout=120)
    for result in (
        serve("--log", small_disk / "engine.log"),
        serve(env={"LLMOPS_STATE_DIR": str(small_disk / "state")}),
        serve("--detach", env={"LLMOPS_STATE_DIR": str(small_disk / "state")}),
    ):
        assert result.code == 3, result.stderr
        error, hint = result.error_lines
        assert "no space for the log" in error
        assert "full (0 B free)" in error
        assert "free some" in hint


def test_10_a_disk_that_fills_up_meanwhile_explains_the_death(tiny_llama, small_disk, tmp_path):
    log, errors = small_disk / "engine.log", tmp_path / "stderr.txt"
    words = ("serve", tiny_llama, "--engine", "transformers", "--port", "0", "--no-heal", "--log", log)
    command = [sys.executable, "-m", "llmops", *map(str, words)]
    with errors.open("wb") as stderr:
        process = subprocess.Popen(command, stderr=stderr, stdout=subprocess.DEVNULL, env=environment(tmp_path / "s"))
    until(log.exists, 60)
    fill(small_disk)
    assert process.wait(180) == 5, errors.read_text()
    error, hint = (line for line in errors.read_text().splitlines() if line.startswith(("error: ", "hint: ")))
    assert "the disk of" in error
    assert "is full" in error
    assert "free some" in hint
