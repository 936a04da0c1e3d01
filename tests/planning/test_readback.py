"""A start's log read back, compared with its plan, and used for the next plan of the same."""

import pytest
from paper_models import facts

from llmops.hardware.paper import host_from_gpus
from llmops.planning.calibration import find, key_of, load, measurement, record
from llmops.planning.plan import plan
from llmops.planning.readback import compare, findings_of, read_boot
from llmops.planning.types import PlanSpec

V1_DEBUG = """
(APIServer pid=1) INFO 04-22 03:16:01 [api_server.py:1] vLLM API server version 0.19.0
(EngineCore pid=1849) INFO 04-22 03:16:12 [gpu_model_runner.py:4100] Model loading took 14.99 GiB memory and 9.1 seconds
(EngineCore pid=1849) INFO 04-22 03:16:50 [gpu_worker.py:436] Available KV cache memory: 58.11 GiB
(EngineCore pid=1849) INFO 04-22 03:16:50 [kv_cache_utils.py:1316] GPU KV cache size: 476,016 tokens
(EngineCore pid=1849) INFO 04-22 03:16:50 [kv_cache_utils.py:1317] Maximum concurrency for 8,192 tokens per request: 58.11x
(EngineCore pid=1849) INFO 04-22 03:16:56 [gpu_worker.py:597] CUDA graph pool memory: 0.91 GiB (actual), 0.84 GiB (estimated)
(EngineCore pid=1849) DEBUG 04-22 03:16:56 [gpu_worker.py:661] Free memory on device (78.68/79.19 GiB) on startup. Desired \
GPU memory utilization is (0.95, 75.23 GiB). Actual usage is 14.99 GiB for weight, 1.89 GiB for peak activation, 0.25 GiB \
for non-torch memory, and 0.91 GiB for CUDAGraph memory.
"""
V0 = """
INFO 04-12 08:21:19 [worker.py:267] the current vLLM instance can use total_gpu_memory (23.58GiB) x gpu_memory_utilization \
(0.99) = 23.35GiB
INFO 04-12 08:21:19 [worker.py:267] model weights take 21.21GiB; non_torch_memory takes 0.20GiB; PyTorch activation peak \
memory takes 0.37GiB; the rest of the memory reserved for KV Cache is 1.57GiB.
"""
CPU = "(EngineCore pid=7) INFO 11-22 07:29:52 [kv_cache_utils.py:2327] CPU KV cache size: 4,194,304 tokens, Maximum \
concurrency for 512 tokens per request: 8192.00x"


def test_a_debug_log_has_every_term():
    boot = read_boot(V1_DEBUG.splitlines())
    assert (boot.version, boot.total_gib, boot.free_gib) == ("0.19.0", 79.19, 78.68)
    assert (boot.weights_gib, boot.activation_gib, boot.non_torch_gib, boot.cudagraph_gib) == (14.99, 1.89, 0.25, 0.91)
    assert (boot.kv_cache_gib, boot.kv_tokens, boot.max_concurrency) == (58.11, 476016, 58.11)
    assert boot.complete


def test_older_engines_and_the_cpu():
    old = read_boot(V0.splitlines())
    assert (old.total_gib, old.weights_gib, old.activation_gib, old.non_torch_gib, old.kv_cache_gib) == (
        23.58, 21.21, 0.37, 0.2, 1.57,
    )  # fmt: skip
    cpu = read_boot([CPU])
    assert (cpu.kv_tokens, cpu.max_concurrency, cpu.complete) == (4194304, 8192.0, False)
    assert read_boot(["nothing", "", "KV cache size: lots"]) == read_boot([])


def _plan(measured=()):
    spec = PlanSpec(engine_version="0.19.0", gpu_memory_utilization=0.95, max_model_len=8192)
    return plan(spec, [facts("llama-3.1-8b-instruct")], host_from_gpus("H100"), measured=measured).models[0]


def test_a_plan_agrees_with_its_log():
    differences = compare(_plan(), read_boot(V1_DEBUG.splitlines()))
    assert {d.term for d in differences} >= {
        "weights_gib",
        "activation_gib",
        "non_torch_gib",
        "kv_cache_gib",
        "kv_tokens",
    }
    assert all(abs(d.percent) < 1 for d in differences if d.term != "cudagraph_gib")
    assert findings_of(differences) == ()


def test_a_measurement_makes_the_next_plan_exact(tmp_path):
    first, store = _plan(), tmp_path / "state" / "calibration.jsonl"
    odd = V1_DEBUG.replace("1.89 GiB for peak", "4.76 GiB for peak").replace("0.25 GiB", "0.75 GiB")
    boot = read_boot(odd.splitlines())
    assert [finding.rule for finding in findings_of(compare(first, boot))] == ["plan-differs"]
    model, gpu = facts("llama-3.1-8b-instruct"), host_from_gpus("H100").gpus[0].name
    key = key_of(first, size_bytes=model.size_bytes, gpu=gpu, engine_version="0.19.0")
    record(store, measurement(key, boot))
    record(store, measurement(key, boot))
    known = load(store)
    assert len(known) == 1
    again = _plan(known)
    assert (again.memory.activation_gib, again.memory.non_torch_gib) == (4.76, 0.75)
    assert again.memory.kv_cache_gib == pytest.approx(0.95 * 79.19 - 14.99 - 4.76 - 0.75, abs=0.01)
    assert any("measured on this machine" in term.source for term in again.memory.terms)
    elsewhere = plan(PlanSpec(engine_version="0.11.0"), [model], host_from_gpus("H100"), measured=known).models[0]
    assert not any("measured" in term.source for term in elsewhere.memory.terms)


def test_a_damaged_store_is_as_good_as_none(tmp_path):
    store = tmp_path / "calibration.jsonl"
    store.write_text('{"key": 3}\nnot json\n')
    assert load(store) == load(tmp_path / "missing") == ()
    assert find(load(store), None) is None
