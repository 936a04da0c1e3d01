"""Guards on streams, the semantic cache, the choice by price and the rows of cached answers, through the port."""

from __future__ import annotations

import json
import re
import sqlite3
from contextlib import ExitStack
from decimal import Decimal

import httpx
import numpy as np
import pytest
from gateway_fakes import OPENAI_USAGE, fake, gateway, metric, openai_chunk, wait_until

pytest.importorskip("onnxruntime")
tokenizers = pytest.importorskip("tokenizers")
onnx = pytest.importorskip("onnx")

SECRET = "AKIA" + "QJ7ZK3MWX5RT2BNV"
SAID = f"The key is {SECRET}, keep it."
CONFIG = """
keys: [{{name: a, env: KA, tenant: a, admin: true}}, {{name: b, env: KB, tenant: b}}, {{name: poor, env: KP, tenant: a}}]
cache: {{enabled: true}}
money:
  directory: books
  flush_s: 0.05
  budgets:
    - {{name: small, usd: 0.001, period: total, match: {{key: poor}}}}
    - {{name: site, usd: 1000}}
prices: prices.yaml
providers:
  cloud: {{base_url: "{url}/v1", prices_as: openai, key_env: UPK}}
  own: {{base_url: "{url}/v1", local: true}}
routes:
  - match: redacted
    guard: {{secrets_out: redact}}
    targets: [{{provider: cloud, model: gpt-4o}}]
  - match: blocked
    guard: {{secrets_out: block}}
    targets: [{{provider: cloud, model: gpt-4o}}]
  - match: open
    targets: [{{provider: cloud, model: gpt-4o}}]
  - match: alike
    cache: {{enabled: false}}
    semantic_cache: {{mode: serve, model: minilm, check_share: 0}}
    targets: [{{provider: cloud, model: gpt-4o}}]
  - match: shadow
    cache: {{enabled: false}}
    semantic_cache: {{mode: shadow, model: minilm}}
    targets: [{{provider: cloud, model: gpt-4o}}]
  - match: good
    strategy: cheapest
    tier: 2
    targets:
      - {{provider: cloud, model: gpt-4o, tier: 3}}
      - {{provider: cloud, model: gpt-4o-mini, tier: 2}}
      - {{provider: own, model: tiny, tier: 1}}
"""
PRICES = """
prices:
  - {match: tiny, per_million_tokens: {input: 0.001, output: 0.001}, source: test, date: 2026-11-01}
"""
ENV = {"KA": "sk-a-0123456789", "KB": "sk-b-0123456789", "KP": "sk-p-0123456789", "UPK": "sk-up-0123456789"}
PATHS = ("/v1/chat/completions", "/v1/completions", "/v1/responses", "/v1/messages")


def words(server, body, answer):
    """Says the secret in pieces of three characters, or as many answers as it was asked."""
    asked = json.dumps(body.get("messages") or body.get("prompt"), ensure_ascii=False)
    n = server.state["n"] = server.state.get("n", 0) + 1
    text = SAID if "tell" in asked else f"answer {n if 'count' in asked else 'always'}"
    classic = server.seen[-1].path.endswith("/v1/completions")
    pieces = [text[at : at + 3] for at in range(0, len(text), 3)]
    if not body.get("stream"):
        said = {"text": text} if classic else {"message": {"role": "assistant", "content": text}}
        choice = {"index": 0, "finish_reason": "stop", **said}
        answer.whole(
            200, {"id": "c", "object": "x", "created": 1, "model": "m", "choices": [choice], "usage": OPENAI_USAGE}
        )
        return
    answer.stream_head()
    for piece in pieces:
        if classic:
            row = {"id": "c", "object": "text_completion", "created": 1, "model": "m"}
            answer.event({**row, "choices": [{"index": 0, "text": piece, "finish_reason": None}]})
        else:
            answer.event(openai_chunk({"content": piece}))
    end = {"text": ""} if classic else {"delta": {}}
    answer.event(
        {
            "id": "c",
            "object": "x",
            "created": 1,
            "model": "m",
            "choices": [{"index": 0, "finish_reason": "stop", **end}],
        }
    )
    answer.event({**openai_chunk({}), "choices": [], "usage": OPENAI_USAGE})
    answer.event(b"[DONE]")
    answer.stream_end()


def make_minilm(directory):
    """Holds every two texts to be the same, so that the words alone must keep them apart."""
    from onnx import TensorProto, helper

    directory.mkdir()
    graph = helper.make_graph(
        [helper.make_node("Gather", ["table", "input_ids"], ["last_hidden_state"])],
        "tiny",
        [helper.make_tensor_value_info("input_ids", TensorProto.INT64, [1, "n"])],
        [helper.make_tensor_value_info("last_hidden_state", TensorProto.FLOAT, [1, "n", 2])],
        [helper.make_tensor("table", TensorProto.FLOAT, [1, 2], np.array([[1, 0]], dtype=np.float32).ravel())],
    )
    onnx.save(
        helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9), directory / "model.onnx"
    )
    model = tokenizers.Tokenizer(tokenizers.models.WordLevel({"[UNK]": 0}, "[UNK]"))
    model.pre_tokenizer = tokenizers.pre_tokenizers.Whitespace()
    model.save(str(directory / "tokenizer.json"))


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    directory = tmp_path_factory.mktemp("way")
    make_minilm(directory / "minilm")
    (directory / "prices.yaml").write_text(PRICES)
    with ExitStack() as stack:
        up = stack.enter_context(fake(words))
        running = stack.enter_context(gateway(directory, CONFIG.format(url=up.url), env=ENV))
        yield running, up, directory


def ask(site, model, content, key="KA", path=PATHS[0], headers=None, **more):
    named = {"/v1/completions": {"prompt": content}, "/v1/responses": {"input": content}}
    turns = named.get(path, {"messages": [{"role": "user", "content": content}]})
    limit = {"max_output_tokens": 50} if path == "/v1/responses" else {"max_tokens": 50}
    body = {"model": model, **limit, **turns, **more}
    return httpx.post(
        f"{site[0].url}{path}",
        json=body,
        headers={"authorization": f"Bearer {ENV[key]}", **(headers or {})},
        timeout=20,
    )


def said(text):
    """Every text that a stream's events hold, put together: deltas first, then what repeats them."""
    deltas, whole = "", ""
    for line in text.splitlines():
        if not line.startswith("data: {"):
            continue
        event = json.loads(line[6:])
        delta = event.get("delta")
        if isinstance(delta, str):
            deltas += delta
        elif isinstance(delta, dict):
            deltas += delta.get("text") or ""
        else:
            whole += json.dumps(event)
        for choice in event.get("choices") or ():
            deltas += choice.get("text") or (choice.get("delta") or {}).get("content") or ""
    return deltas, whole


def rows(site, key=None):
    with sqlite3.connect(site[2] / "books" / "ledger.sqlite") as connection:
        connection.row_factory = sqlite3.Row
        return [dict(row) for row in connection.execute("select * from entries order by at")]


@pytest.mark.parametrize("path", PATHS)
def test_a_secret_split_over_a_stream_is_redacted(site, path):
    answer = ask(site, "redacted", "tell", path=path, stream=True)
    assert answer.status_code == 200
    deltas, whole = said(answer.text)
    assert deltas == "The key is [REDACTED:aws-access-key-id], keep it."
    assert SECRET not in re.sub(r'"[^"]*":|[^A-Z0-9]', "", deltas)
    assert SECRET not in whole
    assert SECRET in said(ask(site, "open", "tell", path=path, stream=True).text)[0]
    if path == "/v1/responses":
        numbers = [json.loads(line[6:])["sequence_number"] for line in answer.text.splitlines() if line[:6] == "data: "]
        assert numbers == sorted(set(numbers))


@pytest.mark.parametrize("path", PATHS)
def test_a_blocked_stream_ends_before_the_secret(site, path):
    answer = ask(site, "blocked", "tell", path=path, stream=True)
    assert "secret_in_answer" in answer.text or "was cut off before it" in answer.text
    assert said(answer.text)[0].strip() == "The key is"
    assert "AKIA" not in answer.text
    assert "[DONE]" not in answer.text
    # What it used is paid for, and the target is not to blame.
    wait_until(lambda: rows(site)[-1]["model"] == "blocked" and rows(site)[-1]["state"] == "settled", what="the row")
    assert rows(site)[-1]["amount_pico"] > 0
    assert ask(site, "open", "hello").status_code == 200


def test_whole_answers_say_what_the_guard_did(site):
    answer = ask(site, "redacted", "tell")
    assert answer.headers["x-llmops-guard"] == "secrets=aws-access-key-id"
    assert SECRET not in answer.text
    assert "[REDACTED:aws-access-key-id]" in answer.json()["choices"][0]["message"]["content"]
    refused = ask(site, "blocked", "tell")
    assert refused.status_code == 502
    assert refused.json()["error"]["code"] == "secret_in_answer"
    assert "x-llmops-guard" not in ask(site, "open", "tell").headers
    assert metric(_metrics(site), 'llm_guard_findings_total{rule="aws-access-key-id"}') >= 2


def test_a_question_that_means_the_same_is_answered_from_the_cache(site):
    first = ask(site, "alike", "What is the count of Alice?", temperature=0)
    wait_until(lambda: ask(site, "alike", "what's the count of Alice", temperature=0).headers["x-llmops-cache"] == "semantic",
               what="the answer is kept")  # fmt: skip
    again = ask(site, "alike", "Please tell me about the count of Alice", temperature=0)
    assert again.headers["x-llmops-cache-score"] == "1.000"
    assert again.headers["x-llmops-cost-usd"] == "0"
    assert again.json()["choices"] == first.json()["choices"]
    for other in ("What is the count of Bob?", "What is not the count of Alice?", "What is the count of Alice 2?"):
        assert "x-llmops-cache-score" not in ask(site, "alike", other, temperature=0).headers
    # Neither another tenant, nor a caller who wants a fresh answer, nor a stream gets it.
    same = "What is the count of Alice?"
    assert "x-llmops-cache-score" not in ask(site, "alike", same, "KB", temperature=0).headers
    fresh = ask(site, "alike", same, headers={"cache-control": "no-cache"}, temperature=0)
    assert "x-llmops-cache-score" not in fresh.headers
    assert fresh.json()["choices"] != first.json()["choices"]
    assert "x-llmops-cache-score" not in ask(site, "alike", same, temperature=0, stream=True).headers
    wait_until(lambda: ask(site, "alike", same, temperature=0, stream=True).headers.get("x-llmops-cache") == "semantic",
               what="the stream is kept")  # fmt: skip
    wait_until(lambda: any(row["cache"] == "semantic" for row in rows(site)), what="its row")
    row = next(row for row in rows(site) if row["cache"] == "semantic")
    assert (row["amount_pico"], row["saved_pico"]) == (0, 1_700_000_000)


def test_shadow_mode_asks_and_measures_its_own_mistakes(site):
    name = 'llm_semantic_cache_{}_total{{route="shadow"}}'
    for question, wrong in (("how high is K2?", 0), ("how high is the count of K2?", 1)):
        before = metric(_metrics(site), name.format("checked")), metric(_metrics(site), name.format("false_hits"))
        ask(site, "shadow", question, temperature=0)
        wait_until(lambda q=question: ask(site, "shadow", q, temperature=0).headers["x-llmops-cache"] == "shadow",
                   what="a shadow hit")  # fmt: skip
        after = metric(_metrics(site), name.format("checked")), metric(_metrics(site), name.format("false_hits"))
        assert after[0] > before[0]
        assert (after[1] > before[1]) == bool(wrong)


def test_the_cheapest_target_that_is_good_enough_and_fits(site):
    assert ask(site, "good", "hello").headers["x-llmops-target"] == "cloud/gpt-4o-mini"
    # Its budget is a tenth of a cent: some answers of the mini fit, then the local model stands in.
    seen = set()
    for _ in range(20):
        answer = ask(site, "good", "hello " * 200, "KP")
        assert answer.status_code == 200
        seen.add(answer.headers["x-llmops-target"])
        if len(seen) == 2:
            break
    assert seen == {"cloud/gpt-4o-mini", "own/tiny"}
    assert metric(_metrics(site), 'llm_budget_fallbacks_total{route="good"}') >= 1
    refused = ask(site, "open", "hello " * 2000, "KP", max_tokens=4000)
    assert refused.status_code == 402
    assert "small" in refused.json()["error"]["message"]


def test_cached_answers_have_rows_that_say_what_they_saved(site):
    for expected in ("miss", "hit"):
        answer = ask(site, "open", "what is cached?", temperature=0)
        assert answer.headers["x-llmops-cache"] == expected
    wait_until(lambda: any(row["cache"] == "exact" for row in rows(site)), what="the row")
    row = next(row for row in rows(site) if row["cache"] == "exact")
    assert (row["amount_pico"], row["saved_pico"], row["provider"]) == (0, 1_700_000_000, "cloud")
    assert Decimal(1_700_000_000) / 10**12 == Decimal("0.0017")


def _metrics(site):
    port = site[0].url
    return httpx.get(f"{port}/metrics", headers={"authorization": f"Bearer {ENV['KA']}"}).text
