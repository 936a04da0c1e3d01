"""Real engines in their own environments, broken in many ways; what they write and answer must be diagnosed right. Slow."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))
import broken_triton
from broken_vllm import CASES, fail

from llmops.diagnosis import diagnose_files
from llmops.process import run_logged

pytestmark = pytest.mark.slow
HERE = Path(__file__).parent
RAY = {"actor_is_killed": "worker-killed", "memory_monitor": "host-oom-killed"}


def _right(cause, what, files):
    text = "".join(path.read_text("utf-8", "replace") for path in files)
    if folder := os.environ.get("LLMOPS_RECORD_LOGS"):
        (Path(folder) / f"{cause}--{what}.log").write_text(text, "utf-8")
    diagnosis = diagnose_files(files)
    assert diagnosis.top is not None, text[-3000:]
    assert diagnosis.top.cause == cause, [(c.cause, c.confidence) for c in diagnosis.causes]


@pytest.mark.parametrize("name", CASES)
def test_broken_vllm(name, vllm_environment, tiny_llama, tmp_path):
    vllm = Path(vllm_environment["LLMOPS_ENGINES_DIR"]) / "vllm" / "bin" / "vllm"
    _right(CASES[name].cause, f"vllm-{name}", fail(CASES[name], vllm, tiny_llama, tmp_path))


@pytest.mark.parametrize("name", RAY)
def test_broken_ray(name, ray_environment, tmp_path):
    python = Path(ray_environment["LLMOPS_ENGINES_DIR"]) / "ray" / "bin" / "python"
    log = tmp_path / "ray.log"
    env = {"RAY_USAGE_STATS_ENABLED": "0"}
    assert run_logged([str(python), str(HERE / "provoke_ray.py"), name], log, env=env, timeout_s=180) != 0
    _right(RAY[name], f"ray-{name.replace('_', '-')}", [log])


@pytest.mark.parametrize("name", broken_triton.CASES)
def test_broken_triton(name, triton_environment, tmp_path):
    engine = Path(triton_environment["LLMOPS_ENGINES_DIR"]) / "triton"
    log = broken_triton.fail(name, engine, tmp_path)
    _right(broken_triton.CASES[name], f"triton-{name}", [log])
