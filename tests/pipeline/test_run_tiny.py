"""A whole run on a tiny model made on the spot: real quantiser, real engine, real requests."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest

RECIPE = """\
recipe: 1
name: tiny
summary: The whole way with a model of random weights
steps:
  - model: {{sources: [{{path: {model}, licence: none needed}}]}}
  - inspect: {{}}
  - plan: {{max_model_len: 512}}
  - quantize: {{method: gptq, bits: 8, group_size: 32, samples: 34, seq_len: 256, quality: {{chunks: 2, chunk_tokens: 128, max_kl: 9, max_ppl_ratio: 9, min_agreement: 0}}}}
  - serve: {{engine: transformers, max_model_len: 512, dtype: float32}}
  - chat: {{questions: ["What is cotton?"], max_tokens: 8}}
  - bench: {{concurrency: 1, requests: 3, warmup: 1, input_tokens: 16, output_tokens: 8, allow_invalid: true}}
  - bench: {{concurrency: 2, requests: 4, warmup: 0, input_tokens: 16, output_tokens: 8, allow_invalid: true}}
  - diagnose: {{}}
  - price: {{machine_hour_usd: "0.10", against: [gpt-4o-mini, no-such-model]}}
"""


@pytest.fixture(scope="module")
def workplace(tmp_path_factory, tiny_llama):
    root = tmp_path_factory.mktemp("run")
    (root / "tiny.yaml").write_text(RECIPE.format(model=tiny_llama))
    return root


def processes_below(directory: Path) -> list[psutil.Process]:
    """Processes that work in or mention the directory."""
    found = []
    for process in psutil.process_iter(["pid", "cmdline", "cwd"]):
        words = " ".join(process.info["cmdline"] or [])
        if process.pid != os.getpid() and (str(directory) in words or str(directory) in (process.info["cwd"] or "")):
            found.append(process)
    return found


def until(condition, seconds=60.0):
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "condition not met in time"
        time.sleep(0.05)


@pytest.fixture(scope="module")
def first(workplace, llmops):
    result = llmops("run", "tiny.yaml", "--json", cwd=workplace, timeout=280)
    assert result.code == 0, result.stderr
    return result


def test_every_step_answers_yes_with_figures(first, workplace):
    data = first.json["data"]
    steps = {step["verb"]: step for step in data["steps"]}
    assert [step["verb"] for step in data["steps"]] == [
        "model", "inspect", "plan", "quantize", "serve", "chat", "bench", "bench", "diagnose", "price",
    ]  # fmt: skip
    assert all(step["ok"] for step in data["steps"])
    assert steps["quantize"]["data"]["quality"]["tokens"] > 0
    assert steps["bench"]["data"]["counts"]["ok"] == 4
    assert steps["bench"]["data"]["metrics"]["ttft_ms"]["p50"] > 0
    assert steps["diagnose"]["data"]["status"] == "healthy"
    rows = {row["name"]: row for row in steps["price"]["data"]["rows"]}
    assert float(rows["this machine"]["per_million"]) > 0
    assert rows["no-such-model"]["per_million"] is None
    assert rows["no-such-model"]["charge"]["reason"]


def test_the_report_stands_in_three_forms(first, workplace):
    run = workplace / "runs" / "tiny"
    assert json.loads((run / "report.json").read_text())["data"]["name"] == "tiny"
    page = (run / "report.html").read_text()
    assert page.count("<svg") >= 3
    assert "http://" not in page.replace("http://www.w3.org", "").replace("http://127.0.0.1", "")
    assert "## Load test" in (run / "report.md").read_text()
    assert (run / "server.log").is_file()
    assert (run / "quantized" / "llmops-quantize.json").is_file()


def test_nothing_is_left_running_or_lying_about(first, workplace):
    until(lambda: not processes_below(workplace))
    assert {path.name for path in workplace.iterdir()} == {"tiny.yaml", "runs"}


def test_progress_is_a_line_a_step_without_a_terminal(first):
    for number, verb in enumerate(("model", "inspect", "plan", "quantize", "serve", "chat"), 1):
        assert f"[{number}/10] {verb}" in first.stderr


def test_a_second_run_reuses_the_quantised_model(first, workplace, llmops):
    weights = workplace / "runs" / "tiny" / "quantized" / "config.json"
    before = weights.stat().st_mtime_ns
    result = llmops("run", "tiny.yaml", "--json", cwd=workplace, timeout=280)
    assert result.code == 0, result.stderr
    steps = {step["verb"]: step for step in result.json["data"]["steps"]}
    assert steps["quantize"]["reused"] is True
    assert steps["quantize"]["data"] == {step["verb"]: step for step in first.json["data"]["steps"]}["quantize"]["data"]
    assert weights.stat().st_mtime_ns == before


@pytest.mark.slow
def test_a_gate_that_says_no_ends_the_run_with_1_and_a_report(first, workplace, llmops):
    strict = ("--set", "quantize.quality={chunks: 2, chunk_tokens: 128, max_kl: 0.0000001}")
    result = llmops("run", "tiny.yaml", "--name", "strict", *strict, "--json", cwd=workplace, timeout=280)
    assert result.code == 1, result.stderr
    assert result.json["ok"] is False
    verbs = [step["verb"] for step in result.json["data"]["steps"]]
    assert verbs[-1] == "quantize"
    run = workplace / "runs" / "strict"
    assert not (run / "quantized").exists()
    assert (run / "quantized.rejected").is_dir()
    assert "not run" in (run / "report.md").read_text()


def test_a_failing_step_leaves_a_report_that_names_it(workplace, llmops):
    result = llmops("run", "tiny.yaml", "--name", "gone", "--model", "no/such/dir/at-all", cwd=workplace)
    assert result.code == 2
    assert len(result.error_lines) == 2
    report = json.loads((workplace / "runs" / "gone" / "report.json").read_text())
    assert report["ok"] is False
    assert report["data"]["steps"][-1]["verb"] == "model"


@pytest.mark.slow
@pytest.mark.parametrize("verb", ["quantize", "serve", "bench"])
def test_kill_9_in_a_stage_leaves_nothing_and_the_rerun_finishes(workplace, llmops, verb):
    command = [sys.executable, "-m", "llmops", "run", "tiny.yaml", "--name", f"kill-{verb}"]
    process = subprocess.Popen(command, cwd=workplace, stderr=subprocess.PIPE, stdout=subprocess.DEVNULL, text=True)
    for line in process.stderr:
        if f"] {verb}" in line:
            break
    # Into the stage: until its child process is up, where it has one.
    until(lambda: len(processes_below(workplace)) >= (2 if verb in ("quantize", "serve") else 1))
    process.send_signal(signal.SIGKILL)
    process.wait()
    process.stderr.close()
    until(lambda: not processes_below(workplace))
    run = workplace / "runs" / f"kill-{verb}"
    assert not (run / "report.html").exists()
    if verb == "quantize":
        assert not (run / "quantized").exists()
    result = llmops("run", "tiny.yaml", "--name", f"kill-{verb}", cwd=workplace, timeout=280)
    assert result.code == 0, result.stderr
    assert sorted(path.name for path in run.iterdir() if "partial" in path.name) == []


CONVERT = """\
recipe: 1
name: convert
summary: A GGUF file on its way to a directory
steps:
  - model: {{sources: [{{path: {model}}}]}}
  - inspect: {{}}
"""


@pytest.mark.slow
def test_kill_9_while_a_model_is_converted(tmp_path, small_gguf, llmops):
    (tmp_path / "convert.yaml").write_text(CONVERT.format(model=small_gguf))
    cache = tmp_path / "cache"
    env = {**os.environ, "LLMOPS_CACHE_DIR": str(cache)}
    command = [sys.executable, "-m", "llmops", "run", "convert.yaml"]
    process = subprocess.Popen(command, cwd=tmp_path, env=env, stderr=subprocess.PIPE, text=True)
    for line in process.stderr:
        if "Reading the weights" in line:
            break
    process.send_signal(signal.SIGKILL)
    process.wait()
    process.stderr.close()
    until(lambda: not processes_below(tmp_path))
    assert not list(cache.glob("*/config.json"))
    result = llmops("run", "convert.yaml", "--json", cwd=tmp_path, env={"LLMOPS_CACHE_DIR": str(cache)}, timeout=600)
    assert result.code == 0, result.stderr
    assert len(list(cache.glob("*/config.json"))) == 1
    assert [path for path in cache.rglob("*") if "partial" in path.name] == []
