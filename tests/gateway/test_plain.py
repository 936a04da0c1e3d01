"""Plain requests go round the parser, and mean to the gateway what they mean to the parser."""

from __future__ import annotations

import json
import socket

import httptools
import pytest
from gateway_fakes import fake, gateway
from gateway_fakes import openai as openai_server
from hypothesis import example, given, settings
from hypothesis import strategies as st

from llmops.gateway.plain import PlainReader
from llmops.gateway.surfaces import HOT

SDK = (
    b"POST /v1/chat/completions HTTP/1.1\r\nHost: 127.0.0.1:8000\r\nAccept-Encoding: gzip, deflate\r\nConnection: keep-alive\r\n"
    b"Accept: application/json\r\nContent-Type: application/json\r\nUser-Agent: OpenAI/Python 2.8.0\r\nX-Stainless-Lang: python\r\n"
    b"Authorization: Bearer sk-one\r\nContent-Length: %d\r\n\r\n%b"
)


def ask(body: bytes = b'{"model":"m"}', head: bytes = SDK) -> bytes:
    return head % (len(body), body)


class Parsed:
    """What httptools makes of bytes: every message that they hold, whole or not."""

    def __init__(self, data: bytes) -> None:
        self.url, self.headers, self.body, self.over, self.left = b"", [], b"", 0, False
        self.parser = httptools.HttpRequestParser(self)
        self.parser.feed_data(data)
        self.usual = self.parser.get_http_version() == "1.1" and self.parser.get_method() == b"POST"

    def on_message_begin(self) -> None:
        self.left = True

    def on_url(self, url: bytes) -> None:
        self.url += url

    def on_header(self, name: bytes, value: bytes) -> None:
        self.headers.append((name.lower(), value))

    def on_body(self, body: bytes) -> None:
        self.body += body

    def on_message_complete(self) -> None:
        self.over += 1
        self.left = False
        self.keeps = self.parser.should_keep_alive() and not self.parser.should_upgrade()


def agrees(reader: PlainReader, data: bytes) -> bool:
    """Whether the reader took it; then the parser must have read the same."""
    body = reader.body(data)
    if body is None:
        return False
    parsed, head = Parsed(data), reader.head
    assert (parsed.over, parsed.left, parsed.keeps, parsed.usual) == (1, False, True, True)
    assert HOT[parsed.url] is head.surface
    assert parsed.body == body
    lengths = [value for name, value in parsed.headers if name == b"content-length"]
    assert len(lengths) == 1
    assert [row for row in parsed.headers if row[0] != b"content-length"] == head.headers
    return True


@pytest.mark.parametrize("path", sorted(HOT))
def test_what_an_sdk_sends_is_plain(path):
    data = ask(head=SDK.replace(b"/v1/chat/completions", path))
    reader = PlainReader()
    assert agrees(reader, data)
    assert reader.head.marked == [(b"authorization", b"Bearer sk-one")]
    assert agrees(reader, ask(b'{"model":"another"}', SDK.replace(b"/v1/chat/completions", path)))


@pytest.mark.parametrize(
    "data",
    [
        b"",
        ask()[:-1],
        ask() + b"P",
        ask() + ask(),
        ask()[:60],
        ask().replace(b"POST", b"PUT"),
        ask().replace(b"HTTP/1.1", b"HTTP/1.0"),
        ask().replace(b"/v1/chat/completions", b"/v1/models"),
        ask().replace(b"/v1/chat/completions", b"/v1/chat/completions?a=1"),
        ask().replace(b"Content-Length: 13", b"Transfer-Encoding: chunked"),
        ask().replace(b"Content-Length: 13", b"Content-Length: 13\r\nTransfer-Encoding: chunked"),
        ask().replace(b"Content-Length: 13", b"Content-Length: 13\r\nContent-Length: 13"),
        ask().replace(b"Content-Length: 13", b"Content-Length: +13"),
        ask().replace(b"Content-Length: 13", b"Content-Length: 13 "),
        ask().replace(b"Content-Length: 13", b"Content-Length: 0x0d"),
        ask().replace(b"Content-Length: 13", b"Content-Length : 13"),
        ask().replace(b"Content-Length: 13", b"Content-Length: 13,13"),
        ask().replace(b"Content-Length: 13\r\n", b"Content-Length: 13\n"),
        ask().replace(b"keep-alive", b"close"),
        ask().replace(b"Connection: keep-alive", b"Expect: 100-continue"),
        ask().replace(b"Connection: keep-alive", b"Upgrade: websocket"),
        ask().replace(b"Accept: ", b" Accept: "),
        ask().replace(b"application/json\r\nContent-Type", b"application/json\r\n folded\r\nContent-Type"),
        ask().replace(b"python\r\n", b"pyt\x00hon\r\n"),
        ask().replace(b"python\r\n", b"pyt\rhon\r\n"),
        ask().replace(b"python\r\n", b"pyt\nhon\r\n"),
        ask().replace(b"X-Stainless-Lang", b"X(Stainless)"),
        ask().replace(b"python\r\n", b"p" * 20_000 + b"\r\n"),
    ],
)
def test_everything_else_is_the_parsers(data):
    reader = PlainReader()
    assert reader.body(data) is None
    assert agrees(reader, ask())
    assert reader.body(data) is None


NAMES = st.sampled_from(
    [b"Host", b"content-length", b"Content-Length", b"authorization", b"x-api-key", b"connection", b"transfer-encoding", b"te",
     b"expect", b"upgrade", b"x-a", b"", b" x", b"x ", b"x:y", b"anthropic-beta", b"x\x80"]
)  # fmt: skip
VALUES = st.sampled_from(
    [b"1", b"2", b"02", b"13", b"", b" ", b"a", b"a b", b"a\tb", b" a", b"a ", b"close", b"keep-alive", b"Keep-Alive", b"chunked",
     b"\x80", b"a\r", b"100-continue", b"Bearer k", b"9999999999"]
)  # fmt: skip
BODIES = st.sampled_from([b"", b"1", b"{}", b"{}\r\n", b"0\r\n\r\n", b'{"model":"m"}', b"GET / HTTP/1.1\r\n\r\n"])


@st.composite
def requests(draw):
    body = draw(BODIES)
    rows = draw(st.lists(st.tuples(NAMES, VALUES), max_size=4))
    if draw(st.booleans()):
        place = draw(st.integers(0, len(rows)))
        rows.insert(place, (draw(st.sampled_from([b"content-length", b"Content-Length"])), b"%d" % len(body)))
    end = draw(st.sampled_from([b"\r\n"] * 8 + [b"\n", b"\r", b"\r\n "]))
    start = draw(st.sampled_from([b"POST /v1/messages HTTP/1.1"] * 6 + [b"POST  HTTP/1.1", b"POST HTTP/1.1", b""]))
    gap = draw(st.sampled_from([b": ", b":", b":  "]))
    return start + b"\r\n" + b"".join(name + gap + value + end for name, value in rows) + b"\r\n" + body


@settings(max_examples=400, deadline=None)
@given(st.lists(requests() | st.just(ask()), min_size=1, max_size=5))
@example([ask(), ask(b"{}"), ask(b"{}", SDK.replace(b"sk-one", b"sk-two"))])
@example([ask(), ask().replace(b"Content-Length: 13", b"Content-Length: ")])
def test_a_reader_takes_only_what_the_parser_reads_alike_whatever_came_before(many):
    one = PlainReader()
    for data in many:
        assert not agrees(one, data) or agrees(PlainReader(), data)


@settings(max_examples=400, deadline=None)
@given(st.integers(0, len(ask())), st.integers(0, 3), st.binary(max_size=3), st.booleans())
def test_damaged_requests_too(at, cut, put, warm):
    reader = PlainReader()
    if warm:
        assert agrees(reader, ask())
    whole = ask()
    agrees(reader, whole[:at] + put + whole[at + cut :])


CONFIG = """
keys: [{{name: one, env: ONE}}, {{name: two, env: TWO}}]
providers: {{up: {{base_url: "{url}/v1"}}}}
routes: [{{match: m, targets: [{{provider: up}}]}}]
"""


def answers(sock: socket.socket, count: int) -> list[tuple[int, bytes]]:
    """(status, body) of so many answers."""
    found, data = [], b""
    while len(found) < count:
        head, mark, rest = data.partition(b"\r\n\r\n")
        length = next(
            (int(line[15:]) for line in head.lower().split(b"\r\n") if line.startswith(b"content-length:")), 0
        )
        if mark and len(rest) >= length:
            found.append((int(head.split()[1]), rest[:length]))
            data = rest[length:]
            continue
        got = sock.recv(65536)
        assert got, (found, data)
        data += got
    assert not data
    return found


def test_plain_and_other_requests_take_turns_on_one_connection(tmp_path):
    body = json.dumps({"model": "m", "messages": [{"role": "user", "content": "hi"}]}).encode()
    plain = ask(body)
    chunked = plain.partition(b"Content-Length")[0] + b"Transfer-Encoding: chunked\r\n\r\n%x\r\n%b\r\n0\r\n\r\n" % (
        len(body),
        body,
    )
    env = {"ONE": "sk-one", "TWO": "sk-two"}
    with fake(openai_server) as up, gateway(tmp_path, CONFIG.format(url=up.url), env=env) as running:
        host, port = running.url.removeprefix("http://").split(":")
        with socket.create_connection((host, int(port)), timeout=20) as sock:

            def tell(*pieces: bytes, count: int = 1) -> list[int]:
                for piece in pieces:
                    sock.sendall(piece)
                return [status for status, _ in answers(sock, count)]

            assert tell(plain) == [200]
            assert tell(ask(body + b" ")) == [200]
            assert tell(plain.replace(b"sk-one", b"sk-two")) == [200]
            assert tell(plain.replace(b"sk-one", b"sk-six")) == [401]
            assert tell(plain) == [200]
            assert tell(chunked) == [200]
            assert tell(plain) == [200]
            assert tell(plain + plain, count=2) == [200, 200]
            assert tell(plain, chunked, count=2) == [200, 200]
            assert tell(plain[:200], plain[200:]) == [200]
            assert tell(b"GET /health/live HTTP/1.1\r\nhost: x\r\n\r\n") == [200]
            assert tell(plain.replace(b'"m"', b'"x"')) == [404]
            assert tell(plain.replace(b"keep-alive", b"close")) == [200]
            assert sock.recv(1) == b""
        bodies = [seen.json for seen in up.seen]
        assert len(bodies) == 12
        assert all(each["messages"] == [{"role": "user", "content": "hi"}] for each in bodies)
