"""A start's own figures beside its plan's, and kept for the next plan of the same on this machine."""

import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parents[1] / "planning"))
from paper_models import facts

from llmops.hardware.paper import host_from_gpus
from llmops.planning.calibration import load
from llmops.planning.plan import plan
from llmops.planning.readback import BootMemory
from llmops.planning.types import PlanSpec
from llmops.serve.freed import wait_until_freed
from llmops.serve.readback import ReadBack, keep, read_back, resident_gib

# As vLLM logs it when nobody asks for debug lines: weights, cache and graphs, but not what was in between.
PLAIN_LOG = """
INFO [gpu_model_runner.py:3338] Model loading took 14.9889 GiB memory and 4.5 seconds
INFO [gpu_worker.py:298] Available KV cache memory: 55.00 GiB
INFO [kv_cache_utils.py:1087] GPU KV cache size: 450,560 tokens
INFO [gpu_model_runner.py:4244] Graph capturing finished in 21 secs, took 0.64 GiB
""".splitlines()
HOST = host_from_gpus("H100")
MODEL = facts("llama-3.1-8b-instruct")


def planned(measured=(), host=HOST, **more):
    spec = PlanSpec(**{"engine_version": "0.19.0", "max_model_len": 8192} | more)
    return plan(spec, [MODEL], host, measured=measured).models[0]


def test_the_engines_own_figures_stand_beside_the_plans():
    first = planned()
    terms = {term.name: term for term in read_back(PLAIN_LOG, first).terms(first)}
    assert terms["kv_cache_gib"].reported == 55.0
    assert terms["kv_tokens"].reported == 450_560
    assert abs(terms["weights_gib"].off_percent) < 0.5
    assert terms["cudagraph_gib"].reported == 0.64


@pytest.mark.parametrize("version", ["0.11.0", "0.19.0", "0.32.0"])
def test_a_plain_log_makes_the_next_plan_of_the_same_exact(tmp_path, version):
    store = tmp_path / "calibration.jsonl"
    first = planned(engine_version=version)
    assert keep(read_back(PLAIN_LOG, first), first, size_bytes=MODEL.size_bytes, gpu=HOST.gpus[0].name, file=store)
    again = planned(load(store), engine_version=version)
    assert again.memory.kv_cache_gib == pytest.approx(55.0, abs=0.01)
    assert any("measured on this machine" in term.source for term in again.memory.terms)
    # Another number of sequences is another start.
    other = planned(load(store), engine_version=version, max_num_seqs=16)
    assert not any("measured" in term.source for term in other.memory.terms)


def test_a_log_that_says_too_little_keeps_nothing(tmp_path):
    store = tmp_path / "calibration.jsonl"
    assert not keep(ReadBack(BootMemory()), planned(), size_bytes=1, gpu="NVIDIA H100", file=store)
    assert not store.exists()


def test_memory_on_the_cpu_is_measured_and_used(tmp_path):
    store = tmp_path / "calibration.jsonl"
    host = host_from_gpus("none")
    first = planned(host=host, engine="vllm", engine_version="0.32.0")
    taken = ReadBack(BootMemory(), first.memory.weights_gib + 2.5)
    (term,) = [term for term in taken.terms(first) if term.name == "memory_gib"]
    assert term.planned == pytest.approx(first.memory.weights_gib + 4.5, abs=0.01)
    assert keep(taken, first, size_bytes=MODEL.size_bytes, gpu=None, file=store)
    again = planned(load(store), host=host, engine="vllm", engine_version="0.32.0")
    assert again.memory.non_torch_gib == pytest.approx(2.5, abs=0.01)
    assert any(term.source == "measured on this machine" for term in again.memory.terms)
    assert planned(load(store), host=host, engine="transformers").memory.non_torch_gib == 1.0


def test_resident_memory_counts_a_process_and_all_below_it():
    code = "import subprocess, sys; x = bytearray(80_000_000); subprocess.run([sys.executable, '-c', sys.argv[1]])"
    inner = "x = bytearray(80_000_000); print('up', flush=True); input()"
    with subprocess.Popen(
        [sys.executable, "-c", code, inner], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout.readline() == "up\n"
        found = resident_gib(process.pid)
        process.communicate("\n")
    assert 0.14 < found < 0.5
    assert resident_gib(process.pid) is None or process.pid == os.getpid()


def test_a_restart_waits_for_the_memory_of_the_one_before():
    one = planned(max_model_len=2048)
    gpu = HOST.gpus[0]
    full = replace(HOST, gpus=(replace(gpu, free_bytes=gpu.free_bytes // 4),))
    looks = iter([full, HOST])
    phases = []

    class Told:
        def phase(self, text):
            phases.append(text)

    import llmops.serve.freed as module

    poll, module.POLL_S = module.POLL_S, 0.0
    try:
        assert wait_until_freed(one, Told(), look=lambda: next(looks))
        assert phases == ["waiting for memory on GPU 0"]
        assert not wait_until_freed(one, Told(), look=lambda: full, limit_s=0.0)
    finally:
        module.POLL_S = poll
    assert wait_until_freed(replace(one, gpus=()), Told(), look=lambda: pytest.fail("nothing to look at"))
