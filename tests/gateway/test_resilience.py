"""Retries, fallback, breakers, limits and health, through the port; the pure decisions by examples."""

from __future__ import annotations

import json
import threading
import time
from datetime import UTC, datetime

import httpx
import pytest
from gateway_fakes import OPENAI_TEXT, fake, gateway, metric, wait_until
from gateway_fakes import openai as openai_server
from gateway_providers import _openai_broken
from gateway_providers import openai as faulty
from hypothesis import given
from hypothesis import strategies as st

from llmops.gateway.config import Breaker as BreakerForm
from llmops.gateway.config import Limits, Retry
from llmops.gateway.limits import Limiter
from llmops.gateway.resilience import Breaker, RetryBudget, backoff_s, kind_of_status, parse_retry_after

HELLO = {"messages": [{"role": "user", "content": "hi"}]}
KEYS = {
    "SMALL": "sk-small-0123456789",
    "ONE": "sk-one-0123456789",
    "FREE": "sk-free-0123456789",
    "UPK": "sk-up-0123456789",
}
CONFIG = """
keys:
  - {{name: small, env: SMALL, limits: {{requests_per_minute: 3}}}}
  - {{name: one, env: ONE, limits: {{concurrent: 1}}, models: ["slow", "good"]}}
  - {{name: free, env: FREE, tenant: other, admin: true}}
providers:
  up: {{base_url: "{main}/v1", key_env: UPK}}
  two: {{base_url: "{second}/v1", key_env: UPK}}
  ill: {{base_url: "{main}/v1", key_env: UPK, health: {{path: /health, every_s: 0.05, fails: 1}}}}
  dead: {{base_url: "http://127.0.0.1:9/v1"}}
retry: {{attempts: 3, base_ms: 10}}
breaker: {{failures: 3, open_s: 0.5}}
routes:
  - {{match: good, targets: [{{provider: up}}]}}
  - {{match: slow, targets: [{{provider: up}}]}}
  - {{match: again, targets: [{{provider: up, model: after-2-500}}]}}
  - {{match: patience, targets: [{{provider: up, model: after-1-429}}]}}
  - {{match: fall, targets: [{{provider: up, model: always-500}}, {{provider: two}}]}}
  - {{match: early, targets: [{{provider: up, model: fault-stream-early-error}}, {{provider: two}}]}}
  - {{match: late, targets: [{{provider: up, model: fault-stream-cut}}, {{provider: two}}]}}
  - {{match: breaking, retry: {{attempts: 1}}, targets: [{{provider: up, model: after-3-500-slowly}}]}}
  - {{match: dead, targets: [{{provider: dead}}]}}
  - {{match: health, targets: [{{provider: ill, model: x}}, {{provider: two}}]}}
  - {{match: weighted, strategy: weighted, targets: [{{provider: up, model: w}}, {{provider: two}}]}}
  - {{match: least_busy, strategy: least_busy, targets: [{{provider: up, model: l}}, {{provider: two}}]}}
  - {{match: lowest_latency, strategy: lowest_latency, targets: [{{provider: up, model: q}}, {{provider: two}}]}}
  - {{match: prefix_affinity, strategy: prefix_affinity, targets: [{{provider: up, model: p}}, {{provider: two}}]}}
  - {{match: small-only, targets: [{{provider: up, model: s, when: {{max_input_tokens: 100}}}}, {{provider: two}}]}}
  - {{match: "fault-*", targets: [{{provider: up}}]}}
"""


def upstream(server, body, answer):
    """Behaves as the model's name says."""
    model = body.get("model", "")
    if server.seen[-1].path == "/health":
        answer.whole(200 if server.state.get("well") else 503, {})
    elif model.startswith("after-"):
        _, failures, status = model.split("-")[:3]
        count = server.state[model] = server.state.get(model, 0) + 1
        if count <= int(failures):
            answer.whole(
                int(status), {"error": {"message": "not now"}}, {"retry-after": "1"} if status == "429" else {}
            )
        else:
            openai_server(server, body, answer)
    elif model == "always-500":
        answer.whole(500, {"error": {"message": "never"}})
    elif model == "slow":
        server.state["go"].wait(20)
        openai_server(server, body, answer)
    elif model.startswith("fault-stream") and body.get("stream"):
        _openai_broken(model, answer)
    else:
        faulty(server, body, answer)


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    with fake(upstream) as up, fake(openai_server) as second:
        up.state["go"] = threading.Event()
        text = CONFIG.format(main=up.url, second=second.url)
        with gateway(tmp_path_factory.mktemp("resilience"), text, env=KEYS) as running:
            yield running, up, second


def ask(site, model, stream=False, key="FREE", content="hi"):
    body = {"model": model, "stream": stream, "messages": [{"role": "user", "content": content}]}
    headers = {"authorization": f"Bearer {KEYS.get(key, key)}"}
    return httpx.post(f"{site[0].url}/v1/chat/completions", json=body, headers=headers, timeout=20)


def metrics(site):
    return httpx.get(f"{site[0].url}/metrics", headers={"authorization": f"Bearer {KEYS['FREE']}"}).text


def test_a_failing_upstream_is_asked_again(site):
    answer = ask(site, "again")
    assert answer.status_code == 200
    assert answer.headers["x-llmops-attempts"] == "3"


def test_retry_after_is_waited_for(site):
    began = time.monotonic()
    answer = ask(site, "patience")
    assert time.monotonic() - began >= 0.9
    assert (answer.status_code, answer.headers["x-llmops-attempts"]) == (200, "2")


def test_a_client_mistake_is_never_retried_and_never_cools(site):
    for _ in range(12):
        answer = ask(site, "fault-400")
        assert (answer.status_code, answer.headers["x-llmops-attempts"]) == (400, "1")
    assert 'llm_breaker_open{target="up"} 0' in metrics(site)
    assert ask(site, "good").status_code == 200


def test_fallback_goes_to_the_next_target(site):
    answer = ask(site, "fall")
    assert (answer.headers["x-llmops-target"], answer.headers["x-llmops-attempts"]) == ("two", "2")
    assert metric(metrics(site), 'llm_fallbacks_total{target="two"}') >= 1


def test_an_error_before_the_first_content_falls_back(site):
    answer = ask(site, "early", stream=True)
    assert answer.headers["x-llmops-target"] == "two"
    assert "engine died" not in answer.text
    words = [json.loads(line[6:]) for line in answer.text.splitlines() if line.startswith("data: {")]
    assert "".join(w["choices"][0]["delta"].get("content") or "" for w in words) == OPENAI_TEXT


def test_a_break_after_content_is_an_error_event_and_never_spliced(site):
    answer = ask(site, "late", stream=True)
    assert answer.status_code == 200
    assert "o-three" in answer.text
    assert "aitch" not in answer.text
    last = [line for line in answer.text.splitlines() if line.startswith("data: ")][-1]
    assert json.loads(last[6:])["error"]["code"] == "upstream_stream_broken"
    assert "[DONE]" not in answer.text
    text = metrics(site)
    assert metric(text, 'llm_requests_total{model="late",status="502"}') == 1
    assert metric(text, 'llm_estimated_requests_total{model="late"}') == 1


def test_a_break_after_content_in_the_anthropic_dialect(site):
    body = {"model": "late", "max_tokens": 9, "stream": True, **HELLO}
    answer = httpx.post(f"{site[0].url}/v1/messages", json=body, headers={"x-api-key": KEYS["FREE"]}, timeout=20)
    assert "event: error" in answer.text
    assert "message_stop" not in answer.text


def test_the_breaker_opens_and_closes_again(site):
    assert [ask(site, "breaking").status_code for _ in range(3)] == [500, 500, 500]
    refused = ask(site, "breaking")
    assert refused.status_code == 503
    assert int(refused.headers["retry-after"]) >= 1
    assert site[1].state["after-3-500-slowly"] == 3
    assert metric(metrics(site), 'llm_breaker_open{target="up/after-3-500-slowly"}') == 1
    wait_until(lambda: ask(site, "breaking").status_code == 200, what="the breaker closes")
    assert metric(metrics(site), 'llm_breaker_open{target="up/after-3-500-slowly"}') == 0


def test_a_dead_upstream_is_a_quick_502_in_the_callers_words(site):
    answer = ask(site, "dead")
    assert answer.status_code == 502
    assert answer.json()["error"]["code"] == "upstream_refused"


def test_limits_per_key_with_headers_in_both_dialects(site):
    first = ask(site, "good", key="SMALL")
    assert first.headers["x-ratelimit-limit-requests"] == "3"
    assert first.headers["x-ratelimit-remaining-requests"] == "2"
    rest = [ask(site, "good", key="SMALL") for _ in range(3)]
    assert [each.status_code for each in rest] == [200, 200, 429]
    assert int(rest[-1].headers["retry-after"]) in range(1, 21)
    assert rest[-1].json()["error"]["code"] == "rate_limit_exceeded"
    body = {"model": "good", "max_tokens": 5, **HELLO}
    message = httpx.post(f"{site[0].url}/v1/messages", json=body, headers={"x-api-key": KEYS["SMALL"]})
    assert message.status_code == 429
    assert message.headers["anthropic-ratelimit-requests-remaining"] == "0"
    assert message.json()["error"]["type"] == "rate_limit_error"
    assert ask(site, "good").status_code == 200


def test_a_wrong_key_is_401_and_is_not_repeated(site):
    url = f"{site[0].url}/v1/chat/completions"
    for headers in ({}, {"authorization": "Bearer sk-wrong-abcdefghijkl"}, {"x-api-key": "sk-wrong-abcdefghijkl"}):
        answer = httpx.post(url, json={"model": "good", **HELLO}, headers=headers)
        assert answer.status_code == 401
        assert "sk-wrong" not in answer.text
    assert "sk-wrong" not in site[0].log.read_text()
    assert ask(site, "late", key="ONE").status_code == 404  # out of this key's reach: as if it were not there
    own = httpx.get(f"{site[0].url}/v1/models", headers={"x-api-key": KEYS["ONE"]}).json()
    assert [row["id"] for row in own["data"]] == ["good", "slow"]
    assert httpx.get(f"{site[0].url}/metrics", headers={"x-api-key": KEYS["SMALL"]}).status_code == 403


def test_concurrency_limit(site):
    _, up, _ = site
    before, results = len(up.seen), []
    worker = threading.Thread(target=lambda: results.append(ask(site, "slow", key="ONE").status_code))
    worker.start()
    wait_until(lambda: any(b'"slow"' in each.raw for each in up.seen[before:]))
    assert ask(site, "good", key="ONE").status_code == 429
    up.state["go"].set()
    worker.join()
    assert results == [200]
    assert ask(site, "good", key="ONE").status_code == 200


def test_an_ill_provider_is_left_alone_until_it_is_well(site):
    wait_until(lambda: ask(site, "health").headers.get("x-llmops-target") == "two")
    site[1].state["well"] = True
    wait_until(lambda: ask(site, "health").headers.get("x-llmops-target") == "ill/x")


def test_conditions_choose_a_target(site):
    assert ask(site, "small-only").headers["x-llmops-target"] == "up/s"
    assert ask(site, "small-only", content="long " * 200).headers["x-llmops-target"] == "two"


@pytest.mark.parametrize("strategy", ["weighted", "least_busy", "lowest_latency", "prefix_affinity"])
def test_strategies_reach_both_targets_or_stick(site, strategy):
    seen = {ask(site, strategy).headers["x-llmops-target"] for _ in range(20)}
    if strategy == "prefix_affinity":
        assert len(seen) == 1  # the same prompt goes where its prefix is warm
    elif strategy in ("weighted", "least_busy"):
        assert len(seen) == 2


# ---- pure decisions ----


@pytest.mark.parametrize(
    ("value", "seconds"),
    [
        ("7", 7.0),
        ("1.5", 1.5),
        ("Sun, 06 Nov 1994 08:49:37 GMT", 30.0),
        ("Sun, 06 Nov 1994 08:00:00 GMT", 0.0),
        ("soon", None),
        ("", None),
        ("-3", None),
        ("nan", None),
    ],
)
def test_retry_after_forms(value, seconds):
    now = datetime(1994, 11, 6, 8, 49, 7, tzinfo=UTC)
    assert parse_retry_after(value, now) == seconds


@given(attempt=st.integers(1, 30), draw=st.floats(0, 1))
def test_backoff_is_within_its_bounds(attempt, draw):
    retry = Retry(base_ms=100, max_ms=2000)
    assert 0 <= backoff_s(retry, attempt, draw) <= min(2.0, 0.1 * 2 ** (attempt - 1))


def test_kinds():
    assert kind_of_status(429, own_key=True) == "rate_limit"
    assert kind_of_status(401, own_key=True) == "credentials"
    assert kind_of_status(401, own_key=False) == "caller"
    assert kind_of_status(529, own_key=True) == "server"
    assert kind_of_status(422, own_key=True) == "caller"


def test_breaker_lets_one_probe_through():
    breaker = Breaker(BreakerForm(failures=2, open_s=10, max_open_s=60))
    breaker.failed(0.0, 0)
    assert breaker.blocks(0.0) == 0
    breaker.failed(0.0, 0)
    assert breaker.blocks(1.0) == 9
    assert breaker.blocks(10.0) == 0
    breaker.asked(10.0)  # the probe
    assert breaker.blocks(10.5) > 0
    breaker.failed(11.0, 0)
    assert breaker.blocks(12.0) == 19  # open for twice as long
    breaker.asked(31.0)
    breaker.succeeded()
    assert breaker.blocks(31.0) == 0


def test_retry_budget_stops_a_storm():
    budget = RetryBudget(0.1)
    for _ in range(100):
        budget.request()
    allowed = sum(budget.take() for _ in range(100))
    assert allowed == 20  # the reserve and a tenth of the requests


@given(st.lists(st.tuples(st.floats(0, 5), st.integers(1, 50), st.integers(0, 80)), max_size=40))
def test_token_limits_are_never_over_by_more_than_what_was_underestimated(steps):
    limiter, now, admitted = Limiter(Limits(tokens_per_minute=100), 0.0), 0.0, 0
    for wait, estimate, used in steps:
        now += wait
        if limiter.enter(estimate, now) is None:
            limiter.leave(estimate, used)
            admitted += max(used, 0)
    # refill so far, the full bucket at the start, and one request's overdraft
    assert admitted <= 100 + now * 100 / 60 + 80 + 1e-6
