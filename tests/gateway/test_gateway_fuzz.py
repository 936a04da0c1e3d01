"""Noise from both sides: whatever callers and upstreams send, no bug shows, no wrong answer leaves, and the rest goes on.

``LLMOPS_FUZZ_EXAMPLES`` sets how long the search is.
"""

from __future__ import annotations

import contextlib
import json
import os
import socket

import httpx
import pytest
from gateway_fakes import OPENAI_TEXT, fake, gateway, metric, wait_until
from gateway_fakes import openai as openai_server
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from llmops.gateway.dialects.native import NativeCodec
from llmops.gateway.dialects.translate import TranslatingCodec
from llmops.gateway.dialects.whole_only import CountingCodec, EmbeddingsCodec
from llmops.gateway.dialects.wire import Ask, read_ask
from llmops.gateway.refusal import Refusal
from llmops.gateway.resilience import Failure
from llmops.gateway.surfaces import CHAT, COMPLETIONS, COUNT_TOKENS, EMBEDDINGS, MESSAGES, RESPONSES

DIALECTS = ("openai", "anthropic", "gemini", "triton")
SURFACES = (CHAT, COMPLETIONS, RESPONSES, MESSAGES)

# Values in the shape of the APIs: their own words as keys, and anything below them.
WORDS = st.sampled_from(
    [
        "type", "id", "model", "choices", "delta", "content", "text", "tool_calls", "function", "name", "arguments", "index",
        "finish_reason", "usage", "message", "content_block", "error", "candidates", "parts", "functionCall", "args", "role",
        "usageMetadata", "finishReason", "text_output", "reasoning_content", "signature", "thinking", "logprobs", "input",
        "messages", "tools", "system", "max_tokens", "stop", "response_format", "metadata", "tool_choice", "prompt",
        "input_schema", "parameters", "image_url", "source", "data", "output", "call_id", "reasoning", "stream_options",
    ]
)  # fmt: skip
KINDS = st.sampled_from(
    [
        "message_start", "content_block_start", "content_block_delta", "content_block_stop", "message_delta", "message_stop",
        "text", "text_delta", "tool_use", "input_json_delta", "thinking", "error", "function", "function_call", "user",
        "assistant", "tool", "system", "image_url", "tool_result", "stop", "STOP", "length", "reasoning", "json_schema",
    ]
)  # fmt: skip
LEAVES = (
    st.none()
    | st.booleans()
    | st.integers(-3, 3)
    | st.floats(allow_nan=False)
    | KINDS
    | st.text(max_size=6)
    | st.just("\ud800")
)
VALUES = st.recursive(
    LEAVES, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(WORDS, inner, max_size=4), max_leaves=12
)
OBJECTS = st.dictionaries(WORDS, VALUES, max_size=6)
FEW = settings(
    max_examples=int(os.environ.get("LLMOPS_FUZZ_EXAMPLES", "30")),
    suppress_health_check=[HealthCheck.too_slow],
    deadline=None,
)


# What each provider really sends: every event kind of its streams, its answers, and requests of every feature.
STREAMS = {
    "openai": [
        {"id": "c", "model": "m", "choices": [{"index": 0, "delta": {"role": "assistant", "reasoning_content": "hm"}}]},
        {"choices": [{"index": 0, "delta": {"content": "a"}, "logprobs": {"content": [{"token": "a", "logprob": -1}]}}]},
        {"choices": [{"delta": {"tool_calls": [{"index": 0, "id": "c1", "function": {"name": "f", "arguments": ""}}]}}]},
        {"choices": [{"delta": {"tool_calls": [{"index": 0, "function": {"arguments": '{"a": 1}'}}]}}]},
        {"choices": [{"delta": {}, "finish_reason": "tool_calls"}]},
        {"choices": [], "usage": {"prompt_tokens": 3, "completion_tokens": 2, "prompt_tokens_details": {"cached_tokens": 1}}},
    ],
    "anthropic": [
        {"type": "message_start", "message": {"id": "m", "model": "m", "usage": {"input_tokens": 3, "output_tokens": 1}}},
        {"type": "content_block_start", "index": 0, "content_block": {"type": "thinking", "thinking": ""}},
        {"type": "content_block_delta", "index": 0, "delta": {"type": "thinking_delta", "thinking": "hm"}},
        {"type": "content_block_delta", "index": 0, "delta": {"type": "signature_delta", "signature": "s"}},
        {"type": "content_block_stop", "index": 0},
        {"type": "content_block_start", "index": 1, "content_block": {"type": "tool_use", "id": "t", "name": "f", "input": {}}},
        {"type": "content_block_delta", "index": 1, "delta": {"type": "input_json_delta", "partial_json": '{"a": 1}'}},
        {"type": "content_block_stop", "index": 1},
        {"type": "message_delta", "delta": {"stop_reason": "tool_use", "stop_sequence": None}, "usage": {"output_tokens": 5}},
        {"type": "message_stop"},
    ],
    "gemini": [
        {"responseId": "r", "modelVersion": "m", "candidates": [{"content": {"parts": [{"text": "hm", "thought": True}]}}]},
        {"candidates": [{"content": {"parts": [{"functionCall": {"name": "f", "args": {"a": 1}}, "thoughtSignature": "s"}]}}]},
        {"candidates": [{"content": {"parts": [{"text": "a"}]}, "finishReason": "STOP"}], "usageMetadata": {"promptTokenCount": 3}},
    ],
    "triton": [{"id": "1", "model_name": "m", "text_output": "a"}, {"text_output": ["b"], "finish_reason": "length"}],
}  # fmt: skip
ANSWERS = {
    "openai": {
        "id": "c", "model": "m", "usage": {"prompt_tokens": 3, "completion_tokens": 2},
        "choices": [{"finish_reason": "stop", "logprobs": {"content": [{"token": "a", "logprob": -1}]}, "message": {
            "content": "a", "reasoning_content": "hm", "refusal": None,
            "tool_calls": [{"id": "c1", "function": {"name": "f", "arguments": "{}"}}]}}],
    },
    "anthropic": {
        "id": "m", "model": "m", "stop_reason": "tool_use", "usage": {"input_tokens": 3, "output_tokens": 2},
        "content": [{"type": "thinking", "thinking": "hm", "signature": "s"}, {"type": "text", "text": "a"},
                    {"type": "tool_use", "id": "t", "name": "f", "input": {"a": 1}}],
    },
    "gemini": {
        "responseId": "r", "usageMetadata": {"promptTokenCount": 3, "candidatesTokenCount": 2},
        "candidates": [{"finishReason": "STOP", "content": {"parts": [
            {"text": "a"}, {"functionCall": {"name": "f", "args": {}}, "thoughtSignature": "s"}]},
            "logprobsResult": {"chosenCandidates": [{"token": "a", "logProbability": -1}], "topCandidates": []}}],
    },
    "triton": {"id": "1", "model_name": "m", "text_output": "a", "num_input_tokens": 2, "num_output_tokens": [1]},
}  # fmt: skip
PICTURE = {"type": "image_url", "image_url": {"url": "data:image/png;base64,AA==", "detail": "low"}}
TOOL = {
    "type": "function",
    "function": {"name": "f", "description": "d", "parameters": {"type": "object"}, "strict": True},
}
CALL = {"id": "c1", "type": "function", "function": {"name": "f", "arguments": "{}"}}
REQUESTS = {
    "chat": {
        "messages": [{"role": "system", "content": "s"}, {"role": "user", "content": [{"type": "text", "text": "a"}, PICTURE]},
                     {"role": "assistant", "content": None, "tool_calls": [CALL]},
                     {"role": "tool", "tool_call_id": "c1", "content": "b"}],
        "tools": [TOOL], "tool_choice": {"type": "function", "function": {"name": "f"}}, "stop": ["x"], "seed": 1,
        "response_format": {"type": "json_schema", "json_schema": {"name": "n", "schema": {"type": "object"}}},
        "stream_options": {"include_usage": True}, "logprobs": True, "reasoning_effort": "low", "metadata": {"a": "b"},
    },
    "completions": {"prompt": "a", "max_tokens": 3, "stop": "x", "stream_options": {}},
    "responses": {
        "input": [{"role": "user", "content": [{"type": "input_text", "text": "a"}]},
                  {"type": "reasoning", "encrypted_content": "llmops.AAAA", "summary": []},
                  {"type": "function_call", "call_id": "c", "name": "f", "arguments": "{}"},
                  {"type": "function_call_output", "call_id": "c", "output": "b"}],
        "tools": [{"type": "function", "name": "f", "parameters": {}}], "text": {"format": {"type": "json_object"}},
        "reasoning": {"effort": "low", "summary": "auto"}, "instructions": "s",
    },
    "messages": {
        "max_tokens": 3, "system": [{"type": "text", "text": "s", "cache_control": {"type": "ephemeral"}}],
        "messages": [{"role": "user", "content": [{"type": "image", "source": {"type": "base64", "data": "AA=="}}]},
                     {"role": "assistant", "content": [{"type": "thinking", "thinking": "t", "signature": "s"},
                                                       {"type": "tool_use", "id": "t", "name": "f", "input": {}}]},
                     {"role": "user", "content": [{"type": "tool_result", "tool_use_id": "t", "content": "b"}]}],
        "tools": [{"name": "f", "input_schema": {}}], "tool_choice": {"type": "tool", "name": "f"},
        "thinking": {"type": "enabled", "budget_tokens": 9}, "output_config": {"effort": "low"}, "metadata": {"user_id": "u"},
    },
    "embeddings": {"input": ["a"], "encoding_format": "base64", "dimensions": 3},
    "count_tokens": {"messages": [{"role": "user", "content": "a"}]},
}  # fmt: skip


@st.composite
def damaged(draw, value):
    """A value with one to three places replaced, emptied or gone."""
    made = json.loads(json.dumps(value))
    for _ in range(draw(st.integers(1, 3))):
        at = made
        while True:
            keys = list(at) if isinstance(at, dict) else list(range(len(at)))
            if not keys:
                break
            key = draw(st.sampled_from(keys))
            if isinstance(at[key], (dict, list)) and at[key] and draw(st.booleans()):
                at = at[key]
                continue
            if draw(st.integers(0, 3)):
                at[key] = draw(LEAVES | VALUES)
            else:
                del at[key]
            break
    return made


def ask_of(surface) -> Ask:
    body = {"model": "m", "messages": [{"role": "user", "content": "x"}], "max_tokens": 5, "input": "x", "prompt": "x"}
    return read_ask(surface, json.dumps({**body, "stream": True}).encode())


def passes(lens, events) -> None:
    for event in events:
        assert isinstance(lens.feed(b"data: " + json.dumps(event).encode() + b"\n\n"), bytes)
    assert isinstance(lens.close(None), bytes)
    assert lens.finished or lens.error is not None


@pytest.mark.parametrize("dialect", DIALECTS)
@FEW
@given(st.data(), st.sampled_from(SURFACES))
def test_damaged_streams_end_as_answers_or_as_errors(dialect, data, surface):
    """A stream is whole, or it ends with one error event; nothing ever raises, in translation or in passing on."""
    events = data.draw(damaged(STREAMS[dialect]) | st.lists(OBJECTS, max_size=4))
    passes(TranslatingCodec(surface, dialect, "text_input", "text_output").lens(ask_of(surface)), events)
    passes(NativeCodec(surface, ask_usage=True).lens(ask_of(surface)), events)


@FEW
@given(
    st.lists(st.dictionaries(st.text("abc", max_size=3), st.integers(), max_size=2), min_size=2, max_size=3),
    st.lists(st.integers(0, 2), max_size=40),
    st.sampled_from((MESSAGES, CHAT, RESPONSES)),
)
def test_calls_whose_pieces_are_mixed_arrive_whole(calls, order, surface):
    """Some servers send the heads of parallel calls first, or their arguments in turns; nobody's are mixed up."""
    codec = TranslatingCodec(surface, "openai", "text_input", "text_output")
    lens, out = codec.lens(ask_of(surface)), b""
    texts = [json.dumps(arguments) for arguments in calls]
    left = [[text[at : at + 3] for at in range(0, len(text), 3)] for text in texts]

    def send(choice):
        return lens.feed(b"data: " + json.dumps({"id": "c", "choices": [choice]}).encode() + b"\n\n")

    for index in range(len(calls)):
        head = {"index": index, "id": f"c{index}", "function": {"name": f"f{index}", "arguments": ""}}
        out += send({"delta": {"tool_calls": [head]}})
    for index in [*order, *(index for index, pieces in enumerate(left) for _ in pieces)]:
        if index < len(left) and left[index]:
            piece = {"index": index, "function": {"arguments": left[index].pop(0)}}
            out += send({"delta": {"tool_calls": [piece]}})
    out += send({"delta": {}, "finish_reason": "tool_calls"}) + lens.feed(b"data: [DONE]\n\n") + lens.close(None)
    assert lens.error is None
    assert arguments_in(out, surface) == calls


def arguments_in(out: bytes, surface) -> list:
    """The arguments of the calls in a stream, as its client would put them together."""
    events = [json.loads(line[6:]) for line in out.split(b"\n") if line.startswith(b"data: {")]
    texts: dict = {}
    for event in events:
        if surface is CHAT:
            for choice in event["choices"]:
                for call in choice["delta"].get("tool_calls", ()):
                    texts[call["index"]] = texts.get(call["index"], "") + call["function"]["arguments"]
        elif surface is MESSAGES and event.get("delta", {}).get("type") == "input_json_delta":
            texts[event["index"]] = texts.get(event["index"], "") + event["delta"]["partial_json"]
        elif surface is RESPONSES and event["type"] == "response.function_call_arguments.done":
            texts[event["output_index"]] = event["arguments"]
    return [json.loads(text) for _, text in sorted(texts.items())]


@pytest.mark.parametrize("dialect", DIALECTS)
@FEW
@given(st.data(), st.sampled_from(SURFACES))
def test_damaged_answers_are_translated_or_failures(dialect, data, surface):
    raw = json.dumps(data.draw(damaged(ANSWERS[dialect]) | OBJECTS)).encode()
    for codec in (
        TranslatingCodec(surface, dialect, "text_input", "text_output"),
        NativeCodec(surface, ask_usage=True),
    ):
        with contextlib.suppress(Failure):
            made, _ = codec.decode(ask_of(surface), raw)
            assert isinstance(json.loads(made), dict)


@pytest.mark.parametrize("dialect", DIALECTS)
@FEW
@given(st.data(), st.sampled_from((*SURFACES, EMBEDDINGS, COUNT_TOKENS)), st.booleans())
def test_damaged_requests_are_translated_or_refused(dialect, data, surface, drop):
    body = data.draw(damaged(REQUESTS[surface.name]) | OBJECTS)
    raw = json.dumps({**body, "model": "m"}).encode()
    codec = {
        "embeddings": EmbeddingsCodec(dialect, "text_input", "text_output"),
        "count_tokens": CountingCodec(),
    }.get(surface.name) or TranslatingCodec(surface, dialect, "text_input", "text_output")
    for each in (codec, NativeCodec(surface, ask_usage=True)):
        with contextlib.suppress(Refusal):
            made, _ = each.encode(read_ask(surface, raw), "target", drop=drop)
            assert isinstance(json.loads(made), dict)


# ---- at the port ----

GOOD = json.dumps({"model": "m", "messages": [{"role": "user", "content": "hi"}]}).encode()
HEAD = b"POST /v1/chat/completions HTTP/1.1\r\nhost: x\r\ncontent-type: application/json\r\ncontent-length: %d\r\n\r\n"
REQUEST = HEAD % len(GOOD) + GOOD


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    with (
        fake(openai_server) as up,
        gateway(tmp_path_factory.mktemp("fuzz"), None, "--upstream", up.url + "/v1") as running,
    ):
        yield running, up


def spoken(running, data: bytes) -> bytes:
    """Everything that comes back for bytes and the end of sending."""
    host, port = running.url.removeprefix("http://").split(":")
    got = b""
    with socket.create_connection((host, int(port)), timeout=10) as made:
        try:
            made.sendall(data)
            made.shutdown(socket.SHUT_WR)
            while piece := made.recv(65536):
                got += piece
        except (ConnectionResetError, BrokenPipeError):
            pass
    return got


@settings(
    max_examples=int(os.environ.get("LLMOPS_FUZZ_EXAMPLES", "50")),
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
@given(
    st.lists(st.tuples(st.integers(0, len(REQUEST) - 1), st.sampled_from(["cut", "insert", "flip", "double"]), st.binary(max_size=9)), min_size=1, max_size=4)
)  # fmt: skip
def test_damaged_requests_get_an_answer_or_a_closed_door(site, changes):
    running, up = site
    data = bytearray(REQUEST)
    for place, how, more in changes:
        at = min(place, len(data))
        if how == "cut":
            del data[at:]
        elif how == "insert":
            data[at:at] = more
        elif how == "flip" and at < len(data):
            data[at] ^= 1 + (more[0] if more else 0) % 255
        else:
            data[at:at] = data[max(0, at - 20) : at]
    before = len(up.seen)
    got = spoken(running, bytes(data))
    assert not got or got.startswith(b"HTTP/1.")
    assert b" 500 " not in got.partition(b"\r\n")[0]
    for seen in up.seen[before:]:  # what reached the upstream was rebuilt: one length, and it is right
        names = [name.lower() for name, _ in seen.header_lines]
        assert names.count("content-length") == 1
        assert "transfer-encoding" not in names
        assert len(seen.raw) == int(seen.headers["content-length"])


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("bad", [b"\xff\xfe", b"\\ud800", b"[" * 100_000], ids=["utf-8", "surrogate", "deep"])
@pytest.mark.parametrize("place", ["model", "content", "stream_options"])
def test_text_that_is_no_text_is_a_400_or_passes_unread(site, stream, bad, place):
    running, up = site
    body = {
        "model": "m",
        "messages": [{"role": "user", "content": "hi"}],
        "stream_options": {"x": "so"},
        "stream": stream,
    }
    mark = {"model": b'"m"', "content": b'"hi"', "stream_options": b'"so"'}[place]
    raw = json.dumps(body).encode().replace(mark, bad if bad.startswith(b"[") else b'"' + bad + b'"', 1)
    before = len(up.seen)
    got = spoken(running, HEAD % len(raw) + raw)
    status = int(got[9:12])
    assert status in (200, 400)
    if status == 400 and len(up.seen) == before:
        assert json.loads(got.partition(b"\r\n\r\n")[2])["error"]["type"] == "invalid_request_error"


def test_after_all_that_it_still_answers(site):
    running, _ = site
    body = json.loads(GOOD)
    answer = httpx.post(f"{running.url}/v1/chat/completions", json=body, timeout=10)
    assert answer.json()["choices"][0]["message"]["content"] == OPENAI_TEXT
    wait_until(lambda: metric(running.metrics(), "llm_requests_in_flight") == 0)
    log = running.log.read_text()
    assert "Traceback" not in log
    assert "failed inside the gateway" not in log
