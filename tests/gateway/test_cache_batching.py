"""The exact cache, single flight and batching, through the port."""

from __future__ import annotations

import threading
import time
from concurrent.futures import ThreadPoolExecutor

import httpx
import pytest
from gateway_fakes import OPENAI_TEXT, fake, gateway, metric, wait_until
from gateway_fakes import openai as openai_server
from hypothesis import given
from hypothesis import strategies as st

from llmops.gateway.batching import _shares
from llmops.prices import Usage

CONFIG = """
keys:
  - {{name: a, env: KEY_A, tenant: first, admin: true}}
  - {{name: b, env: KEY_B, tenant: second}}
providers:
  up: {{base_url: "{url}/v1", prices_as: openai, key_env: UPK}}
cache: {{enabled: true, max_mib: 1}}
routes:
  - {{match: gpt-4o, targets: [{{provider: up}}]}}
  - {{match: always, targets: [{{provider: up, model: gpt-4o}}], cache: {{always: true, ttl_s: 0.3}}}}
  - {{match: never, targets: [{{provider: up, model: gpt-4o}}], cache: {{enabled: false}}}}
"""
ENV = {"KEY_A": "sk-aaaa-0123456789", "KEY_B": "sk-bbbb-0123456789", "UPK": "sk-up-0123456789"}


def ask(url, key="KEY_A", model="gpt-4o", content="hi", headers=None, **more):
    body = {"model": model, "messages": [{"role": "user", "content": content}], "temperature": 0, **more}
    return httpx.post(
        f"{url}/v1/chat/completions",
        json=body,
        headers={"authorization": f"Bearer {ENV[key]}", **(headers or {})},
        timeout=20,
    )


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    def handler(server, body, answer):
        if "slow" in str(body.get("messages")):
            server.state["slow"].wait(20)
        openai_server(server, body, answer)

    with fake(handler) as up:
        up.state["slow"] = threading.Event()
        with gateway(tmp_path_factory.mktemp("cache"), CONFIG.format(url=up.url), env=ENV) as running:
            yield running, up


def test_an_equal_request_is_answered_from_the_cache_for_nothing(site):
    running, up = site
    first, before = ask(running.url, content="one"), len(up.seen)
    second = ask(running.url, content="one")
    assert len(up.seen) == before
    assert second.json() == first.json()
    assert (first.headers["x-llmops-cache"], second.headers["x-llmops-cache"]) == ("miss", "hit")
    assert second.headers["x-llmops-cost-usd"] == "0"


def test_a_stream_is_replayed_as_a_stream(site):
    running, up = site
    first = ask(running.url, content="two", stream=True)
    before = len(up.seen)
    second = ask(running.url, content="two", stream=True)
    assert second.headers["x-llmops-cache"] == "hit"
    assert second.headers["content-type"].startswith("text/event-stream")
    assert second.text == first.text
    assert "[DONE]" in second.text
    assert len(up.seen) == before
    assert ask(running.url, content="two").headers["x-llmops-cache"] == "miss"  # the whole form is another request


def test_tenants_never_share(site):
    running, _ = site
    ask(running.url, "KEY_A", content="secret")
    assert ask(running.url, "KEY_B", content="secret").headers["x-llmops-cache"] == "miss"
    assert ask(running.url, "KEY_A", content="secret").headers["x-llmops-cache"] == "hit"


@pytest.mark.parametrize(
    ("change", "result"),
    [
        ({}, "hit"),
        ({"temperature": 0.7}, "off"),
        ({"max_tokens": 5}, "miss"),
        ({"seed": 1}, "miss"),
        ({"user": "someone"}, "hit"),
        ({"model": "never"}, "off"),
        ({"headers": {"cache-control": "no-cache"}}, "off"),
    ],
)
def test_what_is_kept(site, change, result):
    ask(site[0].url, content="three")
    assert ask(site[0].url, content="three", **change).headers["x-llmops-cache"] == result


def test_time_to_live(site):
    running, _ = site
    ask(running.url, model="always", temperature=1.0, content="four")
    assert ask(running.url, model="always", temperature=1.0, content="four").headers["x-llmops-cache"] == "hit"
    deadline = time.monotonic() + 10
    while ask(running.url, model="always", temperature=1.0, content="four").headers["x-llmops-cache"] == "hit":
        assert time.monotonic() < deadline
        time.sleep(0.05)


@pytest.mark.parametrize("stream", [False, True])
def test_equal_requests_at_once_are_one_call(site, stream):
    running, up = site
    before = len(up.seen)
    up.state["slow"].clear()
    with ThreadPoolExecutor(8) as pool:
        futures = [pool.submit(ask, running.url, content=f"slow {stream}", stream=stream) for _ in range(8)]
        wait_until(lambda: metric(running_metrics(running), "llm_requests_in_flight") >= 8)
        up.state["slow"].set()
        answers = [future.result() for future in futures]
    assert len(up.seen) == before + 1
    assert {answer.status_code for answer in answers} == {200}
    assert len({answer.text for answer in answers}) == 1


def running_metrics(running):
    return httpx.get(f"{running.url}/metrics", headers={"authorization": f"Bearer {ENV['KEY_A']}"}).text


def test_errors_are_not_kept(tmp_path):
    def handler(server, body, answer):
        server.state["n"] = server.state.get("n", 0) + 1
        if server.state["n"] == 1:
            answer.whole(400, {"error": {"message": "no"}})
        else:
            openai_server(server, body, answer)

    with fake(handler) as up, gateway(tmp_path, CONFIG.format(url=up.url), env=ENV) as running:
        assert ask(running.url).status_code == 400
        assert ask(running.url).status_code == 200


# ---- batching ----

BATCHED = """
providers:
  up: {{base_url: "{url}/v1", batching: {{max_size: 16, max_wait_ms: 5000}}}}
  triton: {{dialect: triton, base_url: "{url}", batching: {{max_size: 16, max_wait_ms: 5000}}}}
routes:
  - {{match: emb, targets: [{{provider: up}}]}}
  - {{match: bert, targets: [{{provider: triton}}]}}
"""


def embed(url, text, model="emb", **more):
    return httpx.post(f"{url}/v1/embeddings", json={"model": model, "input": text, **more}, timeout=20)


@pytest.fixture(scope="module")
def batching_site(tmp_path_factory):
    with fake(batching_handler) as up, gateway(tmp_path_factory.mktemp("batch"), BATCHED.format(url=up.url)) as running:
        yield running, up


@pytest.fixture
def batched(batching_site):
    """The first call of each test is slow, until the test says go."""
    batching_site[1].state.clear()
    batching_site[1].state["go"] = threading.Event()
    return batching_site


def batching_handler(server, body, answer):
    """Slow for the first call, so that others gather; refuses any call that holds "bad"."""
    from gateway_providers import triton

    if "v2/models" in server.seen[-1].path:
        texts = body["inputs"][0]["data"]
    else:
        texts = body.get("input") or body.get("prompt")
    texts = [texts] if isinstance(texts, str) else texts
    server.state.setdefault("sizes", []).append(len(texts))
    if len(server.state["sizes"]) == 1:
        server.state["go"].wait(20)
    if "bad" in texts:
        answer.whole(400, {"error": {"message": "bad input"}})
    elif "v2/models" in server.seen[-1].path:
        triton(server, body, answer)
    elif body.get("prompt"):
        rows = [{"index": i, "text": text.upper(), "finish_reason": "stop"} for i, text in enumerate(texts)]
        usage = {"prompt_tokens": 7 * len(texts), "completion_tokens": len(texts), "total_tokens": 8 * len(texts)}
        answer.whole(200, {"id": "c", "object": "text_completion", "model": "m", "choices": rows, "usage": usage})
    else:
        openai_server(server, body, answer)


@pytest.mark.parametrize("model", ["emb", "bert"])
def test_requests_are_gathered_and_answered_one_by_one(batched, model):
    running, up = batched
    texts = ["x" * n for n in range(1, 13)]
    with ThreadPoolExecutor(16) as pool:
        first = pool.submit(embed, running.url, "first", model)
        wait_until(lambda: len(up.state.get("sizes", [])) == 1)
        futures = [pool.submit(embed, running.url, text, model) for text in texts]
        other = pool.submit(embed, running.url, "yy", model, encoding_format="float")
        wait_until(lambda: metric(running.metrics(), "llm_requests_in_flight") >= 13)
        up.state["go"].set()
        answers = [future.result() for future in futures]
        assert first.result().status_code == other.result().status_code == 200
    assert [answer.json()["data"][0]["embedding"][0] for answer in answers] == [len(text) for text in texts]
    assert [answer.json()["data"][0]["index"] for answer in answers] == [0] * 12
    assert sum(up.state["sizes"]) == 14
    assert len(up.state["sizes"]) <= 6  # not fourteen calls; unequal parameters are never mixed


def test_one_bad_request_never_fails_its_neighbours(batched):
    running, up = batched
    with ThreadPoolExecutor(16) as pool:
        first = pool.submit(embed, running.url, "first")
        wait_until(lambda: len(up.state.get("sizes", [])) == 1)
        futures = [pool.submit(embed, running.url, text) for text in ("a", "bad", "ccc")]
        wait_until(lambda: metric(running.metrics(), "llm_requests_in_flight") >= 4)
        up.state["go"].set()
        statuses = [future.result().status_code for future in futures]
        assert first.result().status_code == 200
    assert statuses == [200, 400, 200]


def test_an_idle_upstream_is_asked_at_once(batched):
    running, up = batched
    up.state["go"].set()
    for _ in range(3):
        assert embed(running.url, "a").status_code == 200
    assert up.state["sizes"] == [1, 1, 1]


@given(st.integers(0, 10_000), st.integers(0, 10_000), st.lists(st.integers(0, 500), min_size=1, max_size=16))
def test_shares_add_up(into, out, sizes):
    shares = _shares(Usage(into, out), sizes)
    assert sum(share.input_tokens for share in shares) == into
    assert sum(share.output_tokens for share in shares) == out
    assert all(share.input_tokens >= 0 and share.output_tokens >= 0 for share in shares)


def test_text_of_the_fake_is_the_fakes(site):
    assert ask(site[0].url, content="five").json()["choices"][0]["message"]["content"] == OPENAI_TEXT
