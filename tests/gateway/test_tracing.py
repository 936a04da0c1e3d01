"""Spans at a collector: one of the request, one of each attempt, under the caller's trace, handed on to the upstream."""

from __future__ import annotations

import json

import httpx
import pytest
from gateway_fakes import fake, gateway, metric, wait_until
from gateway_fakes import openai as openai_server

CONFIG = """
tracing: {{endpoint: "{collector}", service: edge, header_env: COLLECTOR_HEADER}}
providers:
  bad: {{base_url: "{up}/bad/v1", prices_as: openai}}
  good: {{base_url: "{up}/v1", prices_as: openai}}
routes:
  - {{match: m, targets: [{{provider: bad, model: gpt-4o}}, {{provider: good, model: gpt-4o}}]}}
"""
PARENT = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
SECRET = "words-that-nobody-may-store"


def upstream(server, body, answer):
    if server.seen[-1].path.startswith("/bad"):
        answer.whole(500, {"error": {"message": "not today"}})
    else:
        openai_server(server, body, answer)


def collector(server, body, answer):
    server.state.setdefault("documents", []).append(body)
    answer.whole(200, {})


def ask(running, parent=None, **more):
    body = {"model": "m", "messages": [{"role": "user", "content": SECRET}], **more}
    headers = {"traceparent": parent} if parent else {}
    return httpx.post(f"{running.url}/v1/chat/completions", json=body, headers=headers, timeout=20)


def spans_of(server) -> list[dict]:
    rows = []
    for document in list(server.state.get("documents", [])):
        for resource in document["resourceSpans"]:
            for scope in resource["scopeSpans"]:
                rows += scope["spans"]
    return rows


def facts(span) -> dict:
    values = {row["key"]: next(iter(row["value"].items())) for row in span["attributes"]}
    return {key: int(value) if kind == "intValue" else value for key, (kind, value) in values.items()}


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    with fake(upstream) as up, fake(collector) as sink:
        config = CONFIG.format(collector=sink.url, up=up.url)
        env = {"COLLECTOR_HEADER": "x-token: collector-token-0123456789"}
        with gateway(tmp_path_factory.mktemp("tracing"), config, env=env) as running:
            yield running, up, sink


def test_a_request_and_its_attempts_under_the_callers_trace(site):
    running, up, sink = site
    assert ask(running, PARENT, stream=True).status_code == 200
    wait_until(lambda: len(spans_of(sink)) == 3, what="the spans arrive")
    request, first, second = spans_of(sink)
    assert {span["traceId"] for span in (request, first, second)} == {PARENT.split("-")[1]}
    assert request["parentSpanId"] == PARENT.split("-")[2]
    assert first["parentSpanId"] == second["parentSpanId"] == request["spanId"]
    assert (request["kind"], first["kind"], request["name"]) == (2, 3, "POST /v1/chat/completions")
    assert (facts(first)["error.type"], first["status"]["code"]) == ("server", 2)
    known = facts(request)
    assert known["http.response.status_code"] == 200
    assert (known["gen_ai.usage.input_tokens"], known["gen_ai.usage.output_tokens"]) == (1000, 20)
    assert (known["llmops.target"], known["llmops.attempts"], known["llmops.cost_usd"]) == ("good/gpt-4o", 2, "0.0017")
    assert facts(second)["gen_ai.request.model"] == "gpt-4o"
    for span in (request, first, second):
        assert int(span["startTimeUnixNano"]) <= int(span["endTimeUnixNano"])
    # The upstream's own spans hang below the attempt that asked it.
    handed = [seen.headers["traceparent"].split("-") for seen in up.seen[-2:]]
    assert [row[1:3] for row in handed] == [[PARENT.split("-")[1], span["spanId"]] for span in (first, second)]
    assert sink.seen[-1].path == "/v1/traces"
    assert sink.seen[-1].headers["x-token"] == "collector-token-0123456789"
    assert SECRET not in json.dumps(sink.state["documents"])


def test_a_caller_who_decided_against_is_obeyed_and_nonsense_is_not_a_trace(site):
    running, up, sink = site
    before = len(spans_of(sink))
    ask(running, PARENT[:-2] + "00")
    assert up.seen[-1].headers["traceparent"].endswith("-00")
    ask(running, "00-" + "0" * 32 + "-b7ad6b7169203331-01")
    wait_until(lambda: len(spans_of(sink)) == before + 3, what="only the second one's spans arrive")
    assert "parentSpanId" not in spans_of(sink)[before]
    assert spans_of(sink)[before]["traceId"] != "0" * 32


def test_the_documents_are_otlps(site):
    """Google's own reader of the protocol's JSON form takes them, every field known."""
    from google.protobuf import json_format
    from opentelemetry.proto.trace.v1 import trace_pb2 as trace

    running, _, sink = site
    ask(running)
    wait_until(lambda: sink.state.get("documents"), what="a document arrives")
    document = json.loads(json.dumps(sink.state["documents"][-1]))
    for resource in document["resourceSpans"]:
        for span in resource["scopeSpans"][0]["spans"]:  # identifiers are hexadecimal there, against protobuf's rule
            for name in ("traceId", "spanId", "parentSpanId"):
                span.pop(name, None)
    parsed = json_format.ParseDict(document, trace.TracesData())
    assert parsed.resource_spans[0].scope_spans[0].spans[0].kind == trace.Span.SPAN_KIND_SERVER


@pytest.mark.slow
def test_a_collector_that_is_gone_costs_spans_and_no_request(tmp_path):
    with fake(upstream) as up:
        config = CONFIG.format(collector="http://127.0.0.1:9/custom", up=up.url)
        with gateway(tmp_path, config, env={"COLLECTOR_HEADER": "x-token: t-0123456789"}) as running:
            for _ in range(3):
                assert ask(running).status_code == 200
            lost = 'llm_spans_dropped_total{why="collector"}'
            wait_until(lambda: metric(running.metrics(), lost) >= 9, what="lost spans are counted")
            assert "spans are lost" in running.log.read_text()
