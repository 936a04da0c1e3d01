"""The TensorRT adapter: what needs no GPU, its calls over a real graph, and on a GPU the whole of it."""

from __future__ import annotations

import importlib.util
import json
import subprocess
import sys

import numpy as np
import pytest

from llmops.bench.offline_decoder import Roles
from llmops.bench.offline_profiles import Limits, check, choose, default_batches, limits_of
from llmops.errors import UsageError

INPUTS = ("input_ids", "attention_mask", "position_ids", "past_key_values.0.key", "past_key_values.0.value")
OUTPUTS = ("logits", "present.0.key", "present.0.value")
ONNX = importlib.util.find_spec("onnxruntime") is not None and importlib.util.find_spec("torch") is not None


def test_roles_are_read_from_the_names():
    roles = Roles.of(INPUTS, OUTPUTS)
    assert roles.past == {f"past_key_values.0.{kind}": f"present.0.{kind}" for kind in ("key", "value")}
    feed = roles.feed(np.zeros((2, 3), dtype="int64"), 8, cached=True)
    assert {name: array.shape for name, array in feed.items()} == {
        "input_ids": (2, 3), "attention_mask": (2, 8), "position_ids": (2, 3),
    }  # fmt: skip
    assert feed["position_ids"].tolist() == [[5, 6, 7]] * 2


@pytest.mark.parametrize(
    ("inputs", "outputs", "words"),
    [
        (("pixel_values",), ("logits",), "pixel_values"),
        (("input_ids",), ("last_hidden_state",), "logits"),
        (("input_ids", "past_key_values.0.key"), ("logits",), "present.0.key"),
        (("input_ids", "token_type_ids"), ("logits",), "token_type_ids"),
    ],
)
def test_what_is_no_decoder_is_refused(inputs, outputs, words):
    with pytest.raises(UsageError, match=words):
        Roles.of(inputs, outputs)


def test_profiles():
    roles = Roles.of(INPUTS, OUTPUTS)
    ids, cache = [(1, 1), (4, 128), (8, 512)], [(1, 2, 0, 16), (4, 2, 128, 16), (8, 2, 640, 16)]
    prefill = limits_of(roles, {"input_ids": ids, "past_key_values.0.key": cache, "past_key_values.0.value": cache})
    assert prefill == Limits((1, 4, 8), (1, 128, 512), (0, 128, 640))
    decode = Limits((1, 8, 16), (1, 1, 1), (1, 256, 1024))
    both = (prefill, decode)
    assert (choose(both, 8, 512, 0), choose(both, 8, 1, 700), choose(both, 8, 1, 100)) == (0, 1, 1)
    assert choose(both, 16, 512, 0) is None
    assert default_batches(both) == (1, 4, 8, 16)
    check(both, roles, (1, 8), 512, 128)
    with pytest.raises(UsageError) as refused:
        check(both, roles, (16,), 512, 128)
    assert "batches of 1 to 8 and 1 to 512 tokens after 0 to 640 cached" in refused.value.message
    assert refused.value.hint.startswith("build it with --batch 1:16:16 --seq 1:512")
    with pytest.raises(UsageError, match="after 1500 cached"):
        check(both, roles, (8,), 512, 990)
    plain = Roles.of(("input_ids",), ("logits",))
    check((Limits((1, 1, 1), (1, 8, 16)),), plain, (1,), 8, 9)
    with pytest.raises(UsageError, match="with 17 tokens"):
        check((Limits((1, 1, 1), (1, 8, 16)),), plain, (1,), 8, 10)


def test_without_a_gpu_or_the_package_it_is_one_line_and_exit_3(llmops, tmp_path):
    engine = tmp_path / "model.engine"
    engine.write_bytes(b"not an engine")
    result = llmops("bench", "--offline", "tensorrt", engine, env={"CUDA_VISIBLE_DEVICES": ""})
    assert result.code == 3, result.stderr
    assert len(result.error_lines) == 2
    assert "measuring a TensorRT engine needs" in result.error_lines[0]
    record = engine.with_name(engine.name + ".json")
    missing = next((m for m in ("tensorrt", "tensorrt_rtx") if importlib.util.find_spec(m) is None), None)
    if missing is not None:
        record.write_text(json.dumps({"module": missing}))
        result = llmops("bench", "--offline", "tensorrt", engine)
        assert result.code == 3
        assert f"needs the package {missing!r}" in result.error_lines[0]
        assert "pip install" in result.error_lines[1]
    directory = llmops("bench", "--offline", "tensorrt", tmp_path)
    assert (directory.code, "llmops build tensorrt" in directory.error_lines[1]) == (2, True)


PROBE = """
import json, sys
import tensorrt_rtx as trt
wanted = json.loads(sys.argv[1])
missing = {name: [call for call in calls if not hasattr(getattr(trt, name), call)] for name, calls in wanted.items()}
class Profiler(trt.IProfiler):
    def __init__(self):
        trt.IProfiler.__init__(self)
Profiler()
print(json.dumps([missing, trt.TensorIOMode.OUTPUT.name, list(trt.DataType.__members__)]))
"""


@pytest.mark.skipif(importlib.util.find_spec("tensorrt_rtx") is None, reason="pip install 'llmops[tensorrt]'")
def test_every_call_that_the_stand_in_answers_is_one_of_the_real_binding():
    from ort_engine import Context, Engine, Kind

    calls = {"ICudaEngine": [name for name in vars(Engine) if not name.startswith("_")]}
    calls["ICudaEngine"] += ["num_io_tensors", "num_optimization_profiles"]
    calls["IExecutionContext"] = [name for name in vars(Context) if not name.startswith("_")] + [
        "execute_v2",
        "profiler",
    ]
    done = subprocess.run([sys.executable, "-c", PROBE, json.dumps(calls)], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    missing, output, kinds = json.loads(done.stdout.splitlines()[-1])
    assert missing == {"ICudaEngine": [], "IExecutionContext": []}
    assert output == "OUTPUT"
    assert {kind.name for kind in Kind} <= set(kinds)


@pytest.mark.slow
@pytest.mark.skipif(not ONNX, reason="pip install 'llmops[onnx,cpu]'")
@pytest.mark.parametrize("task", ["causal-lm", "causal-lm-cache"])
def test_it_feeds_an_engine_as_onnx_runtime_is_fed(llmops, tiny_llama, tmp_path, task):
    """The same graph through both adapters gives the same tokens, over two profiles and a cache that stays where it is."""
    made = llmops("export", "onnx", tiny_llama, "-o", tmp_path / "onnx", "--task", task, "--no-check")
    assert made.code == 0, made.stderr
    import onnxruntime
    import torch
    from ort_engine import TRT, Engine

    from llmops.bench.offline_decoder import generate
    from llmops.bench.offline_onnx import OnnxDecoder
    from llmops.bench.offline_tensorrt import EngineDecoder

    file = next((tmp_path / "onnx").rglob("*.onnx"))
    session = onnxruntime.InferenceSession(str(file), providers=["CPUExecutionProvider"])
    engine = Engine(session, [((1, 2, 4), (2, 8, 64), (0, 0, 64)), ((1, 2, 4), (1, 1, 1), (0, 8, 64))])
    if task == "causal-lm":
        engine = Engine(session, [((1, 2, 4), (1, 8, 64), (0, 0, 0))])
    decoder = EngineDecoder(TRT, torch, engine, device="cpu")
    prompt = np.random.default_rng(3).integers(0, decoder.vocabulary, (3, 8))
    ours, reference = generate(decoder, prompt, 6), generate(OnnxDecoder(session), prompt, 6)
    assert ours["last_tokens"] == reference["last_tokens"]
    assert len(ours["step_ms"]) == 5
    assert decoder.cached is (task == "causal-lm-cache")
    assert engine.contexts[0].switches == (1 if decoder.cached else 0)  # prefill in one profile, steps in the other
    assert decoder.layer_times(prompt) == []  # this engine has no profiler, and that is no error


@pytest.mark.gpu
@pytest.mark.slow
def test_a_real_engine(llmops, tiny_llama, tmp_path):
    options = ("--task", "causal-lm-cache", "--no-check")
    made = llmops("export", "onnx", tiny_llama, "-o", tmp_path / "onnx", *options)
    assert made.code == 0, made.stderr
    file = next((tmp_path / "onnx").rglob("*.onnx"))
    shapes = ("--batch", "1:2:4", "--seq", "1:16:64", "--past", "0:16:128")
    built = llmops("build", "tensorrt", file, "-o", tmp_path / "tiny.engine", *shapes)
    assert built.code == 0, built.stderr
    load = ("--requests", "2", "--input-tokens", "16", "--output-tokens", "8")
    result = llmops("bench", "--offline", "tensorrt", tmp_path / "tiny.engine", *load, "--json")
    assert result.code == 0, result.stderr
    data = result.json["data"]
    assert [batch["batch"] for batch in data["batches"]] == [1, 2, 4]
    assert all(batch["output_tokens_per_s"] > 0 for batch in data["batches"])
    assert "batches of 1 to 4" in data["takes"]
    large = llmops("bench", "--offline", "tensorrt", tmp_path / "tiny.engine", "--sweep", "64", *load)
    assert large.code == 2
    assert "does not take a batch of 64" in large.error_lines[0]
