"""Several models from one file."""

import json
import os
import signal
import subprocess
import sys
import urllib.request

import psutil
import pytest
import yaml
from serve_process import alive, environment, until


@pytest.fixture
def site(tiny_gguf, tmp_path):
    file = tmp_path / "serve.yaml"
    link = tmp_path / "model.gguf"
    link.symlink_to(tiny_gguf)
    file.write_text(
        """\
port: 0
models:
  one: {model: model.gguf, max_num_seqs: 2}
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


def test_two_models_on_one_port_are_refused(llmops, site):
    site.write_text("models:\n  a: {model: model.gguf, port: 18123}\n  b: {model: model.gguf, port: 18123}\n")
    result = llmops("serve", "-c", site, "-n")
    assert result.code == 2
    assert "18123" in result.stderr


def test_no_model_at_all_is_a_usage_error(llmops):
    assert llmops("serve").code == 2
