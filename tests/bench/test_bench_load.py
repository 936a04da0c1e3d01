"""Load as asked: schedules, stalls, caps, ramps, traces, conversations, prefixes, several processes, interruption."""

from __future__ import annotations

import itertools
import json
import signal
import subprocess
import sys

import pytest
from bench_harness import bench, measure, percentile, truth, valid_run

from llmops.bench import stats

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
            return measure(server.url, rate=120, requests=600, seed=28, **SPEC), server.requests()

    # The index of a true Poisson process is itself random (0.65-1.44 over seeds): the schedule of this one has 1.00.
    data, requests = valid_run(attempt)
    assert len(requests) == 600
    assert 0.8 <= dispersion(requests, 60) <= 1.25
    gaps = gaps_ms(requests)
    assert len({round(gap, 3) for gap in gaps}) >= 400  # no two processes repeat each other's gaps
    mean = sum(gaps) / len(gaps)
    assert mean == pytest.approx(1000 / 120, rel=0.1)
    lagged = sum((a - mean) * (b - mean) for a, b in itertools.pairwise(gaps))
    assert abs(lagged / sum((gap - mean) ** 2 for gap in gaps)) < 0.1
    assert data["load"] == "120/s poisson"


@pytest.mark.slow
def test_constant_and_bursty_arrivals():
    with truth(ttft_ms=2, gap_ms=1) as server:
        measure(server.url, rate=100, requests=120, arrival="constant", **SPEC)
        assert percentile(gaps_ms(server.requests()), 0.5) == pytest.approx(10, abs=1)
    with truth(ttft_ms=2, gap_ms=1) as server:
        measure(server.url, rate=400, requests=600, arrival="gamma:0.25", seed=1, **SPEC)
        assert dispersion(server.requests(), 40) > 2


def test_a_stall_shows_in_the_open_loop():
    with truth(ttft_ms=20, gap_ms=2, stall_s=(1, 3)) as server:
        open_loop = measure(server.url, rate=40, duration="4s", **SPEC)
    with truth(ttft_ms=20, gap_ms=2, stall_s=(1, 3)) as server:
        closed = measure(server.url, concurrency=2, duration="4s", **SPEC)
    assert open_loop["metrics"]["ttft_ms"]["p99"] > 1500
    assert open_loop["metrics"]["ttft_ms"]["max"] > 1800
    assert closed["metrics"]["ttft_ms"]["p95"] < 500  # what a closed loop hides, and why the open one exists
    assert max(moment["in_flight"] for moment in open_loop["timeline"]) > 50


def test_a_cap_in_the_open_loop_queues_visibly():
    with truth(ttft_ms=100, gap_ms=2, sigma=0) as server:
        data = measure(server.url, rate=40, requests=80, arrival="constant", concurrency=2, **SPEC)
    metrics = data["metrics"]
    # Two at once of 106 ms each is 19/s; asked are 40/s: the last waits about 2 s for its turn.
    assert metrics["ttft_ms"]["max"] > 1000
    assert metrics["ttft_sent_ms"]["max"] < 400
    assert data["client"]["in_flight_max"] == 2
    assert any("cap" in reason for reason in data["validity"]["reasons"] + data["validity"]["warnings"])


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


def test_traces_of_both_kinds(tmp_path):
    ours, mooncake = tmp_path / "own.jsonl", tmp_path / "mooncake.jsonl"
    ours.write_text(
        "".join(
            json.dumps({"at_s": 5 + i * 0.1, "input_tokens": 20 + 10 * i, "output_tokens": 2 + i}) + "\n"
            for i in range(5)
        )
    )
    rows = [{"timestamp": i * 50, "input_length": 1024, "output_length": 3, "hash_ids": [7, i]} for i in range(4)]
    mooncake.write_text("".join(json.dumps(row) + "\n" for row in rows))
    with truth(ttft_ms=5, gap_ms=1) as server:
        data = measure(server.url, trace=ours, **SPEC)
        requests = server.requests()
    assert [row["body"]["max_tokens"] for row in requests] == [2, 3, 4, 5, 6]
    assert gaps_ms(requests) == pytest.approx([100] * 4, abs=40)
    lengths = [len(row["body"]["messages"][0]["content"].split()) for row in requests]
    assert lengths == sorted(lengths)
    assert data["load"] == "trace of 5 requests"
    with truth(ttft_ms=5, gap_ms=1) as server:
        measure(server.url, trace=mooncake, **SPEC)
        prompts = [row["body"]["messages"][0]["content"].split() for row in server.requests()]
    shared = len([1 for a, b in zip(prompts[0], prompts[1], strict=False) if a == b])
    assert 400 < shared < 600  # one block of 512 tokens is the same, the next is not


def test_conversations_quote_the_answers_and_pause_between_turns():
    with truth(ttft_ms=5, gap_ms=1, text="yes ") as server:
        data = measure(server.url, concurrency=1, requests=12, turns=3, think="100ms", **SPEC)
        requests = server.requests()
    sizes = sorted(len(row["body"]["messages"]) for row in requests)
    assert sizes == [1] * 4 + [3] * 4 + [5] * 4
    last = max(requests, key=lambda row: len(row["body"]["messages"]))["body"]["messages"]
    assert [message["role"] for message in last] == ["user", "assistant", "user", "assistant", "user"]
    assert last[1]["content"] == "yes " * 4
    firsts = {row["body"]["messages"][0]["content"]: [] for row in requests}
    for row in requests:
        firsts[row["body"]["messages"][0]["content"]].append(row)
    for rows in firsts.values():
        for before, after in itertools.pairwise(sorted(rows, key=lambda row: row["recv_ns"])):
            assert after["recv_ns"] - before["end_ns"] > 95e6
    assert data["counts"]["ok"] == 12


def test_shared_prefixes_are_shared_by_group_and_nothing_else_is():
    with truth(ttft_ms=2, gap_ms=1) as server:
        spec = SPEC | {"input_tokens": 40}
        measure(server.url, concurrency=2, requests=8, prefix_groups=2, prefix_tokens=200, **spec)
        prompts = [row["body"]["messages"][0]["content"] for row in server.requests()]
    assert len(set(prompts)) == 8
    assert len({prompt[:300] for prompt in prompts}) == 2
    with truth(ttft_ms=2, gap_ms=1, prompt_fixed=40, prompt_per_word=1.6) as server:
        spec = SPEC | {"input_tokens": 150, "prefix_groups": 2, "prefix_tokens": 300, "warmup": 4}
        data = measure(server.url, concurrency=2, requests=8, **spec)
        # Both lengths are right after a warm-up, although its prompts had a prefix too.
        assert data["counts"]["input_tokens"] / 8 == pytest.approx(450, rel=0.03)
    with truth(ttft_ms=2, gap_ms=1) as server:
        measure(server.url, concurrency=2, requests=8, **SPEC)
        prompts = [row["body"]["messages"][0]["content"] for row in server.requests()]
    assert len({prompt[:6] for prompt in prompts}) == 8  # unlike from the first token on


@pytest.mark.parametrize("language", ["en", "ja"])
def test_prompt_lengths_are_learnt_in_the_warm_up(language):
    with truth(ttft_ms=2, gap_ms=1, prompt_fixed=40, prompt_per_word=1.6) as server:
        spec = {"model": "truth", "input_tokens": "300-500", "output_tokens": 2, "language": language}
        if language == "ja":  # the truth server counts words by blanks, so it cannot tell Japanese ones
            data = measure(server.url, requests=4, warmup=4, **spec)
            assert any("\u3040" <= c <= "\u30ff" for c in server.requests()[0]["body"]["messages"][0]["content"])
            return
        data = measure(server.url, requests=60, warmup=4, **spec)
        requests = server.requests()
    seen = [round(40 + 1.6 * len(row["body"]["messages"][0]["content"].split())) for row in requests[4:]]
    assert sum(seen) / len(seen) == pytest.approx(400, rel=0.05)
    assert min(seen) >= 295
    assert max(seen) <= 505
    assert not any("prompt length" in warning for warning in data["validity"]["warnings"])
    assert data["counts"]["requests"] == 60  # the warm-up is in no figure


def test_the_same_seed_sends_the_same_and_another_does_not():
    def prompts(seed):
        with truth(ttft_ms=2, gap_ms=1) as server:
            measure(server.url, concurrency=1, requests=5, seed=seed, **SPEC)
            return [row["body"]["messages"][0]["content"] for row in server.requests()]

    first = prompts(1)
    assert first == prompts(1)
    assert not set(first) & set(prompts(2))


def test_datasets(tmp_path):
    sharegpt, lines, text = tmp_path / "s.json", tmp_path / "l.jsonl", tmp_path / "t.txt"
    sharegpt.write_text(
        json.dumps([{"conversations": [{"from": "human", "value": "ああ"}, {"from": "gpt", "value": "い"}]}])
    )
    lines.write_text('{"prompt": "one"}\n{"messages": [{"role": "user", "content": "two"}]}\n{"text": "three"}\n')
    text.write_text("first line\n\nsecond line\n")
    for path, wanted in ((sharegpt, {"ああ"}), (lines, {"one", "two", "three"}), (text, {"first line", "second line"})):
        with truth(ttft_ms=2, gap_ms=1) as server:
            measure(server.url, requests=6, dataset=path, **SPEC)
            assert {row["body"]["messages"][0]["content"] for row in server.requests()} == wanted


def test_several_processes_share_one_schedule():
    with truth(ttft_ms=20, gap_ms=2) as server:
        data = measure(server.url, concurrency=5, requests=51, workers=2, **SPEC)
        assert data["counts"]["ok"] == len(server.requests()) == 51
        assert data["client"]["in_flight_max"] == 5


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
    for _ in range(3):
        data = found_max()
        if not any(level["validity"]["reasons"] for level in data["levels"]):
            break
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
