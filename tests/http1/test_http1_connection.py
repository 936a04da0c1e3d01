"""The client connection against a raw server that sends exactly the bytes a test says, cut where it says."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import ssl
import struct
import subprocess

import pytest

from llmops.http1 import Connection, Limits, Origin, Sweep, Timeouts, TransferError, connect, request_head, with_body


class Sink:
    """Records one answer."""

    def __init__(self, on_body=None, on_end=None):
        self.done = asyncio.get_running_loop().create_future()
        self.status, self.headers, self.parts, self.stamps, self.ends = None, None, [], [], 0
        self._on_body, self._on_end = on_body, on_end

    def head(self, status, headers, at_ns):
        self.status, self.headers = status, headers

    def body(self, data, at_ns):
        self.parts.append(data)
        self.stamps.append(at_ns)
        if self._on_body:
            self._on_body(data)

    def end(self, at_ns):
        self.ends += 1
        if self._on_end:
            self._on_end()
        self.done.set_result(None)

    def fail(self, error):
        self.done.set_exception(error)

    @property
    def text(self):
        return b"".join(self.parts)


@contextlib.asynccontextmanager
async def serving(serve, ssl_context=None):
    """A server whose connections are all gone, client side too, when the block ends."""
    writers, tasks = [], []

    async def track(reader, writer):
        writers.append(writer)
        tasks.append(asyncio.current_task())
        with contextlib.suppress(ConnectionError, asyncio.IncompleteReadError, asyncio.CancelledError):
            await serve(reader, writer)
        writer.close()

    server = await asyncio.start_server(track, "127.0.0.1", 0, ssl=ssl_context)
    try:
        yield Origin("https" if ssl_context else "http", "127.0.0.1", server.sockets[0].getsockname()[1])
    finally:
        server.close()
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        for writer in writers:
            if not writer.transport.is_closing():
                writer.transport.abort()
        for _ in range(5):
            await asyncio.sleep(0)


@contextlib.asynccontextmanager
async def raw_server(*answers):
    """Serves ``answers`` in turn, one a request, each a list of byte pieces or callables of the writer."""
    queue = list(answers)
    requests: list[bytes] = []

    async def serve(reader, writer):
        while queue:
            head = await reader.readuntil(b"\r\n\r\n")
            length = [line for line in head.lower().split(b"\r\n") if line.startswith(b"content-length:")]
            body = await reader.readexactly(int(length[0].split(b":")[1])) if length else b""
            requests.append(head + body)
            for piece in queue.pop(0):
                if callable(piece):
                    result = piece(writer)
                    if asyncio.iscoroutine(result):
                        await result
                else:
                    writer.write(piece)
                    await writer.drain()
                    await asyncio.sleep(0)
        await reader.read()

    async with serving(serve) as origin:
        yield origin, requests


def close(writer):
    writer.close()


def reset(writer):
    raw = writer.get_extra_info("socket")
    raw.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    writer.transport.abort()


async def ask(connection: Connection, origin: Origin, body: bytes | None = None, method="GET", **sink):
    receiver = Sink(**sink)
    connection.send(with_body(request_head(method, "/x", origin), body), receiver, head_only=method == "HEAD")
    async with asyncio.timeout(10):
        await receiver.done
    return receiver


def run(*answers, **kwargs):
    """One GET for each answer over one connection; returns the sinks, the connection and the requests seen."""
    limits = kwargs.pop("limits", None)
    method = kwargs.pop("method", "GET")

    async def go():
        async with raw_server(*answers) as (origin, requests):
            connection = await connect(origin, limits=limits)
            sinks = [await ask(connection, origin, method=method, **kwargs) for _ in answers]
            reusable = connection.reusable
            connection.close()
            await asyncio.sleep(0)
            return sinks, reusable, requests

    return asyncio.run(go())


def bytewise(data: bytes) -> list[bytes]:
    return [data[i : i + 1] for i in range(len(data))]


OK = b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\nX-A: 1\r\n\r\nhello"


def test_two_answers_ride_one_connection():
    sinks, reusable, requests = run([OK], bytewise(OK))
    assert [s.text for s in sinks] == [b"hello", b"hello"]
    assert sinks[0].headers == [(b"content-length", b"5"), (b"x-a", b"1")]
    assert reusable
    assert b"accept-encoding: identity\r\n" in requests[0]


def test_chunked_is_decoded_and_trailers_are_not_headers():
    wire = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n2;x=y\r\nde\r\n0\r\nTrailer: t\r\n\r\n"
    sinks, reusable, _ = run([wire], bytewise(wire))
    assert [s.text for s in sinks] == [b"abcde", b"abcde"]
    assert sinks[1].headers == [(b"transfer-encoding", b"chunked")]
    assert reusable


def test_informational_answers_are_skipped():
    wire = b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 103 Early Hints\r\nLink: a\r\n\r\n" + OK
    sinks, reusable, _ = run([wire], bytewise(wire))
    assert [s.status for s in sinks] == [200, 200]
    assert sinks[0].headers[0] == (b"content-length", b"5")
    assert reusable


def test_no_content_and_head_have_no_body():
    sinks, reusable, _ = run([b"HTTP/1.1 204 No Content\r\n\r\n"], [OK])
    assert [(s.status, s.text) for s in sinks] == [(204, b""), (200, b"hello")]
    assert reusable
    head = b"HTTP/1.1 200 OK\r\nContent-Length: 500\r\n\r\n"
    sinks, reusable, _ = run([head], [head], method="HEAD")
    assert [(s.status, s.text) for s in sinks] == [(200, b""), (200, b"")]
    assert reusable


def test_body_delimited_by_close():
    sinks, reusable, _ = run([b"HTTP/1.1 200 OK\r\n\r\nall", b" of it", close])
    assert sinks[0].text == b"all of it"
    assert not reusable


@pytest.mark.parametrize("wire", [b"HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: 2\r\n\r\nok",
                                  b"HTTP/1.0 200 OK\r\nContent-Length: 2\r\n\r\nok"])  # fmt: skip
def test_connection_close_is_not_reused(wire):
    sinks, reusable, _ = run([wire])
    assert sinks[0].text == b"ok"
    assert not reusable


def test_bytes_after_the_answer_never_become_the_next_answer():
    sinks, reusable, _ = run([OK + b"HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nevil"])
    assert sinks[0].text == b"hello"
    assert not reusable


@pytest.mark.parametrize(
    ("pieces", "kind"),
    [
        ([close], "closed-before-response"),
        ([reset], "closed-before-response"),
        ([b"HTTP/1.1 2", close], "cut"),
        ([b"HTTP/1.1 200 OK\r\nContent-Le", close], "cut"),
        ([b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nabc", close], "cut"),
        ([b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nab", close], "cut"),
        ([b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n", close], "cut"),
        ([b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\nabc"], "protocol"),
        ([b"SSH-2.0-OpenSSH_9.9\r\n"], "protocol"),
        ([b"HTTP/1.1 200 OK\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\nab"], "protocol"),
        (
            [b"HTTP/1.1 200 OK\r\nContent-Length: 3\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\n\r\n"],
            "protocol",
        ),
        ([b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: h2c\r\nConnection: upgrade\r\n\r\nPRI"], "protocol"),
    ],
)
def test_a_broken_answer_fails_with_its_kind_and_is_not_safe_to_retry(pieces, kind):
    with pytest.raises(TransferError) as caught:
        run(pieces)
    assert caught.value.kind == kind
    assert not caught.value.safe_to_retry


def test_reset_inside_the_answer():
    async def wait_then_reset(writer):
        # The client must have read the first bytes, or the reset discards them.
        await asyncio.sleep(0.05)
        reset(writer)

    with pytest.raises(TransferError) as caught:
        run([b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nabc", wait_then_reset])
    assert caught.value.kind in ("reset", "cut")


def test_only_a_reused_connection_that_said_nothing_is_safe_to_retry():
    with pytest.raises(TransferError) as caught:
        run([OK], [close])
    assert caught.value.kind == "closed-before-response"
    assert caught.value.safe_to_retry
    with pytest.raises(TransferError) as caught:
        run([OK], [b"HTTP", close])
    assert not caught.value.safe_to_retry


def test_unasked_bytes_close_the_idle_connection():
    async def go():
        async with raw_server([OK, lambda w: asyncio.sleep(0.02), b"HTTP/1.1 200 OK\r\n\r\n"]) as (origin, _):
            connection = await connect(origin)
            gone = asyncio.Event()
            connection.on_close = lambda _c: gone.set()
            await ask(connection, origin)
            async with asyncio.timeout(10):
                await gone.wait()
            assert not connection.reusable
            with pytest.raises(TransferError) as caught:
                connection.send(b"GET / HTTP/1.1\r\n\r\n", Sink())
            assert caught.value.safe_to_retry

    asyncio.run(go())


def test_sizes_are_capped():
    big_head = b"HTTP/1.1 200 OK\r\nX: " + b"a" * 3000
    with pytest.raises(TransferError) as caught:
        run([big_head], limits=Limits(max_head_bytes=2000))
    assert caught.value.kind == "head-too-large"
    many = b"HTTP/1.1 200 OK\r\n" + b"X: y\r\n" * 1000 + b"Content-Length: 0\r\n\r\n"
    with pytest.raises(TransferError) as caught:
        run([many], limits=Limits(max_head_bytes=2000))
    assert caught.value.kind == "head-too-large"
    with pytest.raises(TransferError) as caught:
        run([OK], limits=Limits(max_body_bytes=4))
    assert caught.value.kind == "body-too-large"


def test_a_receiver_may_abort_inside_a_callback_and_hears_nothing_more():
    async def go():
        gone = asyncio.Event()

        async def serve(reader, writer):
            await reader.readuntil(b"\r\n\r\n")
            writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nabcde")
            with contextlib.suppress(ConnectionError):
                await reader.read()
            gone.set()
            writer.close()

        async with serving(serve) as origin:
            connection = await connect(origin)
            sink = Sink(on_body=lambda _d: connection.abort())
            connection.send(with_body(request_head("GET", "/", origin)), sink)
            async with asyncio.timeout(10):
                await gone.wait()  # the server sees that the client went away
            await asyncio.sleep(0)
            assert sink.parts == [b"abcde"]
            assert not sink.done.done()
            assert connection.closed

    asyncio.run(go())


def test_end_may_start_the_next_request_on_the_same_connection():
    async def go():
        async with raw_server([OK], [OK]) as (origin, requests):
            connection = await connect(origin)
            second = Sink()
            request = with_body(request_head("GET", "/", origin))
            first = Sink(on_end=lambda: connection.send(request, second))
            connection.send(request, first)
            async with asyncio.timeout(10):
                await second.done
            assert second.text == b"hello"
            assert connection.served == 2
            assert len(requests) == 2
            connection.close()

    asyncio.run(go())


def test_a_raising_receiver_fails_the_exchange_only():
    async def go():
        seen = []
        asyncio.get_running_loop().set_exception_handler(lambda _loop, context: seen.append(context["exception"]))
        async with raw_server([OK]) as (origin, _):
            connection = await connect(origin)

            def boom(_data):
                raise KeyError("bug")

            with pytest.raises(TransferError) as caught:
                await ask(connection, origin, on_body=boom)
            assert caught.value.kind == "receiver"
            assert isinstance(seen[0], KeyError)

    asyncio.run(go())


def test_pausing_stops_the_server_and_resuming_gets_everything():
    async def go():
        size = 20 * 1024 * 1024
        sent = 0

        async def serve(reader, writer):
            nonlocal sent
            await reader.readuntil(b"\r\n\r\n")
            writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % size)
            block = b"x" * 65536
            while sent < size:
                writer.write(block)
                sent += len(block)
                await writer.drain()

        async with serving(serve) as origin:
            connection = await connect(origin)
            got = 0

            def count(data):
                nonlocal got
                if got == 0:
                    connection.pause()
                got += len(data)

            sink = Sink(on_body=count)
            connection.send(with_body(request_head("GET", "/", origin)), sink)
            before = -1
            while before != sent or not sent:  # until the windows are full
                before = sent
                await asyncio.sleep(0.1)
            assert sent < size
            assert got <= 1024 * 1024
            connection.resume()
            async with asyncio.timeout(20):
                await sink.done
            assert got == size
            connection.close()

    asyncio.run(go())


def test_timeouts_by_one_sweep():
    async def never(writer):
        await asyncio.sleep(5)

    async def go(pieces, timeouts):
        async with raw_server(pieces) as (origin, _):
            connection = await connect(origin)
            sweep = Sweep(tick_s=0.02)
            sweep.watch(connection, timeouts)
            try:
                await ask(connection, origin)
            finally:
                sweep.close()

    partial = b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nabc"
    for pieces, timeouts, kind in (
        ([never], Timeouts(first_byte_s=0.1), "first-byte-timeout"),
        ([partial, never], Timeouts(idle_s=0.1), "idle-timeout"),
        ([partial, never], Timeouts(total_s=0.1), "total-timeout"),
    ):
        with pytest.raises(TransferError) as caught:
            asyncio.run(go(pieces, timeouts))
        assert caught.value.kind == kind


def test_connect_errors_have_kinds():
    async def go(origin, **kwargs):
        await connect(origin, **kwargs)

    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
        with pytest.raises(TransferError) as caught:
            asyncio.run(go(Origin("http", "127.0.0.1", port)))
        assert caught.value.kind == "refused"
    with pytest.raises(TransferError) as caught:
        asyncio.run(go(Origin("http", "no-such-host.invalid", 80)))
    assert caught.value.kind in ("dns", "connect-timeout")


def test_an_early_answer_to_an_unread_request_is_not_reused():
    async def go():
        async def serve(reader, writer):
            await reader.readuntil(b"\r\n\r\n")
            writer.write(b"HTTP/1.1 413 Too Large\r\nContent-Length: 2\r\n\r\nno")
            await asyncio.sleep(5)

        async with serving(serve) as origin:
            connection = await connect(origin)
            sink = await ask(connection, origin, body=b"x" * 50_000_000, method="POST")
            assert sink.status == 413
            assert not connection.reusable

    asyncio.run(go())


def test_tls_checks_the_certificate_and_sends_the_name(tmp_path):
    key, cert = tmp_path / "key.pem", tmp_path / "cert.pem"
    request = "req -x509 -newkey rsa:2048 -nodes -days 2 -subj /CN=llm.test -addext subjectAltName=DNS:llm.test"
    subprocess.run(["openssl", *request.split(), "-keyout", key, "-out", cert], check=True, capture_output=True)
    served = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    served.load_cert_chain(cert, key)
    names = []
    served.sni_callback = lambda _socket, name, _context: names.append(name)

    async def serve(reader, writer):
        await reader.readuntil(b"\r\n\r\n")
        writer.write(OK)
        await reader.read()

    async def go(**kwargs):
        async with serving(serve, served) as origin:
            connection = await connect(origin, **kwargs)
            sink = await ask(connection, origin)
            connection.abort()
            return sink

    with pytest.raises(TransferError) as caught:
        asyncio.run(go())
    assert caught.value.kind == "tls"
    assert "certificate" in str(caught.value)
    trusted = ssl.create_default_context(cafile=str(cert))
    assert asyncio.run(go(ssl_context=trusted, server_name="llm.test")).text == b"hello"
    assert names[-1] == "llm.test"


def test_request_bytes_cannot_be_smuggled():
    origin, path = Origin.of("http://[::1]:8000/v1?x=1")
    assert (origin, path) == (Origin("http", "::1", 8000), "/v1?x=1")
    assert with_body(request_head("POST", path, origin, [(b"A", b"b")]), b"{}") == (
        b"POST /v1?x=1 HTTP/1.1\r\nhost: [::1]:8000\r\nA: b\r\naccept-encoding: identity\r\ncontent-length: 2\r\n\r\n{}"
    )
    for name, value in (
        (b"A", b"b\r\nX: y"),
        (b"A b", b"c"),
        (b"Content-Length", b"1"),
        (b"Transfer-Encoding", b"chunked"),
    ):
        with pytest.raises(ValueError):
            request_head("GET", "/", origin, [(name, value)])
    for target in ("/a b", "/a\r\nX: y", "", "/\x7f"):
        with pytest.raises(ValueError):
            request_head("GET", target, origin)
    for url in ("ftp://x", "http://", "http://user:pw@host/"):
        with pytest.raises(ValueError):
            Origin.of(url)
    assert Origin.of("https://例え.jp")[0].authority == "xn--r8jz45g.jp"
