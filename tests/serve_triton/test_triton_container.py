"""Triton in a container: the command word by word, what is said where it cannot run, and a real one where podman is."""

import json
import shutil
from pathlib import Path

import pytest

from llmops.errors import ExitCode, LlmopsError
from llmops.progress import Silent
from llmops.serve.triton.images import have_image
from llmops.serve.triton.launch import Ports, make_launch
from llmops.serve.triton.locate import VLLM_IMAGE, Server
from llmops.serve.triton.spec import TritonSpec

PORTS = Ports(8000, 18001, 18002)
GOLDEN = [
    *("docker", "run", "--rm", "--name", "llmops-triton-8000", "--shm-size", "1g", "--init", "--gpus", "all"),
    *("--publish", "127.0.0.1:8000:8000", "--publish", "127.0.0.1:18001:8001", "--publish", "127.0.0.1:18002:8002"),
    *("--mount", "type=bind,source=/r,target=/models,readonly"),
    *("--env", "OMP_NUM_THREADS=2", "--env", "OMP_WAIT_POLICY=PASSIVE"),
    *("--env", "TOKENIZERS_PARALLELISM=false", "--env", "HF_HUB_OFFLINE=1"),
    *("site/triton:1", "tritonserver", "--model-repository=/models", "--allow-gpu-metrics=true", "--log-verbose=1"),
]


def launched(program="docker", *, gpu=True, repository="/r", **values):
    server = Server("container", Path(program), None, image=values.pop("image", "site/triton:1"))
    return make_launch(TritonSpec(**values), server, Path(repository), PORTS, gpu=gpu, weights_bytes=0)


def test_the_command_of_a_container_word_by_word():
    found = launched(threads=2, extra=("--log-verbose=1",))
    assert list(found.argv) == GOLDEN
    assert (found.url, found.grpc, found.container) == (
        "http://127.0.0.1:8000", "127.0.0.1:18001", "llmops-triton-8000")  # fmt: skip


def test_what_changes_the_command():
    without = [word for word in GOLDEN if word not in ("--gpus", "all")]
    without[without.index("--allow-gpu-metrics=true")] = "--allow-gpu-metrics=false"
    assert list(launched(gpu=False, threads=2, extra=("--log-verbose=1",)).argv) == without
    podman = launched("/usr/bin/podman").argv
    assert podman[podman.index("--device") + 1] == "nvidia.com/gpu=all"
    assert not {"--gpus", "--init"} & set(podman)
    assert "[::1]:8000:8000" in launched(host="::1").argv
    odd = [word for word in launched(repository="/a,b:c").argv if word.startswith("type=bind")]
    assert odd == ['type=bind,"source=/a,b:c",target=/models,readonly']
    vllm = launched(middle="vllm", model=Path("/m"), image=VLLM_IMAGE).argv
    assert "type=bind,source=/m,target=/m,readonly" in vllm  # where model.json says
    assert VLLM_IMAGE in vllm


@pytest.fixture
def small(tmp_path):
    """What the files of an export say, without a graph: nothing here gets as far as loading it."""
    directory = tmp_path / "small"
    directory.mkdir()
    (directory / "tokenizer.json").write_text("{}")
    tensors = [
        {"name": name, "dtype": "INT64", "dims": ["batch", "sequence"]} for name in ("input_ids", "attention_mask")
    ]
    logits = [{"name": "logits", "dtype": "FLOAT", "dims": ["batch", "sequence", 99]}]
    record = {
        "inputs": tensors,
        "outputs": logits,
        "task": "causal-lm",
        "dimensions": {"batch": [1, 16], "sequence": [1, 64]},
    }
    (directory / "export.json").write_text(json.dumps(record))
    return directory


def serve(llmops, small, tmp_path, *words, env):
    return llmops("serve", small, "--engine", "triton", "--mode", "docker", "--port", "0", "--grpc-port", "0",
                  "--metrics-port", "0", "--repository", tmp_path / "repo", *words, env=env)  # fmt: skip


def test_without_docker_the_way_out_is_said(llmops, small, tmp_path):
    env = {"PATH": str(tmp_path), "LLMOPS_ENGINES_DIR": str(tmp_path)}
    for words in ((), ("--dry-run",)):
        result = serve(llmops, small, tmp_path, *words, env=env)
        assert result.code == 3
        assert result.error_lines == [
            "error: neither docker nor podman is on the path", "hint: install one, or: llmops engines install triton"]  # fmt: skip
    assert not (tmp_path / "repo").exists()


@pytest.mark.skipif(shutil.which("docker") is None, reason="needs docker's own client")
def test_a_real_docker_client_without_a_daemon(llmops, small, tmp_path):
    env = {"DOCKER_HOST": f"unix://{tmp_path}/nobody.sock"}
    result = serve(llmops, small, tmp_path, "--image", "site/triton:1", env=env)
    assert result.code == 3, result.stderr
    assert "the container engine does not run, or this user may not use it" in result.stderr
    assert "llmops engines install triton" in result.stderr


def stand_in(tmp_path, pull, code):
    """A program that answers as podman does for an image that is not there, and writes down what it was asked."""
    program = tmp_path / "podman"
    program.write_text(
        f"""#!/bin/sh
echo "$@" >> {tmp_path}/asked
case "$1" in
image) echo "Error: inspecting object: $5: image not known" >&2; exit 125;;
pull) echo '{pull}' >&2; exit {code};;
esac
"""
    )
    program.chmod(0o755)
    return Server("container", program, None, image="site/triton:1")


def test_an_image_that_is_not_here_is_pulled_before_the_clock_of_the_start_runs(tmp_path):
    have_image(stand_in(tmp_path, "pulled", 0), tmp_path / "log", Silent())
    asked = (tmp_path / "asked").read_text().splitlines()
    assert asked == ["image inspect --format {{.Id}} site/triton:1", "pull site/triton:1"]


@pytest.mark.parametrize(
    ("pull", "said"),
    [
        ('Error response from daemon: Get "https://r.example/v2/": dial tcp: lookup r.example on 127.0.0.53:53: no such host',
         "lookup r.example on 127.0.0.53"),
        ("Error response from daemon: pull access denied for site/triton, repository does not exist", "site/triton"),
        ("Error: initializing source docker://site/triton:1: reading manifest 1 in site/triton: manifest unknown", "manifest unknown"),
        ("something new", "site/triton:1 cannot be had: something new"),
    ],
    ids=["network", "denied", "tag", "unknown"],
)  # fmt: skip
def test_an_image_that_cannot_be_had_is_said(tmp_path, pull, said):
    with pytest.raises(LlmopsError) as caught:
        have_image(stand_in(tmp_path, pull, 1), tmp_path / "log", Silent())
    assert said in caught.value.message
    assert caught.value.exit_code == ExitCode.OUTSIDE
