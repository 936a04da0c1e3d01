"""Ways in which serving ends; after each of them no process is left."""

import json
import os
import pty
import signal
import subprocess
import sys

import psutil
import pytest
from serve_process import alive, environment, serving, until


def test_ctrl_c_ends_everything_with_130(tiny_gguf, tmp_path):
    with serving(tmp_path, tiny_gguf) as served:
        assert served.children
        assert served.stop(signal.SIGINT) == 130
        served.nothing_left()
    assert not (tmp_path / "ready.json").exists()
    assert "Traceback" not in served.stderr()


def test_term_ends_everything_with_143(tiny_gguf, tmp_path):
    with serving(tmp_path, tiny_gguf) as served:
        assert served.stop(signal.SIGTERM) == 143
        served.nothing_left()
    assert "Traceback" not in served.stderr()


def test_kill_9_leaves_no_engine(tiny_gguf, tmp_path):
    with serving(tmp_path, tiny_gguf) as served:
        served.process.kill()
        served.process.wait()
        served.nothing_left()


def test_an_engine_that_crashes_is_explained_with_exit_5(tiny_gguf, tmp_path):
    with serving(tmp_path, tiny_gguf, "--no-heal") as served:
        os.kill(served.engine().pid, signal.SIGSEGV)
        assert served.process.wait(30) == 5
        served.nothing_left()
    error, hint = [line for line in served.stderr().splitlines() if line.startswith(("error:", "hint:"))]
    assert "llamacpp" in error
    assert str(served.log) in hint


def test_a_closed_terminal_leaves_nothing(tiny_gguf, tmp_path):
    controller, terminal = pty.openpty()

    def own_the_terminal():
        os.setsid()
        os.close(os.open(os.ttyname(terminal), os.O_RDWR))  # the first terminal a session opens controls it

    with serving(
        tmp_path, tiny_gguf, stdin=terminal, stdout=terminal, stderr=terminal, preexec_fn=own_the_terminal
    ) as served:
        os.close(terminal)
        os.close(controller)  # the kernel sends SIGHUP to the session
        until(lambda: served.process.poll() is not None)
        served.nothing_left()


def test_a_stopped_reader_of_stdout_does_not_matter(tiny_gguf, tmp_path):
    """The announcement goes to stderr, the result to stdout only at the end."""
    with serving(tmp_path, tiny_gguf, "--json", stdout=subprocess.PIPE) as served:
        served.process.send_signal(signal.SIGTERM)
        out = served.process.communicate(timeout=40)[0]
    document = json.loads(out)
    assert document["ok"]
    assert document["data"]["engine"] == "llamacpp"
    assert document["data"]["stopped_by"] == signal.SIGTERM


@pytest.mark.parametrize("signum", [signal.SIGINT, signal.SIGTERM])
def test_stopping_during_the_start_leaves_nothing(tiny_llama, tmp_path, signum):
    process = subprocess.Popen(
        [sys.executable, "-m", "llmops", "serve", str(tiny_llama), "--engine", "transformers", "--port", "0"],
        env=environment(tmp_path),
        stderr=subprocess.PIPE,
        stdout=subprocess.DEVNULL,
        text=True,
    )
    with process:
        for line in process.stderr:
            if line.startswith("starting transformers"):
                break
        parent = psutil.Process(process.pid)
        until(lambda: len(parent.children(recursive=True)) >= 2)
        tree = parent.children(recursive=True)
        process.send_signal(signum)
        process.stderr.read()
        assert process.wait(40) == 128 + signum
        until(lambda: not any(alive(child) for child in tree))


def test_a_crashed_engine_is_started_again_at_the_same_address(tiny_gguf, tmp_path):
    with serving(tmp_path, tiny_gguf) as served:
        old = served.engine().pid
        os.kill(old, signal.SIGKILL)
        until(lambda: not (tmp_path / "ready.json").exists())
        until((tmp_path / "ready.json").exists)
        told = json.loads((tmp_path / "ready.json").read_text())
        assert told["url"] == served.url
        assert told["pid"] != served.tree[0].pid
        tree = psutil.Process(served.process.pid).children(recursive=True)
        assert served.stop(signal.SIGTERM) == 143
        until(lambda: not any(alive(child) for child in tree))
    assert "starting again" in served.stderr()
