"""Fake providers: real HTTP servers on loopback that answer in each provider's own wire format.

Each dialect answers with constants of its own, so that an answer passed on untranslated is told apart at once. A fault is
asked for by the model's name (``fault-429``), by ``Fake.faults`` in order, or by a raw handler on the socket.
"""

from __future__ import annotations

import contextlib
import json
import socket
import ssl
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx

Handler = Callable[["Fake", dict[str, Any], "Answer"], None]


@dataclass
class Seen:
    """One request that a fake received."""

    method: str
    path: str
    headers: dict[str, str]
    raw: bytes
    header_lines: list[tuple[str, str]] = field(default_factory=list)

    @property
    def json(self) -> dict[str, Any]:
        return json.loads(self.raw)


class Answer:
    """Writes one answer on the socket, byte by byte as a test wants it."""

    def __init__(self, connection: socket.socket) -> None:
        self.connection = connection

    def send(self, data: bytes) -> None:
        self.connection.sendall(data)

    def whole(self, status: int, body: Any, headers: dict[str, str] | None = None) -> None:
        raw = body if isinstance(body, bytes) else json.dumps(body).encode()
        lines = {"content-type": "application/json", "content-length": str(len(raw)), **(headers or {})}
        head = f"HTTP/1.1 {status} X\r\n" + "".join(f"{k}: {v}\r\n" for k, v in lines.items()) + "\r\n"
        self.send(head.encode() + raw)

    def stream_head(self) -> None:
        self.send(b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n")

    def chunk(self, data: bytes) -> None:
        self.send(b"%x\r\n%b\r\n" % (len(data), data))

    def event(self, value: Any, name: str | None = None) -> None:
        data = value if isinstance(value, bytes) else json.dumps(value).encode()
        self.chunk((f"event: {name}\n".encode() if name else b"") + b"data: " + data + b"\n\n")

    def stream_end(self) -> None:
        self.send(b"0\r\n\r\n")

    def gone(self) -> bool:
        """Whether the gateway closed the connection."""
        self.connection.settimeout(0)
        try:
            return self.connection.recv(1, socket.MSG_PEEK) == b""
        except BlockingIOError:
            return False
        except OSError:
            return True
        finally:
            self.connection.settimeout(30)


class Close(Exception):  # noqa: N818
    """Raised by a handler: close the connection now."""


class Fake:
    """A server with one thread a connection. ``handler`` gets each request's JSON and answers it."""

    def __init__(
        self, handler: Handler, host: str = "127.0.0.1", tls: ssl.SSLContext | None = None, port: int = 0
    ) -> None:
        self.handler = handler
        self._tls = tls
        self.seen: list[Seen] = []
        self.connections = 0
        self.live = 0
        self.state: dict[str, Any] = {}
        self._socket = socket.create_server((host, port), backlog=512)
        self.port = self._socket.getsockname()[1]
        self.url = f"http://{host}:{self.port}"
        self.resumed: list[bool] = []
        self._lock = threading.Lock()
        threading.Thread(target=self._accept, daemon=True).start()

    def close(self) -> None:
        with contextlib.suppress(OSError):
            self._socket.shutdown(socket.SHUT_RDWR)  # closing alone does not wake the thread in accept
        self._socket.close()

    def _accept(self) -> None:
        while True:
            try:
                connection, _ = self._socket.accept()
            except OSError:
                return
            with self._lock:
                self.connections += 1
                self.live += 1
            threading.Thread(target=self._serve, args=(connection,), daemon=True).start()

    def _serve(self, connection: socket.socket) -> None:
        connection.settimeout(30)
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        try:
            if self._tls is not None:
                connection = self._tls.wrap_socket(connection, server_side=True)
                self.resumed.append(bool(connection.session_reused))
            with connection:
                buffer = b""
                while True:
                    seen, buffer = self._read(connection, buffer)
                    if seen is None:
                        return
                    with self._lock:
                        self.seen.append(seen)
                    self.handler(self, json.loads(seen.raw) if seen.raw else {}, Answer(connection))
        except (Close, OSError):
            pass
        finally:
            with self._lock:
                self.live -= 1

    def _read(self, connection: socket.socket, buffer: bytes) -> tuple[Seen | None, bytes]:
        while b"\r\n\r\n" not in buffer:
            data = connection.recv(65536)
            if not data:
                return None, b""
            buffer += data
        head, _, rest = buffer.partition(b"\r\n\r\n")
        first, *lines = head.decode("latin-1").split("\r\n")
        method, path, _ = first.split(" ")
        pairs = [tuple(line.split(": ", 1)) for line in lines]
        headers = {name.lower(): value for name, value in pairs}
        length = int(headers.get("content-length", "0"))
        while len(rest) < length:
            rest += connection.recv(65536)
        return Seen(method, path, headers, rest[:length], pairs), rest[length:]


@contextmanager
def fake(handler: Handler, **more: Any) -> Iterator[Fake]:
    server = Fake(handler, **more)
    try:
        yield server
    finally:
        server.close()


# ---- the gateway under test ----


@dataclass
class Running:
    url: str
    process: subprocess.Popen[str]
    log: Path
    metrics_url: str = ""

    def metrics(self) -> str:
        return httpx.get(f"{self.metrics_url or self.url}/metrics", timeout=10).text


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


@contextmanager
def gateway(
    tmp_path: Path, config: str | None = None, *args: str, env: dict[str, str] | None = None
) -> Iterator[Running]:
    """A real gateway process, ready."""
    import os

    port = free_port()
    argv = [sys.executable, "-m", "llmops", "gateway", "run", "--port", str(port), "--json", *args]
    if config is not None:
        path = tmp_path / "gateway.yaml"
        path.write_text(config)
        argv += ["-c", str(path)]
    log = tmp_path / f"gateway-{port}.log"
    with log.open("w") as file:
        process = subprocess.Popen(
            argv, stdout=subprocess.PIPE, stderr=file, text=True, env={**os.environ, **(env or {})}, cwd=tmp_path
        )
    url = f"http://127.0.0.1:{port}"
    try:
        wait_ready(url, process, log)
        yield Running(url, process, log)
    finally:
        if process.poll() is None:
            process.terminate()
            try:
                process.wait(10)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
        assert process.stdout is not None
        process.stdout.close()


def wait_ready(url: str, process: subprocess.Popen[str], log: Path) -> None:
    deadline = time.monotonic() + 20
    while True:
        if process.poll() is not None:
            raise AssertionError(f"the gateway ended with {process.returncode}: {log.read_text()}")
        try:
            if httpx.get(f"{url}/health/live", timeout=1).status_code == 200:
                return
        except httpx.TransportError:
            pass
        assert time.monotonic() < deadline, log.read_text()
        time.sleep(0.02)


def wait_until(condition: Callable[[], bool], within_s: float = 10.0, what: str = "condition") -> None:
    deadline = time.monotonic() + within_s
    while not condition():
        assert time.monotonic() < deadline, f"{what} did not come true within {within_s} s"
        time.sleep(0.01)


def metric(text: str, name: str) -> float:
    """The value of one series, given as ``name{labels}`` exactly; 0 when absent."""
    for line in text.splitlines():
        if line.startswith(name + " "):
            return float(line.rpartition(" ")[2])
    return 0.0


# ---- OpenAI's wire format ----

OPENAI_TEXT = "o-three-aitch"
OPENAI_USAGE = {
    "prompt_tokens": 1000,
    "completion_tokens": 20,
    "total_tokens": 1020,
    "prompt_tokens_details": {"cached_tokens": 800},
    "completion_tokens_details": {"reasoning_tokens": 8},
}


def openai_chunk(delta: dict[str, Any], finish: str | None = None, **more: Any) -> dict[str, Any]:
    return {
        "id": "chatcmpl-fake-1",
        "object": "chat.completion.chunk",
        "created": 1700000001,
        "model": "gpt-4o-2024-08-06",
        "choices": [{"index": 0, "delta": delta, "finish_reason": finish}],
        **more,
    }


def openai(server: Fake, body: dict[str, Any], answer: Answer) -> None:
    """Chat, Completions, Embeddings and Models as OpenAI answers them."""
    path = server.seen[-1].path
    if path.endswith("/models"):
        answer.whole(200, {"object": "list", "data": [{"id": "fake-model", "object": "model"}]})
    elif path.endswith("/embeddings"):
        inputs = body["input"] if isinstance(body["input"], list) else [body["input"]]
        data = [{"object": "embedding", "index": i, "embedding": [len(x), 0.5]} for i, x in enumerate(inputs)]
        usage = {"prompt_tokens": 3 * len(inputs), "total_tokens": 3 * len(inputs)}
        answer.whole(200, {"object": "list", "model": "emb", "data": data, "usage": usage})
    elif not body.get("stream"):
        _openai_whole(body, answer, path)
    else:
        _openai_stream(body, answer)


def _openai_whole(body: dict[str, Any], answer: Answer, path: str) -> None:
    if path.endswith("/chat/completions"):
        choice: dict[str, Any] = {"index": 0, "message": {"role": "assistant", "content": OPENAI_TEXT}}
        kind = "chat.completion"
    else:
        choice = {"index": 0, "text": OPENAI_TEXT}
        kind = "text_completion"
    answer.whole(
        200,
        {
            "id": "chatcmpl-fake-1",
            "object": kind,
            "created": 1700000001,
            "model": body["model"],
            "choices": [{**choice, "finish_reason": "stop"}],
            "usage": OPENAI_USAGE,
        },
        {"x-request-id": "req-openai-1"},
    )


def _openai_stream(body: dict[str, Any], answer: Answer) -> None:
    answer.stream_head()
    asked = bool((body.get("stream_options") or {}).get("include_usage"))
    more = {"usage": None, "model": body["model"]} if asked else {"model": body["model"]}
    answer.event(openai_chunk({"role": "assistant", "content": ""}, **more))
    for word in ("o-three", "-", "aitch"):
        answer.event(openai_chunk({"content": word}, **more))
    answer.event(openai_chunk({}, "stop", **more))
    if asked:
        answer.event({**openai_chunk({}), "choices": [], "usage": OPENAI_USAGE})
    answer.event(b"[DONE]")
    answer.stream_end()
