"""Several models from one file."""

import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
import urllib.error
import urllib.request
from pathlib import Path

import psutil
import pytest
import yaml
from serve_process import alive, environment, until

from llmops.recipes import load_yaml, validate
from llmops.serve.fleet_spec import FleetFile


@pytest.fixture
def site(tiny_gguf, tmp_path):
    file = tmp_path / "serve.yaml"
    link = tmp_path / "model.gguf"
    link.symlink_to(tiny_gguf)
    file.write_text(
        """\
port: 0
models:
  one: {model: model.gguf, max_num_seqs: 2, alias: [first]}
  two: {model: model.gguf, threads: 1}
"""
    )
    return file


def test_two_models_are_served_restarted_alone_and_stopped_together(site, tmp_path):
    gateway = tmp_path / "gateway.yaml"
    with Fleet(tmp_path, "-c", site, "--gateway", gateway) as (process, told):
        urls = {one["model"]: one["url"] for one in told["servers"]}
        assert set(urls) == {"one", "two"}
        for name, url in urls.items():
            with urllib.request.urlopen(url + "/v1/models") as answer:
                assert json.load(answer)["data"][0]["id"] == name
        config = yaml.safe_load(gateway.read_text())
        assert config["providers"]["two"]["base_url"] == urls["two"] + "/v1"
        with front(gateway, tmp_path) as base:
            for path, asked in (
                ("/v1/completions", "two"),
                ("/v1/completions/first", None),
                ("/completions/two", "one"),
            ):
                answer = complete(base + path, asked)
                assert answer["model"] == ("two" if "two" in (path.rpartition("/")[2], asked) else "one")
                assert answer["usage"]["completion_tokens"] >= 1
            with pytest.raises(urllib.error.HTTPError) as missing:
                complete(base + "/v1/completions/third", None)
            assert missing.value.code == 404
            missing.value.close()

        tree = psutil.Process(process.pid).children(recursive=True)
        (first,) = [each for each in tree if "one" in each.cmdline() and "--served-model-name" in each.cmdline()
                    and not each.cmdline()[3].endswith("process_guard.py")]  # fmt: skip
        os.kill(first.pid, signal.SIGKILL)
        until(lambda: not alive(first))
        until(lambda: healthy(urls["one"]))
        assert healthy(urls["two"])
        tree = psutil.Process(process.pid).children(recursive=True)
        process.send_signal(signal.SIGTERM)
        assert process.wait(60) == 143
        until(lambda: not any(alive(each) for each in tree))


@contextlib.contextmanager
def front(config, tmp):
    """A gateway before the servers."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [sys.executable, "-m", "llmops", "gateway", "run", "-c", str(config), "--port", str(port)]
    with (tmp / "gateway.err").open("wb") as err:
        process = subprocess.Popen(command, env=environment(tmp / "state"), stdout=subprocess.DEVNULL, stderr=err)
    try:
        base = f"http://127.0.0.1:{port}"
        until(lambda: healthy(base), 60)
        yield base
    finally:
        process.terminate()
        process.wait(60)


def complete(url, model):
    """A completion by a path; without ``model`` the body is as sites wrote it before there was a gateway."""
    body = {"prompt": "The old clock", "max_tokens": 2} | ({"model": model} if model else {})
    request = urllib.request.Request(url, json.dumps(body).encode(), {"Content-Type": "application/json"})
    with urllib.request.urlopen(request, timeout=60) as answer:
        return json.load(answer)


class Fleet:
    """``serve -c`` with the ready file of several servers."""

    def __init__(self, tmp, *args):
        self.tmp, self.args = tmp, args

    def __enter__(self):
        ready = self.tmp / "ready.json"
        command = [sys.executable, "-m", "llmops", "serve", *map(str, self.args), "--ready-file", str(ready)]
        with (self.tmp / "err").open("wb") as err:
            self.process = subprocess.Popen(
                command, env=environment(self.tmp / "state"), stdout=subprocess.DEVNULL, stderr=err
            )
        until(lambda: ready.exists() or self.process.poll() is not None, 60)
        assert self.process.poll() is None, (self.tmp / "err").read_text()
        return self.process, json.loads(ready.read_text())

    def __exit__(self, *_):
        if self.process.poll() is None:
            self.process.terminate()
            self.process.wait(60)


def healthy(url):
    try:
        with urllib.request.urlopen(url + "/health") as answer:
            return answer.status == 200
    except OSError:
        return False


def test_a_dry_run_plans_all(llmops, site):
    result = llmops("serve", "-c", site, "-n", "--json")
    assert result.code == 0, result.stderr
    assert [one["model"] for one in result.json["data"]["models"]] == ["one", "two"]
    assert len({one["url"] for one in result.json["data"]["models"]}) == 2


@pytest.mark.parametrize(
    ("text", "line", "word"),
    [
        ("models:\n  a: {model: nowhere}\n", 2, "nowhere"),
        ("models:\n  a:\n    model: model.gguf\n    max_lenght: 5\n", 4, "max_lenght"),
        ("models: {}\n", 1, "models"),
        ("models:\n  a:\n    model: model.gguf\n    threads: 0\n", 4, "threads"),
    ],
)
def test_mistakes_are_named_with_their_line(llmops, site, text, line, word):
    site.write_text(text)
    result = llmops("serve", "-c", site)
    assert result.code == 2
    assert f"{site}:{line}:" in result.stderr
    assert word in result.stderr


def test_the_shipped_config_is_a_fleet_whose_models_are_yet_to_be_put_there(llmops):
    shipped = Path(__file__).parents[2] / "configs" / "serve.yaml"
    assert set(validate(FleetFile, load_yaml(shipped)).models) == {"llama-3.1-8b", "llama-3.1-70b", "small"}
    result = llmops("serve", "-c", shipped, "-n")
    assert result.code == 2
    assert "serve.yaml:11: there is no model" in result.stderr


def test_two_models_on_one_port_are_refused(llmops, site):
    site.write_text("models:\n  a: {model: model.gguf, port: 18123}\n  b: {model: model.gguf, port: 18123}\n")
    result = llmops("serve", "-c", site, "-n")
    assert result.code == 2
    assert "18123" in result.stderr


def test_no_model_at_all_is_a_usage_error(llmops):
    assert llmops("serve").code == 2
