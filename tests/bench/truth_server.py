"""A server that knows the truth: it answers by a seeded schedule, logs when the kernel received each request and sent
each chunk (``truth_wire``), and shows every quirk and fault of real servers on demand (``truth_stream``).

Runs as a process of its own: ``python truth_server.py '{"ttft_ms": 200}'`` prints its port. ``GET /log`` returns what it
has seen as JSON; ``POST /config`` starts anew with another behaviour. Raw asyncio and the standard library only.
"""

from __future__ import annotations

import asyncio
import gc
import heapq
import json
import math
import os
import random
import socket
import sys
import time
from dataclasses import dataclass, field, fields

from truth_stream import Stream
from truth_wire import Stamps, Wire

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
        self.stamps = Stamps()

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

    def request(self, wire: Wire, head: bytes, body: bytes, at_ns: int) -> None:
        """One request came whole at ``at_ns``."""
        method, path = head.split(b" ")[:2]
        if method == b"GET" or not body:
            self.get(wire, path)
        elif path == b"/config":
            self.__init__(Config(**json.loads(body)))
            wire.write(b"HTTP/1.1 204 Done\r\nConnection: close\r\n\r\n")
            wire.close()
        elif self.config.close == "silent" and self.config.keep and wire.answered >= self.config.keep:
            wire.close()
        else:
            self.first_ns = self.first_ns or at_ns
            asked = json.loads(body)
            entry = {"recv_ns": at_ns, "sent_ns": [], "tokens": [], "visible_ns": None, "end_ns": 0}
            entry |= {"path": path.decode(), "body": asked, "head": head.decode(), "connection": id(wire)}
            self.requests.append(entry)
            self.begin(Stream(wire, entry, asked))

    def get(self, wire: Wire, path: bytes) -> None:
        if path == b"/log":
            stamps = {"received": self.stamps.received, "sent": self.stamps.sent, "missing": self.stamps.missing}
            wire.json({"requests": self.requests, "connections": self.connections, "stamps": stamps})
        elif path == b"/v1/models":
            wire.json({"object": "list", "data": [{"id": name} for name in self.config.models]})
        else:
            wire.json({})

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


async def serve(config: Config) -> None:
    # No uvloop: it puts writes off to the end of its turn, and only raw sockets have the kernel's stamps.
    gc.disable()
    server = Server(config)
    listening = socket.create_server(("127.0.0.1", 0), backlog=2048)
    listening.setblocking(False)

    def accept() -> None:
        while True:
            try:
                raw, _ = listening.accept()
            except BlockingIOError:
                return
            server.connections += 1
            Wire(raw, server)

    asyncio.get_running_loop().add_reader(listening, accept)
    print(listening.getsockname()[1], flush=True)
    parent = os.getppid()
    while os.getppid() == parent:  # noqa: ASYNC110 - a test run that was killed leaves no server behind
        await asyncio.sleep(1)
    listening.close()


def main() -> None:
    given = json.loads(sys.argv[1]) if len(sys.argv) > 1 else {}
    known = {f.name for f in fields(Config)}
    assert set(given) <= known, set(given) - known
    asyncio.run(serve(Config(**given)))


if __name__ == "__main__":
    main()
