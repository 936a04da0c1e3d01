"""Responses before a server that has them itself: passed on as they are, priced, and judged on the way."""

from __future__ import annotations

import time

import openai
import pytest
from gateway_fakes import Close, fake, gateway, metric, wait_until

CONFIG = """
providers: {{up: {{base_url: "{url}/v1", key_env: UPK, prices_as: openai, responses: true}}}}
retry: {{attempts: 1}}
breaker: {{failures: 1000, min_requests: 100000}}
routes:
  - {{match: gpt-4o, targets: [{{provider: up}}]}}
  - {{match: "fault-*", targets: [{{provider: up}}]}}
"""
USAGE = {
    "input_tokens": 1000, "output_tokens": 20, "total_tokens": 1020,
    "input_tokens_details": {"cached_tokens": 800}, "output_tokens_details": {"reasoning_tokens": 8},
}  # fmt: skip
TEXT = "r-native-text"


def response(body, status, output, usage=None, **more):
    return {
        "id": "resp_native", "object": "response", "created_at": 1, "status": status, "model": body["model"], "output": output,
        "parallel_tool_calls": True, "tool_choice": "auto", "tools": [], "usage": usage, "error": None, **more,
    }  # fmt: skip


def upstream(server, body, answer):
    assert server.seen[-1].path == "/v1/responses"
    part = {"type": "output_text", "text": TEXT, "annotations": []}
    item = {"type": "message", "id": "msg_1", "status": "completed", "role": "assistant", "content": [part]}
    done = response(body, "completed", [item], USAGE, previous_response_id=body.get("previous_response_id"))
    if not body.get("stream"):
        answer.whole(200, done)
        return
    number = iter(range(100))

    def event(name, **fields):
        answer.event({"type": name, "sequence_number": next(number), **fields}, name)

    answer.stream_head()
    event("response.created", response=response(body, "in_progress", []))
    if body["model"] == "fault-early":
        failed = response(body, "failed", [], error={"code": "server_error", "message": "engine died"})
        event("response.failed", response={**failed, "error": {"code": "server_error", "message": "engine died"}})
        answer.stream_end()
        return
    event("response.output_item.added", output_index=0, item={**item, "status": "in_progress", "content": []})
    event("response.content_part.added", output_index=0, item_id="msg_1", content_index=0, part={**part, "text": ""})
    for piece in (TEXT[:4], TEXT[4:]):
        event("response.output_text.delta", output_index=0, item_id="msg_1", content_index=0, delta=piece, logprobs=[])
    if body["model"] == "fault-cut":
        time.sleep(0.05)
        raise Close
    event("response.output_text.done", output_index=0, item_id="msg_1", content_index=0, text=TEXT, logprobs=[])
    event("response.output_item.done", output_index=0, item=item)
    event("response.completed", response=done)
    answer.stream_end()


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    with fake(upstream) as up:
        config = CONFIG.format(url=up.url)
        with gateway(tmp_path_factory.mktemp("native"), config, env={"UPK": "sk-up-0123456789"}) as running:
            yield running, up


@pytest.fixture(scope="module")
def oai(site):
    with openai.OpenAI(base_url=site[0].url + "/v1", api_key="sk-client", max_retries=0, timeout=10) as client:
        yield client


@pytest.mark.parametrize("stream", [False, True])
def test_passed_on_and_priced(site, oai, stream):
    """State, unknown fields and all: the server keeps responses, and the gateway does not stand in between."""
    running, up = site
    label = 'llm_cost_total_dollars{model="gpt-4o"}'
    before = metric(running.metrics(), label)
    request = {
        "model": "gpt-4o",
        "input": "hi",
        "previous_response_id": "resp_0",
        "extra_body": {"brand_new": [1, None]},
    }
    if stream:
        with oai.responses.create(**request, stream=True) as events:
            seen = list(events)
        assert "".join(each.delta for each in seen if each.type == "response.output_text.delta") == TEXT
        answer = seen[-1].response
    else:
        answer = oai.responses.create(**request)
    assert answer.output_text == TEXT
    assert answer.previous_response_id == "resp_0"
    sent = up.seen[-1].json
    assert (sent["previous_response_id"], sent["brand_new"]) == ("resp_0", [1, None])
    assert up.seen[-1].headers["authorization"] == "Bearer sk-up-0123456789"
    wait_until(lambda: metric(running.metrics(), label) > before)
    assert metric(running.metrics(), label) - before == pytest.approx(0.0017)


def test_a_failure_before_any_content_is_an_answer_and_not_a_stream(oai):
    with pytest.raises(openai.APIStatusError) as caught:
        oai.responses.create(model="fault-early", input="hi", stream=True)
    assert "engine died" in caught.value.message


def test_a_break_after_content_is_told(site, oai):
    with pytest.raises(openai.APIError), oai.responses.create(model="fault-cut", input="hi", stream=True) as events:
        for _ in events:
            pass
    text = site[0].metrics()
    assert metric(text, 'llm_upstream_failures_total{target="up",kind="protocol"}') >= 1
