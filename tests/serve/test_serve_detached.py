"""Detached servers: they outlive the command, are found again, and a pid used anew is not taken for them."""

import json
import os
import urllib.request
from pathlib import Path

import psutil
import pytest
from serve_process import alive, until

from llmops.serve import registry


@pytest.fixture
def state(tmp_path, llmops):
    yield tmp_path / "state"
    llmops("stop", "--all", env={"LLMOPS_STATE_DIR": str(tmp_path / "state")}, timeout=60)


@pytest.fixture
def run(llmops, state):
    def command(*args):
        return llmops(*args, env={"LLMOPS_STATE_DIR": str(state)}, timeout=60)

    return command


def test_the_life_of_a_detached_server(run, tiny_gguf):
    started = run(
        "serve", tiny_gguf, "--port", 0, "--name", "org/tiny", "--detach", "--json", "--", "--max-num-seqs", "2"
    )
    assert started.code == 0, started.stderr
    (row,) = started.json["data"]["servers"]
    assert (row["name"], row["model"], row["state"]) == ("org-tiny", "org/tiny", "ready")
    with urllib.request.urlopen(row["url"] + "/v1/models") as answer:
        assert json.load(answer)["data"][0]["id"] == "org/tiny"
    tree = [psutil.Process(row["pid"]), *psutil.Process(row["pid"]).children(recursive=True)]
    assert len(tree) >= 3

    assert run("status", "org-tiny").code == 0
    assert [each["name"] for each in run("ps", "--json").json["data"]["servers"]] == ["org-tiny"]
    assert run("logs", "org-tiny", "--json").json["data"]["lines"]
    again = run("serve", tiny_gguf, "--port", 0, "--name", "org/tiny", "--detach")
    assert again.code == 2
    assert "llmops stop org-tiny" in again.stderr

    assert run("stop", "org-tiny").code == 0
    until(lambda: not any(alive(each) for each in tree))
    assert run("ps", "--json").json["data"]["servers"] == []
    assert run("status", "org-tiny").code == 2


def test_a_killed_server_is_dead_and_takes_its_engine_along(run, tiny_gguf):
    row = run("serve", tiny_gguf, "--port", 0, "--detach", "--json").json["data"]["servers"][0]
    supervisor = psutil.Process(row["pid"])
    tree = supervisor.children(recursive=True)
    supervisor.kill()
    until(lambda: not any(alive(each) for each in [supervisor, *tree]))
    assert run("status", "tiny").code == 1
    listed = run("ps", "--json").json
    assert [each["state"] for each in listed["data"]["servers"]] == ["dead"]
    assert listed["findings"][0]["rule"] == "server-dead"
    assert run("ps", "--json").json["data"]["servers"] == []


def test_a_start_that_fails_is_told_here_and_leaves_no_server(run, tiny_gguf):
    failed = run("serve", tiny_gguf, "--port", 0, "--detach", "--", "--no-such-flag")
    assert failed.code == 5
    assert "--no-such-flag" in failed.stderr
    assert run("ps", "--json").json["data"]["servers"] == []


def test_mistakes_are_told_before_anything_is_started(run, state, tmp_path):
    assert run("serve", tmp_path / "nothing", "--detach").code == 2
    assert not list(state.glob("servers/*.json"))
    assert run("stop").code == 2
    assert run("stop", "nobody").code == 2
    assert run("logs", "../secret").code == 2


def test_a_pid_that_is_used_again_is_not_the_server(tmp_path):
    me, boot = os.getpid(), Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    started, _ = registry.identity(me)
    entry = {
        "url": "http://127.0.0.1:1", "model": "m", "engine": "vllm", "pid": 1, "serve_pid": me, "started": started,
        "boot": boot, "log": "l", "ready_s": 1.0, "ready_at": 1.0,
    }  # fmt: skip
    file = tmp_path / "m.json"
    for change, expected in (({}, True), ({"started": started + 1}, False), ({"boot": "another"}, False),
                             ({"serve_pid": 2**22 - 1}, False)):  # fmt: skip
        file.write_text(registry.encode(entry | change))
        assert registry.read(file).alive is expected
    for rubbish in ("", "{", "[]", '{"serve_pid": "x"}'):
        file.write_text(rubbish)
        assert registry.read(file).alive is False
