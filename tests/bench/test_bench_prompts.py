"""What is sent: synthetic prompts of the wanted length, shared prefixes, traces, data sets, conversations."""

from __future__ import annotations

import itertools
import json

import pytest
from bench_harness import measure, truth

SPEC = {"model": "truth", "warmup": 0, "input_tokens": 32, "output_tokens": 4}


def gaps_ms(requests):
    received = sorted(row["recv_ns"] for row in requests)
    return [(b - a) / 1e6 for a, b in itertools.pairwise(received)]


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
