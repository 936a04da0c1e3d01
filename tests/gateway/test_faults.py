"""Broken upstreams and callers: no wrong answer, no hang, nothing left behind."""

from __future__ import annotations

import json
import socket
import struct
import time

import httpx
import psutil
import pytest
from gateway_fakes import OPENAI_TEXT, Close, fake, gateway, metric, openai_chunk, wait_until
from gateway_fakes import openai as openai_server
from hypothesis import given, settings
from hypothesis import strategies as st

from llmops.gateway.dialects.native_stream import AnthropicLens, OpenAILens

HELLO = {"messages": [{"role": "user", "content": "hi"}]}
CONFIG = """
providers:
  up: {{base_url: "{url}/v1", prices_as: openai, timeouts: {{first_byte_s: 3, idle_s: 1}}}}
  by-httpx: {{base_url: "{url}/v1", http: httpx, timeouts: {{first_byte_s: 3, idle_s: 1}}}}
retry: {{attempts: 1}}
breaker: {{failures: 100000, min_requests: 1000000}}
routes:
  - {{match: httpx-flood, targets: [{{provider: by-httpx, model: flood}}]}}
  - {{match: httpx-forever, targets: [{{provider: by-httpx, model: forever}}]}}
  - {{match: httpx-cut-in-chunk, targets: [{{provider: by-httpx, model: cut-in-chunk}}]}}
  - {{match: httpx-stalled-body, targets: [{{provider: by-httpx, model: stalled-body}}]}}
  - {{match: httpx-garbage, targets: [{{provider: by-httpx, model: garbage}}]}}
  - {{match: "*", targets: [{{provider: up}}]}}
"""


def rst(answer) -> None:
    """Close with a reset."""
    answer.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    answer.connection.close()
    raise Close


def broken(server, body, answer):
    model = body.get("model", "")
    if model == "cut-in-head":
        answer.send(b"HTTP/1.1 200 OK\r\ncontent-type: appl")
        raise Close
    if model == "cut-in-body":
        answer.send(b'HTTP/1.1 200 OK\r\ncontent-length: 1000\r\n\r\n{"id": "x"')
        raise Close
    if model == "cut-in-chunk":
        answer.send(b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\nffff\r\n{")
        raise Close
    if model == "no-answer":
        raise Close
    if model == "reset":
        rst(answer)
    if model == "garbage":
        answer.send(b"\x00\x01\x02 this is no HTTP\r\n\r\n")
        raise Close
    if model == "huge-head":
        answer.send(b"HTTP/1.1 200 OK\r\n" + b"x-filler: " + b"a" * (10 << 20) + b"\r\n\r\n")
        raise Close
    if model == "two-lengths":
        answer.send(b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\ncontent-length: 5\r\n\r\n{}abc")
        raise Close
    if model == "both-lengths":
        answer.send(b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\ntransfer-encoding: chunked\r\n\r\n2\r\n{}\r\n0\r\n\r\n")
        raise Close
    if model == "stalled-body":
        answer.send(b'HTTP/1.1 200 OK\r\ncontent-length: 1000\r\n\r\n{"id": "x"')
        wait_until(answer.gone, 15)
        raise Close
    if model == "drip":
        raw = json.dumps({"id": "x", "object": "chat.completion", "choices": [], "usage": None}).encode()
        answer.send(b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 200 OK\r\ncontent-length: %d\r\n\r\n" % len(raw))
        for byte in raw:
            answer.send(bytes([byte]))
    elif model == "to-the-end":
        answer.send(b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\n\r\n" + b'{"id": "close-delimited"}')
        raise Close
    elif model == "forever":
        answer.stream_head()
        while not answer.gone():
            answer.event(openai_chunk({"content": "more"}))
            time.sleep(0.005)
        server.state["aborted"] = server.state.get("aborted", 0) + 1
        raise Close
    elif model == "flood":
        answer.stream_head()
        block = b"data: " + json.dumps(openai_chunk({"content": "x" * 4000})).encode() + b"\n\n"
        answer.connection.settimeout(15)
        for _ in range(20_000):  # 80 MB
            answer.chunk(block)
            server.state["flooded"] = server.state.get("flooded", 0) + len(block)
    elif model == "thinking-long":
        wait_until(answer.gone, 15)
        server.state["cancelled"] = True
        raise Close
    else:
        openai_server(server, body, answer)


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    with fake(broken) as up, gateway(tmp_path_factory.mktemp("faults"), CONFIG.format(url=up.url)) as running:
        yield running, up


def ask(site, model, stream=False):
    body = {"model": model, "stream": stream, **HELLO}
    return httpx.post(f"{site[0].url}/v1/chat/completions", json=body, timeout=20)


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize(
    "model",
    [
        "cut-in-head", "cut-in-body", "cut-in-chunk", "no-answer", "reset", "garbage", "huge-head", "two-lengths",
        "both-lengths", "httpx-cut-in-chunk", "httpx-garbage",
    ],
)  # fmt: skip
def test_a_broken_answer_is_a_502_and_nothing_else(site, model, stream):
    answer = ask(site, model, stream)
    assert answer.status_code == 502
    assert answer.json()["error"]["message"]
    assert ask(site, "good").json()["choices"][0]["message"]["content"] == OPENAI_TEXT


@pytest.mark.parametrize("model", ["stalled-body", "httpx-stalled-body"])
def test_a_stalled_body_is_a_504(site, model):
    assert ask(site, model).status_code == 504


def test_a_slow_drip_and_a_close_delimited_body_are_whole_answers(site):
    assert ask(site, "drip").json()["id"] == "x"
    assert ask(site, "to-the-end").json() == {"id": "close-delimited"}


def test_a_reused_connection_that_was_let_go_is_no_error(tmp_path):
    """The server closes each connection after an answer it said would stay open: the usual keep-alive race."""

    def forgetful(server, body, answer):
        openai_server(server, body, answer)
        if server.state.get("n", 0) % 2 == 0:
            server.state["n"] = 1
            raise Close
        rst(answer)

    with fake(forgetful) as up, gateway(tmp_path, CONFIG.format(url=up.url)) as running:
        for _ in range(30):
            answer = ask((running, up), "good")
            assert (answer.status_code, answer.headers["x-llmops-attempts"]) == (200, "1")
        assert len(up.seen) == 30


def raw_request(url: str, model: str, stream: bool = True) -> socket.socket:
    host, port = url.removeprefix("http://").split(":")
    body = json.dumps({"model": model, "stream": stream, **HELLO}).encode()
    made = socket.create_connection((host, int(port)), timeout=20)
    made.sendall(b"POST /v1/chat/completions HTTP/1.1\r\nhost: x\r\ncontent-length: %d\r\n\r\n%b" % (len(body), body))
    return made


@pytest.mark.parametrize(("model", "label"), [("forever", "*"), ("httpx-forever", "httpx-forever")])
def test_a_caller_that_leaves_stops_the_generation_and_is_accounted(site, model, label):
    running, up = site
    before = up.state.get("aborted", 0)
    estimated = metric(running.metrics(), f'llm_estimated_requests_total{{model="{label}"}}')
    client = raw_request(running.url, model)
    assert b"more" in client.recv(65536)
    client.close()
    wait_until(lambda: up.state.get("aborted", 0) == before + 1, what="the upstream is aborted")
    wait_until(lambda: metric(running.metrics(), f'llm_estimated_requests_total{{model="{label}"}}') == estimated + 1)
    assert metric(running.metrics(), 'llm_client_disconnects_total{when="streaming"}') >= 1


def test_a_caller_that_leaves_before_a_local_answer_cancels_it(site):
    running, up = site
    client = raw_request(running.url, "thinking-long", stream=False)
    wait_until(lambda: b"thinking-long" in up.seen[-1].raw)
    client.close()
    wait_until(lambda: up.state.get("cancelled", False), what="the local server's work is cancelled")


@pytest.mark.parametrize("model", ["flood", "httpx-flood"])
def test_a_slow_reader_holds_the_upstream_back(site, model):
    """Back-pressure: what a caller does not read is not read from the upstream, so memory stays flat."""
    running, up = site
    before = psutil.Process(running.process.pid).memory_info().rss
    up.state["flooded"] = 0
    client = raw_request(running.url, model)
    client.recv(1000)
    seen, still = -1, 0
    deadline = time.monotonic() + 15
    while still < 20 and time.monotonic() < deadline:
        now = up.state.get("flooded", 0)
        still = still + 1 if now == seen else 0
        seen = now
        time.sleep(0.02)
    assert seen < 40_000_000
    assert psutil.Process(running.process.pid).memory_info().rss - before < 30_000_000
    client.close()


def test_abandoned_streams_and_odd_callers_leave_nothing(site):
    running, up = site
    process = psutil.Process(running.process.pid)
    ask(site, "good")
    wait_until(lambda: up.live <= 3, 20, "the streams of earlier tests end")
    files = process.num_fds()
    began = up.state.get("aborted", 0)
    for _ in range(20):
        clients = [raw_request(running.url, "forever") for _ in range(15)]
        for client in clients:
            client.recv(100)
        for client in clients:
            client.close()
    for data in (
        b"",
        b"POST /v1/chat",
        b"POST /v1/chat/completions HTTP/1.1\r\ncontent-length: 100\r\n\r\n{",
        b"\x16\x03\x01",
    ):
        odd = socket.create_connection(tuple(running.url.removeprefix("http://").split(":")), timeout=5)
        odd.sendall(data)
        odd.shutdown(socket.SHUT_WR)
        while odd.recv(4096):
            pass
        odd.close()
    wait_until(lambda: up.state.get("aborted", 0) - began == 300, 30, "every stream is aborted upstream")
    wait_until(lambda: metric(running.metrics(), "llm_requests_in_flight") == 0)
    wait_until(lambda: metric(running.metrics(), 'llm_target_in_flight{target="up"}') == 0)
    wait_until(lambda: process.num_fds() <= files + 3, what="every descriptor is closed")
    assert "Traceback" not in running.log.read_text()


def test_junk_names_mint_no_series(site):
    """However many model names callers invent, the number of series is bounded."""
    for number in range(30):
        ask(site, f"reset\u00e9{number}")
    text = site[0].metrics()
    assert len([line for line in text.splitlines() if line.startswith("llm_requests_total")]) < 260


@pytest.mark.parametrize(
    "raw",
    [
        b"POST /v1/chat/completions HTTP/1.1\r\nhost: x\r\ncontent-length: 2\r\ntransfer-encoding: chunked\r\n\r\n0\r\n\r\n",
        b"POST /v1/chat/completions HTTP/1.1\r\nhost: x\r\ncontent-length: 2\r\ncontent-length: 3\r\n\r\n{}x",
        b"POST /v1/chat/completions HTTP/1.1\r\nhost: x\r\ntransfer-encoding: xchunked\r\n\r\n0\r\n\r\n",
    ],
)
def test_smuggling_shapes_never_reach_an_upstream(site, raw):
    running, up = site
    before = len(up.seen)
    with socket.create_connection(tuple(running.url.removeprefix("http://").split(":")), timeout=5) as made:
        made.sendall(raw)
        made.shutdown(socket.SHUT_WR)
        got = b""
        while data := made.recv(4096):
            got += data
    assert b"200 OK" not in got
    assert len(up.seen) == before


def test_head_and_first_chunk_come_at_once(site):
    """No 40 ms step: the first event arrives with the head, well before the slow rest."""
    with raw_request(site[0].url, "forever") as client:
        got = client.recv(65536)
        assert b"transfer-encoding: chunked" in got
        assert b"more" in got


# ---- parsing ----

EVENTS = st.lists(
    st.sampled_from(
        [
            b'data: {"choices":[{"delta":{"content":"a\\n\\nb"},"finish_reason":null}],"usage":null}',
            b'data: {"choices":[{"delta":{},"finish_reason":"stop"}]}',
            b'data: {"choices":[],"usage":{"prompt_tokens":3,"completion_tokens":0}}',
            b": comment",
            b"event: x\ndata: {}",
            b"data: [DONE]",
        ]
    ),
    max_size=12,
)


@settings(max_examples=200)
@given(EVENTS, st.lists(st.integers(1, 40), min_size=1, max_size=60), st.sampled_from([b"\n\n", b"\r\n\r\n"]))
def test_a_lens_passes_every_event_once_however_the_network_cuts(events, sizes, end):
    stream = b"".join(event.replace(b"\n", end[: len(end) // 2]) + end for event in events)
    lens, out, at = OpenAILens(keep_usage=True), b"", 0
    for size in sizes * (len(stream) // sum(sizes) + 1):
        if at >= len(stream):
            break
        out += lens.feed(stream[at : at + size])
        at += size
    assert [each for each in out.replace(b"\r\n", b"\n").split(b"\n\n") if each] == events
    usage = lens.usage()
    wanted = any(b'"prompt_tokens"' in event for event in events)
    assert (usage is not None) == wanted
    assert lens.finished == (b"data: [DONE]" in events)


@settings(max_examples=300)
@given(st.lists(st.binary(max_size=80), max_size=10), st.booleans())
def test_lenses_take_any_bytes(pieces, which):
    lens = OpenAILens(keep_usage=False) if which else AnthropicLens()
    for piece in pieces:
        lens.feed(piece)
    lens.close(None)
    lens.usage()
