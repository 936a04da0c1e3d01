"""Real failures: recorded logs in the default run, the same provoked again in the slow run."""

from __future__ import annotations

import os
import shutil
import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))
from provoke import NOT_ALLOWED

from llmops.diagnosis import diagnose_files
from llmops.process import run_logged

HERE = Path(__file__).parent
RECORDED = sorted((HERE / "failures").glob("*.log"))
PROVOKED = {
    "weights_truncated": "weights-corrupt",
    "weights_of_another_shape": "weights-names-mismatch",
    "no_such_directory": "model-path-invalid",
    "hub_is_offline": "hf-unreachable",
    "unknown_architecture": "arch-unsupported",
    "no_tokenizer": "tokenizer-files-missing",
    "no_chat_template": "chat-template-missing",
    "no_cuda_in_torch": "torch-cpu-build",
    "port_is_taken": "port-in-use",
    "too_many_files": "open-files-limit",
    "disk_is_full": "disk-full",
    "small_tmpfs": "disk-full",
    "memory_limit": "host-oom-killed",
    "memory_cgroup": "host-oom-killed",
    "gguf_truncated": "weights-corrupt",
    "gguf_of_unknown_architecture": "gguf-arch-unsupported",
    "ggml_of_old": "gguf-format-obsolete",
    "wrong_quantisation_type": "quantize-config-invalid",
    "onnx_is_no_onnx": "onnx-file-invalid",
    "nobody_listens": "api-connection-failed",
    "answer_is_slow": "api-request-timeout",
    "key_is_wrong": "api-invalid-key",
    "worker_is_killed": "host-oom-killed",
    "module_is_missing": "package-version-conflict",
}
NEEDS = {"gguf": ("gguf", "xllamacpp"), "ggml": ("xllamacpp",), "wrong": ("bitsandbytes",), "onnx": ("onnxruntime",)}


@pytest.mark.parametrize("log", RECORDED, ids=lambda path: path.stem)
def test_recorded_failure(log):
    """``CAUSE--what.log``: a log of a real engine that was made to fail here."""
    diagnosis = diagnose_files([log])
    assert diagnosis.top is not None
    assert diagnosis.top.cause == log.stem.partition("--")[0], [(c.cause, c.confidence) for c in diagnosis.causes]
    lines = log.read_bytes().decode().split("\n")  # not read_text: it takes the \r of a progress bar for a line end
    for evidence in diagnosis.top.evidence:
        assert evidence.text in lines[evidence.line - 1]


def test_there_are_enough_of_them():
    assert len(RECORDED) >= 15


@pytest.mark.slow
@pytest.mark.parametrize("name", PROVOKED)
def test_provoked_failure(name, tiny_llama, tmp_path):
    for module in NEEDS.get(name.split("_")[0], ()):
        pytest.importorskip(module)
    if name == "no_cuda_in_torch":
        torch_version = pytest.importorskip("importlib.metadata").version("torch")
        if "+cpu" not in torch_version:
            pytest.skip("this torch has CUDA")
    log = tmp_path / f"{name}.log"
    argv = [sys.executable, str(HERE / "provoke.py"), name, str(tiny_llama), str(tmp_path)]
    code = run_logged(argv, log, env={"HF_HUB_OFFLINE": "1", "CUDA_VISIBLE_DEVICES": None}, timeout_s=240)
    if code == NOT_ALLOWED:
        pytest.skip("needs the right to mount and to limit memory")
    if folder := os.environ.get("LLMOPS_RECORD_LOGS"):
        shutil.copy(log, Path(folder) / f"{PROVOKED[name]}--{name.replace('_', '-')}.log")
    assert code != 0
    diagnosis = diagnose_files([log])
    assert diagnosis.top is not None, log.read_text()[-2000:]
    assert diagnosis.top.cause == PROVOKED[name], [(c.cause, c.confidence) for c in diagnosis.causes]
