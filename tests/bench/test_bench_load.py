"""Load as asked: schedules, stalls, caps, ramps, traces, conversations, prefixes, several processes, interruption."""

from __future__ import annotations

import itertools
import json
import signal
import subprocess
import sys
from dataclasses import replace

import pytest
from bench_harness import bench, measure, percentile, truth, valid_run

from llmops.bench import stats, workers
from llmops.bench.plan import LoadPlan
from llmops.bench.prompts import PromptPlan
from llmops.bench.wire import Endpoint

SPEC = {"model": "truth", "warmup": 0, "input_tokens": 32, "output_tokens": 4}


def gaps_ms(requests):
    received = sorted(row["recv_ns"] for row in requests)
    return [(b - a) / 1e6 for a, b in itertools.pairwise(received)]


def dispersion(requests, bins):
    received = [row["recv_ns"] for row in requests]
    first, width = min(received), (max(received) - min(received)) / bins + 1
    counts = [0] * bins
    for at_ns in received:
        counts[int((at_ns - first) / width)] += 1
    return stats.dispersion(counts)


def test_poisson_arrivals_at_the_server_have_a_dispersion_of_one():
    def attempt():
        with truth(ttft_ms=2, gap_ms=1) as server:
            return measure(server.url, rate=300, requests=600, seed=28, **SPEC), server.requests()

    # The index of a true Poisson process is itself random (0.65-1.44 over seeds): the schedule of this one has 1.00.
    data, requests = valid_run(attempt)
    assert len(requests) == 600
    assert 0.8 <= dispersion(requests, 60) <= 1.25
    gaps = gaps_ms(requests)
    assert len({round(gap, 3) for gap in gaps}) >= 400  # no two processes repeat each other's gaps
    mean = sum(gaps) / len(gaps)
    assert mean == pytest.approx(1000 / 300, rel=0.1)
    lagged = sum((a - mean) * (b - mean) for a, b in itertools.pairwise(gaps))
    assert abs(lagged / sum((gap - mean) ** 2 for gap in gaps)) < 0.1
    assert data["load"] == "300/s poisson"


@pytest.mark.slow
def test_constant_and_bursty_arrivals():
    with truth(ttft_ms=2, gap_ms=1) as server:
        measure(server.url, rate=100, requests=120, arrival="constant", **SPEC)
        assert percentile(gaps_ms(server.requests()), 0.5) == pytest.approx(10, abs=1)
    with truth(ttft_ms=2, gap_ms=1) as server:
        measure(server.url, rate=400, requests=600, arrival="gamma:0.25", seed=1, **SPEC)
        assert dispersion(server.requests(), 40) > 2


def test_a_stall_shows_in_the_open_loop():
    with truth(ttft_ms=20, gap_ms=2, stall_s=(0.5, 2.5)) as server:
        open_loop = measure(server.url, rate=40, duration="3s", **SPEC)
    with truth(ttft_ms=20, gap_ms=2, stall_s=(0.5, 2.5)) as server:
        closed = measure(server.url, concurrency=2, duration="3s", **SPEC)
    assert open_loop["metrics"]["ttft_ms"]["p99"] > 1500
    assert open_loop["metrics"]["ttft_ms"]["max"] > 1800
    assert closed["metrics"]["ttft_ms"]["p95"] < 500  # what a closed loop hides, and why the open one exists
    assert max(moment["in_flight"] for moment in open_loop["timeline"]) > 50


def test_a_duration_ends_the_load_and_counts_tokens_inside_it():
    with truth(ttft_ms=20, gap_ms=10, sigma=0) as server:
        data = measure(server.url, concurrency=4, duration="2s", **SPEC | {"output_tokens": 8})
        requests = server.requests()
    assert data["metrics"]["window_s"] == 2
    assert data["counts"]["requests"] == len(requests)
    end = min(row["recv_ns"] for row in requests) + 2_000_000_000
    inside = sum(at_ns <= end for row in requests for at_ns in row["sent_ns"])
    assert data["metrics"]["output_tokens_per_s"] == pytest.approx(inside / 2, rel=0.03)


def test_a_ramp_is_sent_but_not_measured():
    with truth(ttft_ms=20, gap_ms=2) as server:
        data = measure(server.url, rate=50, duration="2s", ramp="1s", arrival="constant", **SPEC)
        requests = server.requests()
    assert data["counts"]["requests"] == pytest.approx(50, abs=2)
    assert len(requests) == pytest.approx(75, abs=2)
    gaps = gaps_ms(requests)
    assert sum(gaps[:10]) > 2 * sum(gaps[-10:])
    with truth(ttft_ms=20, gap_ms=2) as server:
        data = measure(server.url, concurrency=4, duration="1500ms", ramp="500ms", **SPEC)
        assert data["counts"]["requests"] < len(server.requests())


def test_several_processes_share_one_schedule():
    with truth(ttft_ms=20, gap_ms=2) as server:
        data = measure(server.url, concurrency=5, requests=51, workers=2, **SPEC)
        assert data["counts"]["ok"] == len(server.requests()) == 51
        assert data["client"]["in_flight_max"] == 5


def test_processes_are_added_by_what_one_can_carry(monkeypatch):
    monkeypatch.setattr("os.cpu_count", lambda: 8)
    endpoint = Endpoint("http://127.0.0.1:9", "chat", "m")
    closed = LoadPlan(endpoint, PromptPlan(0, output_tokens=(100, 100)), concurrency=200)
    assert workers.worker_count(closed, None) == 1
    assert workers.worker_count(closed, None, service_s=0.5) == 3  # 40,000 tokens a second
    assert workers.worker_count(replace(closed, concurrency=1500), None) == 3
    due = tuple(range(0, 10_000_000_000, 2_500_000))  # 400 a second
    opened = replace(closed, loop="open", concurrency=None, due_ns=due)
    assert workers.worker_count(opened, None, service_s=0.1) == 3
    assert workers.worker_count(opened, 6) == 6
    # Each process needs a share of a cap, or it would have none.
    assert workers.worker_count(replace(opened, concurrency=2), 6) == 2
    parts = workers.slices(replace(opened, concurrency=2), 2)
    assert [part.concurrency for part in parts] == [1, 1]
    assert sorted(at for part in parts for at in part.due_ns) == list(due)


def test_a_sweep_has_a_level_each():
    with truth(ttft_ms=20, gap_ms=2) as server:
        data = measure(server.url, sweep="1,4", requests=16, **SPEC)
    assert [level["concurrency"] for level in data["levels"]] == [1, 4]
    assert data["concurrency"] == 4
    assert data["levels"][1]["metrics"]["output_tokens_per_s"] > 2 * data["levels"][0]["metrics"]["output_tokens_per_s"]


def found_max():
    with truth(ttft_ms=40, gap_ms=4, sigma=0.05, slots=6) as server:
        spec = SPEC | {"output_tokens": 12}
        return measure(server.url, find_max=True, requests=60, slo="ttft.p90<80ms", **spec)


@pytest.mark.slow
def test_find_max_brackets_bisects_and_confirms():
    # Six answers at once; a seventh waits for a slot, so its TTFT is over 100 ms.
    for _ in range(6):
        data = found_max()
        if not any(level["validity"]["reasons"] for level in data["levels"]):
            break
    else:
        pytest.fail("some levels of every search were INVALID: is the machine busy?")
    assert data["concurrency"] in (5, 6)
    assert "confirmed 3 times" in data["found"]
    tried = [level["concurrency"] for level in data["levels"]]
    assert tried[:4] == [1, 2, 4, 8]
    assert tried.count(data["concurrency"]) >= 3


def test_ctrl_c_reports_what_was_measured():
    with truth(ttft_ms=50, gap_ms=5) as server:
        command = [sys.executable, "-m", "llmops", "bench", server.url, "--model", "truth", "--duration", "60s"]
        command += ["--concurrency", "4", "--output-tokens", "8", "--json"]
        process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        while len(server.requests()) < 40:
            assert process.poll() is None
        process.send_signal(signal.SIGINT)
        out, err = process.communicate(timeout=20)
    document = json.loads(out)
    assert process.returncode == 130, err
    assert document["data"]["complete"] is False
    assert document["data"]["counts"]["ok"] > 20
    assert document["data"]["counts"]["aborted"] > 0
    assert document["data"]["errors"] == {}  # what was cut off is nobody's failure


def test_the_model_is_asked_for_when_not_named():
    with truth(models=["only"], ttft_ms=2, gap_ms=1) as server:
        document, _ = bench(server.url, "--requests", "2", "--output-tokens", "2", "--warmup", "1")
        assert document["data"]["model"] == "only"
    with truth(models=["a", "b"]) as server:
        document, _ = bench(server.url, "--requests", "2", check=2)
        assert document["error"]["hint"] == "name one with --model: a, b"


@pytest.mark.slow
def test_ctrl_c_with_several_processes_reports_too():
    with truth(ttft_ms=50, gap_ms=5) as server:
        command = [sys.executable, "-m", "llmops", "bench", server.url, "--model", "truth", "--duration", "60s"]
        command += ["--concurrency", "4", "--output-tokens", "8", "--workers", "2", "--json"]
        process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        while len(server.requests()) < 40:
            assert process.poll() is None
        process.send_signal(signal.SIGINT)
        out, err = process.communicate(timeout=30)
    document = json.loads(out)
    assert process.returncode == 130, err
    assert document["data"]["client"]["processes"] == 2
    assert document["data"]["counts"]["ok"] > 10
    assert document["data"]["errors"] == {}
