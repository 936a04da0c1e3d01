"""What goes wrong for real users: each is one line, a hint, the right exit code, and leaves nothing behind."""

import json
import os
import shutil
import socket
import subprocess

import pytest

BLOCK = """
import sys
from importlib.machinery import PathFinder
class Block:
    @staticmethod
    def find_spec(name, path=None, target=None):
        if name.partition(".")[0] in {blocked!r}:
            raise ModuleNotFoundError(f"No module named {{name!r}}", name=name)
        return None
sys.meta_path.insert(0, Block)
"""


def without(tmp_path, *modules):
    """An environment in which some packages are not installed."""
    place = tmp_path / "blocked"
    place.mkdir()
    (place / "sitecustomize.py").write_text(BLOCK.format(blocked=set(modules)))
    return {"PYTHONPATH": str(place)}


def is_one_line_and_a_hint(result, code):
    assert result.code == code, result.stderr
    assert [line.partition(":")[0] for line in result.error_lines] == ["error", "hint"], result.stderr
    assert "Traceback" not in result.stderr
    document = json.loads(result.stdout)
    assert document["ok"] is False
    assert document["error"]["exit_code"] == code
    assert document["error"]["hint"]


@pytest.fixture
def copy(tiny_llama, tmp_path):
    return shutil.copytree(tiny_llama, tmp_path / "model")


@pytest.fixture
def truncated(copy):
    weights = copy / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-5000])
    return copy


def test_a_wrong_file(llmops, tmp_path):
    (tmp_path / "notes.txt").write_text("not a model")
    is_one_line_and_a_hint(llmops("inspect", "notes.txt", "--json", cwd=tmp_path), 2)


@pytest.mark.parametrize(
    "command",
    [
        ("inspect", "no-such-dir"),
        ("quantize", "no-such-dir", "-o", "out"),
        ("evaluate", "no-such-dir", "--against", "other"),
        ("serve", "no-such-dir"),
        ("plan", "no-such-dir"),
        ("diagnose", "no-such.log"),
        ("run", "no-such-recipe.yaml"),
        ("convert", "gguf", "no-such.gguf", "-o", "out"),
        ("export", "onnx", "no-such-dir", "-o", "out"),
    ],
    ids=lambda command: command[0],
)
def test_a_missing_input(llmops, tmp_path, command):
    is_one_line_and_a_hint(llmops(*command, "--json", cwd=tmp_path), 2)
    assert list(tmp_path.iterdir()) == []


def test_a_wrong_yaml_key(llmops, tmp_path):
    (tmp_path / "r.yaml").write_text("recipe: 1\nname: a\nsummary: b\nsteps:\n  - quantize: {bitz: 4}\n")
    result = llmops("run", "r.yaml", "--json", cwd=tmp_path)
    is_one_line_and_a_hint(result, 2)
    assert result.error_lines == [
        "error: r.yaml:5: unknown key 'bitz' in steps[0].quantize",
        "hint: did you mean 'bits'?",
    ]


def test_truncated_weights(llmops, truncated, tmp_path):
    for command in (("quantize", truncated, "-o", "out"), ("serve", truncated, "--port", "0")):
        result = llmops(*command, "--json", cwd=tmp_path)
        is_one_line_and_a_hint(result, 2)
        assert "model.safetensors" in result.error_lines[0]
    shown = llmops("inspect", truncated, "--json")
    assert shown.code == 1
    assert any(finding["severity"] == "error" for finding in shown.json["findings"])
    assert [path.name for path in tmp_path.iterdir()] == ["model"]


def test_a_missing_extra_names_its_install_line(llmops, copy, tmp_path):
    env = without(tmp_path, "gptqmodel")
    result = llmops(
        "quantize", copy, "-o", "out", "--method", "gptq", "--group-size", "32", "--json", cwd=tmp_path, env=env
    )
    is_one_line_and_a_hint(result, 3)
    assert "gptqmodel" in result.error_lines[0]
    assert "llmops[gptq]" in result.error_lines[1]
    assert not (tmp_path / "out").exists()


def test_an_occupied_port(llmops, copy):
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        result = llmops("serve", copy, "--port", port, "--json")
        is_one_line_and_a_hint(result, 3)
        assert str(port) in result.error_lines[0]
        is_one_line_and_a_hint(
            llmops("gateway", "run", "--upstream", "http://127.0.0.1:9/v1", "--port", port, "--json"), 3
        )


def test_a_full_disk(llmops, copy, tmp_path):
    """A real full file system, where this user may mount one."""
    small = tmp_path / "small"
    small.mkdir()
    if subprocess.run(["mount", "-t", "tmpfs", "-o", "size=200k", "none", str(small)], capture_output=True).returncode:
        pytest.skip("needs the right to mount a tmpfs")
    try:
        result = llmops("quantize", copy, "-o", small / "out", "--method", "gptq", "--group-size", "32", "--json")
        is_one_line_and_a_hint(result, 3)
        (small / "fill").write_bytes(b"x" * (os.statvfs(small).f_bavail * os.statvfs(small).f_frsize))
        is_one_line_and_a_hint(llmops("recipes", "copy", "quickstart", small / "r.yaml", "--json"), 3)
        assert [path.name for path in small.iterdir()] == ["fill"]
    finally:
        subprocess.run(["umount", str(small)], check=True)


def test_a_path_without_permission_is_named(llmops, tmp_path):
    if os.geteuid() == 0:
        target = "/proc/version"  # not even root may write there
    else:
        target = tmp_path / "locked" / "r.yaml"
        target.parent.mkdir(mode=0o500)
    result = llmops("recipes", "copy", "quickstart", f"{target}x", "--json")
    assert result.code in (2, 3)
    assert len(result.error_lines) == 2
