"""What other load testers have got wrong, each once: the name of a test is the mistake that is not made here.

The bounds are far from what each mistake would report and wide enough for a busy machine; tight ones are in
test_bench_accuracy.
"""

from __future__ import annotations

import itertools
import json
import os
import signal
import subprocess
import sys
import time

import pytest
from bench_harness import measure, percentile, true_e2e, true_ttft, truth, valid_run
from tls_front import Front

from llmops.bench import stats, validity
from llmops.bench.plan import LoadFacts
from llmops.bench.samples import Sample, Samples


def run(requests=6, concurrency=6, tokens=8, spec=None, **config):
    """One load; the report's data and the server's log. ``answer_tokens`` is how long the answers really are.

    Where the client itself did not get to run, which it knows, the load is measured again.
    """
    config = {"ttft_ms": 40, "gap_ms": 4, **config}
    config["tokens"] = config.pop("answer_tokens", 0)
    options = {"model": "truth", "warmup": 0, "input_tokens": 32, "output_tokens": tokens, **(spec or {})}
    for _ in range(3):
        with truth(**config) as server:
            data = measure(server.url, requests=requests, concurrency=concurrency, **options)
            log = server.requests()
        if (data["client"]["loop_lag_p99_ms"] or 0) < 10:
            break
    return data, log


def near(found, values, share=0.5):
    assert found == pytest.approx(percentile(values, share), rel=0.1, abs=60)


def test_01_an_empty_role_chunk_is_no_first_token():
    data, log = run(role="receipt", ttft_ms=150)
    assert data["metrics"]["ttft_ms"]["p50"] > 75  # counted, it would be about 0
    near(data["metrics"]["ttft_ms"]["p50"], true_ttft(log))


def test_02_reasoning_is_not_ignored():
    data, log = run(reasoning=8, ttft_ms=40, gap_ms=20)
    near(data["metrics"]["ttft_ms"]["p50"], true_ttft(log))
    assert data["metrics"]["ttft_visible_ms"] is None  # nothing visible ever came, and that is not 0


def test_03_an_empty_answer_is_no_success_with_a_ttft_of_zero():
    data, _ = run(fault="empty", fault_every=2)
    assert data["errors"] == {"empty": 3}
    assert data["metrics"]["ttft_ms"]["count"] == 3
    assert data["metrics"]["ttft_ms"]["p50"] > 10


def test_04_the_ttft_is_no_token_gap():
    data, _ = run(ttft_ms=250, gap_ms=3)
    assert data["metrics"]["itl_ms"]["count"] == 6 * 7
    assert data["metrics"]["itl_ms"]["max"] < 100


def test_05_gaps_are_between_tokens_and_not_between_chunks():
    data, _ = run(per_chunk=4, first_chunk=1, tokens=33, gap_ms=20, usage="continuous")
    itl, chunks = data["metrics"]["itl_ms"], data["metrics"]["chunk_gap_ms"]
    assert (itl["count"], chunks["count"]) == (6 * 32, 6 * 8)
    assert itl["mean"] == pytest.approx(chunks["mean"] / 4, rel=0.01)


def test_06_tokens_bundled_in_the_first_chunk_do_not_inflate_the_speed():
    data, log = run(first_chunk=16, tokens=24, gap_ms=20, usage="continuous")
    true = [(row["sent_ns"][-1] - row["sent_ns"][0]) / 1e6 / 8 for row in log]  # 8 tokens took time, not 23
    assert data["metrics"]["tpot_ms"]["p50"] == pytest.approx(percentile(true, 0.5), rel=0.15)


def test_07_the_length_of_an_answer_is_what_came_and_not_what_was_asked():
    data, _ = run(tokens=64, answer_tokens=5)
    assert data["counts"]["output_tokens"] == 6 * 5


@pytest.mark.parametrize("text", ["   ", "日本🎉", "\n\n", "tok"])
def test_08_text_is_not_tokenised_again_to_count_it(text):
    data, _ = run(text=text)
    assert (data["counts"]["output_tokens"], data["token_source"]) == (6 * 8, "usage")


def test_09_reasoning_counts_once_an_error_event_fails_and_late_usage_is_no_latency():
    data, log = run(reasoning=4, late_ms=200)
    assert data["counts"]["output_tokens"] == 6 * 8
    near(data["metrics"]["e2e_ms"]["max"], true_e2e(log), 1.0)
    data, _ = run(fault="error-event", fault_every=2)
    assert (data["counts"]["ok"], data["errors"]) == (3, {"error-event": 3})


def test_10_there_is_no_limit_of_a_hundred_connections():
    data, log = run(requests=150, concurrency=150, tokens=2, ttft_ms=400, sigma=0)
    assert data["client"]["in_flight_max"] == 150
    assert len({row["connection"] for row in log}) == 150
    assert max(row["recv_ns"] for row in log) < min(row["sent_ns"][0] for row in log)  # all were there at once


def test_11_a_tls_connection_is_made_once_and_before_the_clock(tmp_path):
    with truth(ttft_ms=30, gap_ms=2) as server, Front(int(server.url.rpartition(":")[2]), tmp_path) as front:
        command = [sys.executable, "-m", "llmops", "bench", f"https://localhost:{front.port}", "--json", "-q"]
        command += [
            "--model",
            "truth",
            "--warmup",
            "0",
            "-r",
            "12",
            "-c",
            "3",
            "--output-tokens",
            "4",
            "--allow-invalid",
        ]
        environment = {**os.environ, "SSL_CERT_FILE": str(front.certificate)}
        done = subprocess.run(command, capture_output=True, text=True, env=environment)
        assert done.returncode == 0, done.stderr
        assert front.handshakes == 3
        log = server.requests()
    data = json.loads(done.stdout)["data"]
    assert data["client"]["connect_max_ms"] > 0
    near(data["metrics"]["ttft_ms"]["p50"], true_ttft(log))


def test_12_long_prompts_and_long_events_are_no_special_case():
    data, log = run(requests=4, tokens=3, text="x" * 300_000, spec={"input_tokens": 50_000})
    assert data["counts"]["ok"] == 4
    assert len(log[0]["body"]["messages"][0]["content"]) > 150_000
    assert data["metrics"]["ttft_ms"]["p50"] < percentile(true_ttft(log), 0.5) + 150


def test_13_a_client_that_does_not_get_to_run_says_so():
    """Stopped for 80 ms again and again, as a busy machine would do it: its stamps are late, and it must not hide that."""
    with truth(ttft_ms=20, gap_ms=2) as server:
        command = [sys.executable, "-m", "llmops", "bench", server.url, "--model", "truth", "--warmup", "0", "--json"]
        command += ["-d", "1200ms", "-c", "2", "--output-tokens", "8"]
        process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
        while not server.requests():
            assert process.poll() is None
        for _ in range(6):
            process.send_signal(signal.SIGSTOP)
            time.sleep(0.08)
            process.send_signal(signal.SIGCONT)
            time.sleep(0.08)
        out, _ = process.communicate(timeout=30)
    document = json.loads(out)
    assert (process.returncode, document["ok"]) == (6, False)
    assert any("event loop lag" in reason for reason in document["data"]["validity"]["reasons"])


def test_14_the_realised_rate_does_not_drift():
    def attempt():
        with truth(ttft_ms=2, gap_ms=1) as server:
            spec = {"model": "truth", "warmup": 0, "input_tokens": 32, "output_tokens": 2}
            return measure(server.url, rate=200, requests=101, arrival="constant", **spec), server.requests()

    data, log = valid_run(attempt)
    received = sorted(row["recv_ns"] for row in log)
    assert (received[-1] - received[0]) / 1e9 == pytest.approx(0.5, abs=0.01)  # 100 gaps of 5 ms
    assert "realised-rate" in data["validity"]["checks"]


@pytest.fixture(scope="module")
def capped():
    """100/s, at most four at once, and half a second in which the server holds everything."""
    spec = {"rate": 100, "arrival": "constant", "model": "truth", "warmup": 0, "input_tokens": 32, "output_tokens": 2}
    with truth(ttft_ms=30, gap_ms=1, sigma=0, stall_s=(0.1, 0.6)) as server:
        return measure(server.url, requests=80, concurrency=4, **spec), server.requests()


def test_15_the_wait_for_a_cap_is_inside_the_latency(capped):
    data, _ = capped
    assert data["metrics"]["ttft_ms"]["p50"] > 200
    assert data["metrics"]["ttft_sent_ms"]["p50"] < 100
    assert data["client"]["in_flight_max"] == 4


def test_16_bursts_behind_a_cap_are_not_sold_as_the_asked_process(capped):
    data, log = capped
    received = sorted(row["recv_ns"] for row in log)
    gaps = [(b - a) / 1e6 for a, b in itertools.pairwise(received)]
    assert min(gaps) < 5  # the held answers end together, so requests leave together
    assert not data["validity"]["valid"]
    assert any("the cap" in reason for reason in data["validity"]["reasons"])


def test_17_a_client_at_its_limit_is_not_reported_as_the_servers_maximum():
    facts = LoadFacts(start_ns=0, end_ns=10**9, cpu_s=0.95, lag_ns=[100_000] * 50)
    samples = Samples()
    row = Sample(0, 0, 0, 0, 0, 10**6, 200, True, 0, 0, 1)
    row.ttft_ms = row.e2e_ms = 1.0
    samples.rows.append(row)
    from llmops.bench.metrics import measure as summarise

    metrics = summarise(samples, (0, 10**9), {0})
    found = validity.check(validity.Asked(False, False, None, None), [facts], samples, metrics)
    assert any("client cpu: 95% of a core" in reason and "--workers" in reason for reason in found.reasons)


def test_18_the_pool_costs_the_same_with_many_connections():
    data, _ = run(requests=400, concurrency=200, tokens=4, ttft_ms=150, gap_ms=20, sigma=0)
    assert (
        data["metrics"]["ttft_ms"]["p50"] < 225
    )  # a pool that looks at every connection each time took 20 times as long


def test_19_failed_requests_are_in_no_latency_and_no_throughput():
    data, log = run(fault="error-event", fault_every=2, requests=8, tokens=20)
    whole = [row for row in log if len(row["sent_ns"]) == 20]
    assert data["counts"]["output_tokens"] == 20 * len(whole) == 80
    assert data["metrics"]["e2e_ms"]["count"] == 4
    near(data["metrics"]["e2e_ms"]["p50"], true_e2e(whole))
    assert data["metrics"]["error_rate"] == 0.5


def test_20_the_warm_up_is_in_no_figure():
    # The first four answers take ten times as long.
    data, log = run(requests=6, spec={"warmup": 4}, ttft_ms=400, gap_ms=1, sigma=0, slower_after=4, slower=0.1)
    assert len(log) == 10
    assert data["counts"]["requests"] == 6
    assert data["metrics"]["ttft_ms"]["max"] < 200


def test_21_nothing_is_downloaded_and_no_tokenizer_is_needed():
    with truth(ttft_ms=2, gap_ms=1) as server:
        command = [
            sys.executable,
            "-X",
            "importtime",
            "-m",
            "llmops",
            "bench",
            server.url,
            "--model",
            "truth",
            "-r",
            "3",
        ]
        done = subprocess.run([*command, "--output-tokens", "2", "-q"], capture_output=True, text=True)
    imported = {line.rpartition("|")[2].strip().partition(".")[0] for line in done.stderr.splitlines()}
    assert "msgspec" in imported
    assert not imported & {"tokenizers", "transformers", "huggingface_hub", "torch", "numpy", "httpx", "aiohttp"}


def test_22_a_step_of_the_wall_clock_changes_nothing(monkeypatch):
    wall = itertools.count(2_000_000_000, -3600)
    monkeypatch.setattr(time, "time", lambda: float(next(wall)))
    monkeypatch.setattr(time, "time_ns", lambda: next(wall) * 10**9)
    data, log = run()
    near(data["metrics"]["ttft_ms"]["p50"], true_ttft(log))
    assert min(data["metrics"][name]["p50"] for name in ("ttft_ms", "itl_ms", "e2e_ms")) > 0


def test_23_processes_do_not_repeat_each_others_random_gaps():
    def attempt():
        with truth(ttft_ms=2, gap_ms=1) as server:
            spec = {"model": "truth", "warmup": 0, "input_tokens": 32, "output_tokens": 2, "workers": 2}
            return measure(server.url, rate=300, requests=300, seed=28, **spec), server.requests()

    data, log = valid_run(attempt)
    assert data["client"]["processes"] == 2
    assert len({row["body"]["messages"][0]["content"] for row in log}) == data["counts"]["ok"] == 300
    received = sorted(row["recv_ns"] for row in log)
    gaps = [b - a for a, b in itertools.pairwise(received)]
    mean = sum(gaps) / len(gaps)
    lagged = sum((a - mean) * (b - mean) for a, b in itertools.pairwise(gaps))
    assert lagged / sum((gap - mean) ** 2 for gap in gaps) < 0.3  # each gap once a process gave 0.89
    width = (received[-1] - received[0]) / 30 + 1
    counts = [0] * 30
    for at_ns in received:
        counts[int((at_ns - received[0]) / width)] += 1
    assert stats.dispersion(counts) < 2.5  # repeated gaps gave 5 to 10


def test_24_a_p99_needs_459_requests():
    data, _ = run(requests=60, concurrency=10, tokens=2, ttft_ms=5, gap_ms=1)
    assert data["metrics"]["ttft_ms"]["n/a"] == {"p95": "needs 90, has 60", "p99": "needs 459, has 60"}
