"""The scores on labelled logs: wordings of many versions kept here, and a set of real cases where it lies beside the project."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from llmops.diagnosis import diagnose_text

REPO = Path(__file__).parents[2]
WORDINGS = REPO / "benchmarks" / "diagnosis" / "wordings.jsonl"
REAL = REPO.parent / "shared" / "diagnosis"


def _cases(path):
    return [json.loads(line) for line in path.read_text("utf-8").splitlines()]


def _wrong(cases):
    said = {c["id"]: (d.top.cause if (d := diagnose_text("log", c["log"])).top else "none") for c in cases}
    return {c["id"]: said[c["id"]] for c in cases if said[c["id"]] != c["cause"]}


def test_every_cause_is_known_by_its_wordings():
    cases = _cases(WORDINGS)
    assert len(cases) > 400
    assert _wrong(cases) == {}


def test_the_score_command_prints_the_table():
    done = subprocess.run(
        [sys.executable, str(REPO / "benchmarks/diagnosis/score.py"), str(WORDINGS)],
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 0, done.stdout
    assert "exact" in done.stdout
    assert "false alarms 0/" in done.stdout
    assert "evidence not in the log 0" in done.stdout


@pytest.mark.skipif(not (REAL / "cases.jsonl").is_file(), reason="the set of real cases is not beside the project")
def test_real_cases():
    cases = _cases(REAL / "cases.jsonl")
    wrong = _wrong(cases)
    assert len(wrong) <= 0.03 * len(cases), wrong
    assert not [c["id"] for c in cases if c["id"] in wrong and (c["tricky"] or c["cause"] == "none")]
    for case in cases:
        lines = case["log"].split("\n")
        for cause in diagnose_text("log", case["log"]).causes:
            assert cause.evidence
            assert all(e.text in lines[e.line - 1] for e in cause.evidence)


# What each log of the set says of itself in its first line, as a cause; the first line is not shown to the rules.
LOGS = {
    "autogptq_import": "package-version-conflict",
    "bad-flag": "cli-arguments-invalid",
    "bnb_bad_quant_type": "quantize-config-invalid",
    "bnb_oom": "host-oom-killed",
    "genai-builder-gemma3-transformers5": "package-version-conflict",
    "genai-builder-transformers4": "package-version-conflict",
    "gptqm_bad_bits": "quantize-format-changed",
    "gptqm_empty_calib": "calibration-data-unusable",
    "gptqm_no_calib": "calibration-data-unusable",
    "gptqm_text_too_short": "calibration-data-unusable",
    "gptqmodel_torch_pin": "package-version-conflict",
    "illegal-instruction-amx": "illegal-instruction",
    "kvcache-space-over-ram": "kv-space-exceeds-memory",
    "llmc_bad_scheme": "quantize-group-indivisible",
    "llmc_group_not_dividing": "quantize-group-indivisible",
    "llmc_no_tokenizer": "tokenizer-files-missing",
    "llmc_unsupported_arch": "arch-unsupported",
    "lora-path-missing": "lora-adapter-missing",
    "model-hub-id-offline": "hf-unreachable",
    "no-tokenizer": "tokenizer-files-missing",
    "ort-broadcast-mismatch": "input-shape-mismatch",
    "ort-custom-op": "trt-op-unsupported",
    "ort-missing-external-data": "onnx-file-invalid",
    "ort-rank-mismatch": "input-shape-mismatch",
    "ort-unavailable-provider": "onnxruntime-provider-missing",
    "quantization-bitsandbytes-cpu": "weights-names-mismatch",
    "quantization-unsupported": "weights-names-mismatch",
    "torch-export-data-dependent": "export-data-dependent",
    "torch-onnx-op-unsupported": "onnx-export-op-unsupported",
    "torchvision-cuda-build-mismatch": "extension-abi-mismatch",
    "triton-bad-config-field": "triton-config-mismatch",
    "triton-ensemble-missing-model": "triton-config-mismatch",
    "triton-no-repository": "triton-repository-missing",
    "triton-port-in-use-grpc": "port-in-use",
    "triton-python-backend-missing-module": "package-version-conflict",
    "trt-deserialize-no-gpu": "no-gpu-visible",
    "trt-engine-corrupt": "trt-engine-version",
    "trt-libs-install-no-nvidia-index": "package-index-unreachable",
    "trt-onnx-corrupt": "onnx-file-invalid",
    "trt-onnx-no-file": "onnx-file-invalid",
    "trt-onnx-unsupported-op": "trt-op-unsupported",
    "trt-profile-unknown-input": "trt-profile-invalid",
    "trt8-api-on-trt11": "package-version-conflict",
    "truncated_safetensors": "weights-corrupt",
    "unsupported-head-dim": "attention-head-size-unsupported",
    "weights-truncated": "weights-corrupt",
    "worker-died-unexpectedly": "illegal-instruction",
}


@pytest.mark.skipif(not (REAL / "logs").is_dir(), reason="the logs of real failures are not beside the project")
def test_every_log_has_the_cause_that_its_first_line_names():
    logs = {path.stem: path.read_text("utf-8") for path in (REAL / "logs").glob("*.log")}
    assert logs.keys() <= LOGS.keys(), "a log without an expected cause"
    wrong = {}
    for name, text in logs.items():
        first, _, rest = text.partition("\n")
        assert first.startswith("# cause:")
        causes = [c.cause for c in diagnose_text(name, rest).causes]
        if causes != [LOGS[name]]:
            wrong[name] = causes
    assert not wrong
