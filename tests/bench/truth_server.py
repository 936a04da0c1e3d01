"""A server that knows the truth: it answers by a seeded schedule, logs when each request was received and when each
chunk was really sent, and shows every quirk and fault of real servers on demand.

Runs as a process of its own: ``python truth_server.py '{"ttft_ms": 200}'`` prints its port. ``GET /log`` returns what it
has seen as JSON; ``POST /config`` starts anew with another behaviour. Raw asyncio and the standard library only.
"""

from __future__ import annotations

import asyncio
import heapq
import json
import math
import os
import random
import socket
import struct
import sys
import time
from dataclasses import dataclass, field, fields

NS = 1_000_000_000


@dataclass
class Config:
    """How it behaves. Times are medians; ``sigma`` is the spread of the lognormal around them, 0 for constant."""

    seed: int = 1
    ttft_ms: float = 50.0
    gap_ms: float = 5.0
    sigma: float = 0.3
    tokens: int = 0  # 0: what the request asks
    text: str = "tok "
    role: str = "receipt"  # receipt | first | none: when the chunk that only names the role is sent
    reasoning: int = 0  # so many of the tokens are reasoning
    reasoning_field: str = "reasoning_content"
    tool_call: bool = False
    per_chunk: int = 1  # tokens in a chunk
    first_chunk: int = 1  # tokens in the first chunk
    usage: str = "final"  # final | continuous | none | wrong
    late_ms: float = 0.0  # usage and [DONE] come so much after the last token
    done: bool = True
    finish: str = "chunk"  # chunk | last | none: a chunk of its own, inside the last token's, never
    crlf: bool = False
    comments: bool = False
    pack: int = 1  # events in a packet
    split: int = 0  # bytes of a packet, 0 for whole
    close: str = ""  # header: Connection: close; silent: the connection is closed when the next request arrives
    keep: int = 0  # silent: after so many answers
    fault: str = ""  # see _Stream.fault
    fault_every: int = 1
    stall_s: tuple[float, float] = (0.0, 0.0)  # nothing leaves between these seconds after the first request
    slots: int = 0  # answers at once, 0 for any number; the rest waits
    prompt_fixed: int = 11
    prompt_per_word: float = 1.25
    models: list[str] = field(default_factory=lambda: ["truth"])
    slower_after: int = 0  # requests from this one on are slower by ``slower``
    slower: float = 1.0


class Server:
    """All streams of one server, driven by one heap of due times."""

    handle: asyncio.TimerHandle | None = None

    def __init__(self, config: Config) -> None:
        if self.handle is not None:
            self.handle.cancel()
        self.config = config
        self.rng = random.Random(config.seed)
        self.heap: list[tuple[int, int, object]] = []
        self.serial = 0
        self.requests: list[dict] = []
        self.first_ns = 0
        self.handle: asyncio.TimerHandle | None = None
        self.armed_ns = 0
        self.connections = 0
        self.running = 0
        self.queue: list[Stream] = []

    def at(self, when_ns: int, action) -> None:
        self.serial += 1
        stall_from, stall_to = (self.first_ns + round(s * NS) for s in self.config.stall_s)
        if stall_from <= when_ns < stall_to:
            when_ns = stall_to
        heapq.heappush(self.heap, (when_ns, self.serial, action))
        if self.handle is None or when_ns < self.armed_ns:
            self.arm()

    def arm(self) -> None:
        if self.handle is not None:
            self.handle.cancel()
        self.armed_ns = self.heap[0][0]
        wait = max(0.0, (self.armed_ns - time.monotonic_ns()) / NS)
        self.handle = asyncio.get_running_loop().call_later(wait, self.fire)

    def fire(self) -> None:
        self.handle = None
        while self.heap and self.heap[0][0] <= time.monotonic_ns():
            heapq.heappop(self.heap)[2]()
        if self.heap and self.handle is None:
            self.arm()

    def drawn(self, median_ms: float) -> int:
        sigma = self.config.sigma
        slower = self.config.slower if self.config.slower_after and len(self.requests) > self.config.slower_after else 1
        return round(median_ms * slower * 1e6 * (math.exp(self.rng.gauss(0, sigma)) if sigma else 1.0))

    def begin(self, stream: Stream) -> None:
        if self.config.slots and self.running >= self.config.slots:
            self.queue.append(stream)
            return
        self.running += 1
        stream.begin()

    def finished(self) -> None:
        self.running -= 1
        if self.queue:
            self.running += 1
            self.queue.pop(0).begin()


class Http(asyncio.Protocol):
    """One connection."""

    def __init__(self, server: Server) -> None:
        self.server = server
        self.buffer = b""
        self.answered = 0

    def connection_made(self, transport) -> None:
        self.transport = transport
        self.server.connections += 1

    def data_received(self, data: bytes) -> None:
        now = time.monotonic_ns()
        self.buffer += data
        head, found, rest = self.buffer.partition(b"\r\n\r\n")
        if not found:
            return
        if b"transfer-encoding: chunked" in head.lower():
            if rest.endswith(b"0\r\n\r\n"):
                self.buffer = b""
                self.request(head, dechunked(rest), now)
            return
        length = 0
        for line in head.lower().split(b"\r\n"):
            if line.startswith(b"content-length:"):
                length = int(line.split(b":")[1])
        if len(rest) < length:
            return
        self.buffer = rest[length:]
        self.request(head, rest[:length], now)

    def request(self, head: bytes, body: bytes, now: int) -> None:
        config, server = self.server.config, self.server
        method, path = head.split(b" ")[:2]
        if method == b"GET" or not body:
            self.get(path)
            return
        if path == b"/config":
            self.server.__init__(Config(**json.loads(body)))
            self.transport.write(b"HTTP/1.1 204 Done\r\nConnection: close\r\n\r\n")
            self.transport.close()
            return
        if config.close == "silent" and config.keep and self.answered >= config.keep:
            self.transport.close()
            return
        server.first_ns = server.first_ns or now
        asked = json.loads(body)
        entry = {"recv_ns": now, "sent_ns": [], "tokens": [], "visible_ns": None, "end_ns": 0}
        entry |= {"path": path.decode(), "body": asked, "head": head.decode(), "connection": id(self)}
        server.requests.append(entry)
        server.begin(Stream(self, entry, asked))

    def get(self, path: bytes) -> None:
        if path == b"/log":
            shown = {"requests": self.server.requests, "connections": self.server.connections}
        elif path == b"/v1/models":
            shown = {"object": "list", "data": [{"id": name} for name in self.server.config.models]}
        else:
            shown = {}
        body = json.dumps(shown).encode()
        self.transport.write(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % len(body) + body)


def dechunked(data: bytes) -> bytes:
    """The body of a chunked request."""
    parts = []
    while data:
        size, _, data = data.partition(b"\r\n")
        count = int(size, 16)
        parts.append(data[:count])
        data = data[count + 2 :] if count else b""
    return b"".join(parts)


class Stream:
    """One answer."""

    def __init__(self, http: Http, entry: dict, asked: dict) -> None:
        self.http, self.entry, self.asked = http, entry, asked
        self.server, self.config = http.server, http.server.config
        self.total = self.config.tokens or asked.get("max_tokens") or asked.get("max_completion_tokens") or 16
        self.done = 0
        self.held: list[bytes] = []
        self.number = len(self.server.requests)
        self.prompt_tokens = self._prompt_tokens()

    def _prompt_tokens(self) -> int:
        messages = self.asked.get("messages") or [{"content": self.asked.get("prompt", "")}]
        contents = [message["content"] for message in messages]
        parts = [
            part if isinstance(part, str) else part.get("text", "")
            for c in contents
            for part in ([c] if isinstance(c, str) else c)
        ]
        words = sum(len(part.split()) for part in parts)
        return round(self.config.prompt_fixed + self.config.prompt_per_word * words)

    @property
    def api(self) -> str:
        path = self.entry["path"]
        return "messages" if path.endswith("messages") else "chat" if "chat" in path else "completions"

    def begin(self) -> None:
        config = self.config
        fault = config.fault if config.fault and self.number % config.fault_every == 0 else ""
        if fault and self.fault(fault):
            return
        if not self.asked.get("stream"):
            wait = self.server.drawn(config.ttft_ms) + sum(
                self.server.drawn(config.gap_ms) for _ in range(self.total - 1)
            )
            self.server.at(self.entry["recv_ns"] + wait, self.whole)
            return
        close = b"Connection: close\r\n" if config.close == "header" else b""
        self.write(
            b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n" + close + b"\r\n"
        )
        if config.role == "receipt" and self.api == "chat":
            self.event({"choices": [{"index": 0, "delta": {"role": "assistant", "content": ""}}]})
        if self.api == "messages":
            start = {
                "type": "message_start",
                "message": {"usage": {"input_tokens": self.prompt_tokens, "output_tokens": 1}},
            }
            self.event(start)
        if config.comments:
            self.packet(b": keep-alive" + self.blank)
        self.server.at(time.monotonic_ns() + self.server.drawn(config.ttft_ms), self.token)

    def fault(self, name: str) -> bool:
        """True when the answer is over with it."""
        transport = self.http.transport
        if name == "reset":
            raw = transport.get_extra_info("socket")
            raw.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            transport.abort()
        elif name == "close":
            transport.close()
        elif name.isdigit():
            body = json.dumps({"error": {"message": f"truth says {name}"}}).encode()
            transport.write(b"HTTP/1.1 %s Fault\r\nContent-Length: %d\r\n\r\n" % (name.encode(), len(body)) + body)
        elif name == "garbage":
            transport.write(b"SSH-2.0-nothing\r\n\r\n")
        elif name == "hang":
            pass
        else:
            self.total = (
                max(2, self.total // 2) if name in ("cut", "error-event", "error-string", "no-finish") else self.total
            )
            self.late_fault = name
            return False
        self.server.finished()
        return True

    late_fault = ""

    def token(self) -> None:
        config = self.config
        if self.http.transport.is_closing():
            self.server.finished()
            return
        if self.late_fault == "empty":
            self.end()
            return
        count = min(config.first_chunk if self.done == 0 else config.per_chunk, self.total - self.done)
        delta = self.delta(count)
        self.done += count
        last = self.done >= self.total
        chunk = self.chunk(delta, "length" if last and config.finish == "last" else None)
        if config.usage == "continuous":
            chunk["usage"] = self.usage(self.done)
        now = self.event(chunk, flush=last)
        self.entry["tokens"].append(count)
        self.entry["sent_ns"].append(now)
        if self.entry["visible_ns"] is None and "reasoning" not in json.dumps(delta):
            self.entry["visible_ns"] = now
        if not last:
            self.server.at(time.monotonic_ns() + self.server.drawn(config.gap_ms), self.token)
        elif config.late_ms:
            self.server.at(now + round(config.late_ms * 1e6), self.end)
        else:
            self.end()

    def delta(self, count: int) -> dict:
        if self.api == "messages":
            kind = ("thinking_delta", "thinking") if self.done < self.config.reasoning else ("text_delta", "text")
            return {"type": kind[0], kind[1]: self.config.text * count}
        if self.done < self.config.reasoning:
            return {self.config.reasoning_field: "hm " * count}
        if self.config.tool_call:
            return {"tool_calls": [{"index": 0, "function": {"name": "f", "arguments": "{"}}]}
        delta = {"content": self.config.text * count}
        if self.done == 0 and self.config.role == "first":
            delta["role"] = "assistant"
        return delta

    def chunk(self, delta: dict, finish: str | None) -> dict:
        if self.api == "messages":
            return {"type": "content_block_delta", "index": 0, "delta": delta}
        if self.api == "completions":
            return {"choices": [{"index": 0, "text": delta.get("content", ""), "finish_reason": finish}]}
        return {"choices": [{"index": 0, "delta": delta, "finish_reason": finish}]}

    def usage(self, tokens: int) -> dict:
        return {"prompt_tokens": self.prompt_tokens, "completion_tokens": tokens}

    def end(self) -> None:
        if self.http.transport.is_closing():
            self.server.finished()
            return
        config, fault = self.config, self.late_fault
        if fault == "cut":
            self.http.transport.close()
            self.server.finished()
            return
        if fault in ("error-event", "error-string"):
            words = (
                {"error": {"message": "engine died", "code": 500}}
                if fault == "error-event"
                else {"error": "engine died"}
            )
            self.event(words)
        elif fault != "no-finish":
            self.finish_events()
        self.packet(b"", last=True)
        self.entry["end_ns"] = time.monotonic_ns()
        self.http.answered += 1
        if config.close == "header":
            self.http.transport.close()
        self.server.finished()

    def finish_events(self) -> None:
        config = self.config
        counted = self.total + (5 if config.usage == "wrong" else 0)
        if self.api == "messages":
            if config.finish != "none":
                self.event(
                    {
                        "type": "message_delta",
                        "delta": {"stop_reason": "max_tokens"},
                        "usage": {"output_tokens": counted},
                    }
                )
                self.event({"type": "message_stop"})
            return
        if config.finish == "chunk":
            self.event(self.chunk({}, "length"))
        if config.usage in ("final", "wrong", "continuous"):
            self.event({"choices": [], "usage": self.usage(counted)})
        if config.done:
            self.packet(b"data: [DONE]" + self.blank)

    def whole(self) -> None:
        text = self.config.text * self.total
        message = {
            "choices": [{"message": {"role": "assistant", "content": text}, "text": text, "finish_reason": "length"}]
        }
        if self.api == "messages":
            message = {"type": "message", "content": [{"type": "text", "text": text}], "stop_reason": "max_tokens"}
            message["usage"] = {"input_tokens": self.prompt_tokens, "output_tokens": self.total}
        else:
            message["usage"] = self.usage(self.total)
        body = json.dumps(message).encode()
        self.entry["end_ns"] = time.monotonic_ns()
        self.write(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % len(body) + body)
        self.http.answered += 1
        self.server.finished()

    # The wire

    @property
    def blank(self) -> bytes:
        return b"\r\n\r\n" if self.config.crlf else b"\n\n"

    def event(self, fields: dict, *, flush: bool = False) -> int:
        if "choices" in fields:
            kind = "chat.completion.chunk" if self.api == "chat" else "text_completion"
            fields = {"id": f"truth-{self.number}", "object": kind, "created": 1, "model": "truth", **fields}
        line = b"data: " + json.dumps(fields, ensure_ascii=False).encode()
        if self.api == "messages":
            line = b"event: %s%s" % (fields.get("type", "error").encode(), self.blank[: len(self.blank) // 2]) + line
        if self.config.comments:
            line = b": note" + self.blank[: len(self.blank) // 2] + line
        return self.packet(line + self.blank, hold=not flush)

    def packet(self, data: bytes, *, hold: bool = False, last: bool = False) -> int:
        self.held.append(data)
        if hold and len(self.held) < self.config.pack:
            return time.monotonic_ns()
        data, self.held = b"".join(self.held), []
        framed = (b"%x\r\n%s\r\n" % (len(data), data) if data else b"") + (b"0\r\n\r\n" if last else b"")
        return self.write(framed)

    def write(self, data: bytes) -> int:
        size = self.config.split or len(data)
        now = time.monotonic_ns()
        for start in range(0, len(data), size):
            now = time.monotonic_ns()
            self.http.transport.write(data[start : start + size])
        return now


async def serve(config: Config) -> None:
    try:
        import gc

        gc.disable()
    finally:
        server = Server(config)
    listening = await asyncio.get_running_loop().create_server(lambda: Http(server), "127.0.0.1", 0, backlog=2048)
    print(listening.sockets[0].getsockname()[1], flush=True)
    parent = os.getppid()
    while os.getppid() == parent:  # noqa: ASYNC110 - a test run that was killed leaves no server behind
        await asyncio.sleep(1)
    listening.close()


def main() -> None:
    given = json.loads(sys.argv[1]) if len(sys.argv) > 1 else {}
    known = {f.name for f in fields(Config)}
    assert set(given) <= known, set(given) - known
    try:
        import uvloop

        run = uvloop.run
    except ImportError:
        run = asyncio.run
    run(serve(Config(**given)))


if __name__ == "__main__":
    main()
