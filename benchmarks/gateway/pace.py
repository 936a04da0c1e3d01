"""Latency at a quiet pace, and streams at the pace of a model: direct, nginx and the gateway, interleaved in one run.

    python benchmarks/gateway/pace.py [--rounds 5] [--realtime] [--pause 45 --streams 60]

* Requests at 200 a second, open loop: the clock of each starts when it should have been sent.
* Streams: 32 at a time, 50 events each, 20 ms apart: CPU of the candidate's process tree for each event, events counted at
  both ends, and the time to the first event at about 100 streams a second, with its slowest.

``busy`` is the gateway with ``busy_poll_ms``: it stays awake between requests, so its CPU time is that of its core.

The candidate is pinned to one core, load and upstream to another. ``--realtime`` puts all three under SCHED_RR (needs root),
so that other work on the machine hardly counts; at this pace they take a small part of their cores. ``--awake`` keeps both
cores from halting between requests, with a loop that only runs when nothing else would (SCHED_IDLE): a virtual machine's
core that halts comes back on whichever physical core is free, with nothing in its caches, and then the host is measured.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

from bench_parts import ANSWER, BODY, KEY, candidates, cpu_ns, free_port, rss_mib, running

GAP_S = 0.02
EVENTS = 50
STREAMS = 32
WHOLE = (
    b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: %d\r\n\r\n" % len(ANSWER)
) + ANSWER.encode()
STREAM = b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n"


def chunk(value: object) -> bytes:
    data = b"data: " + (value if isinstance(value, bytes) else json.dumps(value).encode()) + b"\n\n"
    return b"%x\r\n%b\r\n" % (len(data), data)


def token(number: int) -> bytes:
    choice = {"index": 0, "delta": {"content": f"word{number} "}, "finish_reason": None}
    return chunk({"id": "c", "object": "chat.completion.chunk", "created": 1, "model": "bench", "choices": [choice]})


END = (
    chunk(
        {"id": "c", "object": "chat.completion.chunk", "choices": [{"index": 0, "delta": {}, "finish_reason": "stop"}]}
    )
    + chunk({"id": "c", "choices": [], "usage": {"prompt_tokens": 60, "completion_tokens": 50, "total_tokens": 110}})
    + chunk(b"[DONE]")
    + b"0\r\n\r\n"
)


class Upstream(asyncio.Protocol):
    """Answers at once; streams at a model's pace, or, where the prompt says so, one event and the end."""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = transport
        self.buffer = b""

    def data_received(self, data: bytes) -> None:
        self.buffer += data
        head, mark, rest = self.buffer.partition(b"\r\n\r\n")
        if not mark:
            return
        lengths = [line for line in head.split(b"\r\n") if line.lower().startswith(b"content-length:")]
        if len(rest) < int(lengths[0].partition(b":")[2]):
            return
        self.buffer = b""
        if b'"stream": true' not in rest and b'"stream":true' not in rest:
            self.transport.write(WHOLE)
        elif b"just one" in rest:
            self.transport.write(STREAM + token(0))
            asyncio.get_running_loop().call_later(0.005, self.transport.write, END)
        else:
            self.transport.write(STREAM + token(0))
            asyncio.get_running_loop().call_later(GAP_S, self.more, 1)

    def more(self, number: int) -> None:
        if self.transport.is_closing():
            return
        if number == EVENTS:
            self.transport.write(END)
            return
        self.transport.write(token(number))
        asyncio.get_running_loop().call_later(GAP_S, self.more, number + 1)


class Client(asyncio.Protocol):
    """One connection to what is measured."""

    def __init__(self) -> None:
        self.waiting: asyncio.Future[None] | None = None
        self.first_at = 0.0
        self.tokens = 0
        self.buffer = b""
        self.size = -1

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = transport

    def ask(self, request: bytes) -> asyncio.Future[None]:
        self.waiting = asyncio.get_running_loop().create_future()
        self.first_at, self.tokens, self.buffer, self.size = 0.0, 0, b"", -1
        self.transport.write(request)
        return self.waiting

    def data_received(self, data: bytes) -> None:
        now = time.perf_counter()
        self.tokens += data.count(b'"content": "word') + data.count(b'"content":"word')
        if not self.first_at and self.tokens:
            self.first_at = now
        self.buffer = (self.buffer + data)[-65536:]
        if self.buffer.endswith(b"0\r\n\r\n") or self.whole():
            if not self.buffer.startswith(b"HTTP/1.1 200") and self.size >= 0:
                raise SystemExit(self.buffer[:500])
            if self.waiting is not None and not self.waiting.done():
                self.waiting.set_result(None)

    def whole(self) -> bool:
        head, mark, rest = self.buffer.partition(b"\r\n\r\n")
        if self.size < 0 and mark:
            for line in head.split(b"\r\n"):
                if line.lower().startswith(b"content-length:"):
                    self.size = int(line.partition(b":")[2])
        return self.size >= 0 and len(rest) >= self.size


def request(port: int, *, stream: bool, prompt: str = "hello") -> bytes:
    body = json.dumps(
        {**json.loads(BODY), "stream": stream, "messages": [{"role": "user", "content": prompt}]}
    ).encode()
    head = f"POST /v1/chat/completions HTTP/1.1\r\nhost: 127.0.0.1:{port}\r\nauthorization: Bearer {KEY}\r\n"
    return f"{head}content-type: application/json\r\ncontent-length: {len(body)}\r\n\r\n".encode() + body


async def connections(port: int, count: int) -> list[Client]:
    loop = asyncio.get_running_loop()
    return [(await loop.create_connection(Client, "127.0.0.1", port))[1] for _ in range(count)]


async def latencies(port: int, rate: float, seconds: float) -> list[float]:
    """Milliseconds from when a request should have been sent to its answer, at a fixed rate."""
    idle = await connections(port, 16)
    data, out, tasks = request(port, stream=False), [], []
    start = time.perf_counter() + 0.1

    async def one(client: Client, due: float) -> None:
        await client.ask(data)
        out.append((time.perf_counter() - due) * 1000)
        idle.append(client)

    for number in range(int(rate * seconds)):
        due = start + number / rate
        await asyncio.sleep(max(0.0, due - time.perf_counter()))
        client = idle.pop() if idle else (await connections(port, 1))[0]
        tasks.append(asyncio.create_task(one(client, due)))
    await asyncio.gather(*tasks)
    for client in idle:
        client.transport.close()
    return out[len(out) // 10 :]


async def first_events(port: int, count: int, pause_s: float) -> list[float]:
    """Milliseconds to the first event, one stream after the other; after a longer pause the caches are cold."""
    (client,) = await connections(port, 1)
    data, out = request(port, stream=True, prompt="just one"), []
    for _ in range(count):
        began = time.perf_counter()
        await client.ask(data)
        out.append((client.first_at - began) * 1000)
        await asyncio.sleep(pause_s)
    client.transport.close()
    return out[count // 10 :]


async def streams(port: int) -> int:
    """32 streams at a model's pace; returns the events that arrived."""
    clients = await connections(port, STREAMS)
    data = request(port, stream=True)
    done = [client.ask(data) for client in clients]
    await asyncio.gather(*done)
    for client in clients:
        client.transport.close()
    return sum(client.tokens for client in clients)


def realtime(pid: int) -> None:
    subprocess.run(["chrt", "-a", "-r", "-p", "1", str(pid)], check=True)


def middle(values: list[float], share: float = 0.5) -> float:
    return sorted(values)[min(len(values) - 1, int(len(values) * share))]


@contextlib.contextmanager
def spinning(core: int) -> Iterator[None]:
    """A loop on a core that gives way to everything else."""
    argv = ["chrt", "--idle", "0", "taskset", "-c", str(core), sys.executable, "-c", "while True: pass"]
    process = subprocess.Popen(argv)
    try:
        yield
    finally:
        process.kill()
        process.wait()


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--rate", type=float, default=200)
    parser.add_argument("--pause", type=float, default=4, help="ms between streams whose first event is timed")
    parser.add_argument("--streams", type=int, default=200, help="streams a round whose first event is timed")
    parser.add_argument("--realtime", action="store_true")
    parser.add_argument("--awake", action="store_true")
    parser.add_argument("--upstream", type=int, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.upstream:
        asyncio.run(serve(options.upstream))
        return
    os.sched_setaffinity(0, {1})
    with tempfile.TemporaryDirectory() as name, contextlib.ExitStack() as stack:
        for core in (0, 1) if options.awake else ():
            stack.enter_context(spinning(core))
        directory = Path(name)
        up = free_port()
        argv = [sys.executable, str(Path(__file__).resolve()), "--upstream", str(up)]
        upstream, _ = stack.enter_context(running(argv, up, 1, directory, {}))
        made = candidates(up, directory)
        ports, pids = {"direct": up}, {}
        for each in ("nginx", "llmops", "busy"):
            candidate = made[each]()
            pid, ready = stack.enter_context(
                running(candidate.argv, candidate.port, 0, directory, {"BENCH_KEY": KEY, **candidate.env})
            )
            ports[each], pids[each] = candidate.port, pid
            print(f"{each}: ready after {ready:.2f} s, {rss_mib(pid):.0f} MiB", flush=True)
        if options.realtime:
            for pid in (os.getpid(), upstream, *pids.values()):
                realtime(pid)
        measure(ports, pids, options)


def measure(ports: dict[str, int], pids: dict[str, int], options: argparse.Namespace) -> None:
    """Every figure of every candidate in turn, ``rounds`` times."""
    rounds, rate = options.rounds, options.rate
    late: dict[str, list[float]] = {each: [] for each in ports}
    late99: dict[str, list[float]] = {each: [] for each in ports}
    first: dict[str, list[float]] = {each: [] for each in ports}
    cpu: dict[str, list[float]] = {each: [] for each in pids}
    for port in ports.values():
        asyncio.run(latencies(port, rate, 1))
        asyncio.run(streams(port))
    for _ in range(rounds):
        for each, port in ports.items():
            seen = asyncio.run(latencies(port, rate, 4))
            late[each].append(middle(seen))
            late99[each].append(middle(seen, 0.99))
            first[each] += asyncio.run(first_events(port, options.streams, options.pause / 1000))
            before = cpu_ns(pids[each]) if each in pids else 0
            arrived = asyncio.run(streams(port))
            if arrived != STREAMS * EVENTS:
                raise SystemExit(f"{each}: {arrived} events arrived of {STREAMS * EVENTS}")
            if each in pids:
                cpu[each].append((cpu_ns(pids[each]) - before) / 1000 / arrived)
    base = statistics.median(late["nginx"])
    print(f"requests at {rate:g} a second, ms (median of {rounds} rounds)")
    for each, values in late.items():
        p50 = statistics.median(values)
        print(
            f"  {each:8} p50 {p50:6.3f}  p99 {statistics.median(late99[each]):7.3f}  nginx {1000 * (p50 - base):+7.0f} us"
        )
    print("time to the first event, ms")
    for each, values in first.items():
        added = middle(values) - middle(first["direct"])
        print(
            f"  {each:8} p50 {middle(values):6.3f}  p99 {middle(values, 0.99):7.3f}  max {max(values):7.3f}  direct {added:+6.3f}"
        )
    print(f"CPU us an event, {STREAMS} streams, {1 / GAP_S:.0f} events a second each")
    for each, values in cpu.items():
        ratio = statistics.median(values) / statistics.median(cpu["nginx"])
        print(
            f"  {each:8} {statistics.median(values):6.1f} [{min(values):.1f}..{max(values):.1f}]  {ratio:5.2f} x nginx"
        )


async def serve(port: int) -> None:
    """The upstream's process."""
    server = await asyncio.get_running_loop().create_server(Upstream, "127.0.0.1", port, backlog=512)
    async with server:
        await server.serve_forever()


if __name__ == "__main__":
    main()
