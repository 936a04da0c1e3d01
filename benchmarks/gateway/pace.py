"""Latency at a quiet pace, and streams at the pace of a model: direct, nginx and the gateway, interleaved in one run.

    python benchmarks/gateway/pace.py [--rounds 5] [--realtime] [--pause 45 --streams 60]

* Requests at 200 a second, open loop: the clock of each starts when it should have been sent.
* Streams: 32 at a time, 50 events each, 20 ms apart, each with a phase of its own: CPU of the candidate's process tree for
  each event, events counted at both ends.
* The time to the first event: one stream after the other with a pause between them, and the same at about 20 a second while
  32 others flow.

Load and upstream are a small C program (``paced.c``, built here with gcc), so that what is timed is not their own work.
``busy`` is the gateway with ``busy_poll_ms``: it stays awake between requests that come often.

The candidate is pinned to one core, load and upstream to another. ``--realtime`` puts all three under SCHED_RR (needs root),
so that other work on the machine hardly counts; at this pace they take a small part of their cores. ``--awake`` keeps both
cores from halting between requests, with a loop that only runs when nothing else would (SCHED_IDLE): a virtual machine's
core that halts comes back on whichever physical core is free, with nothing in its caches, and then the host is measured.
"""

from __future__ import annotations

import argparse
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

EVENTS = 50
STREAMS = 32
# What must be measured within the second that the other streams take.
AMONG = 10
WHOLE = (
    b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: %d\r\n\r\n" % len(ANSWER)
) + ANSWER.encode()
STREAM = b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n"


def chunk(value: object) -> bytes:
    data = b"data: " + (value if isinstance(value, bytes) else json.dumps(value).encode()) + b"\n\n"
    return b"%x\r\n%b\r\n" % (len(data), data)


END = (
    chunk(
        {"id": "c", "object": "chat.completion.chunk", "choices": [{"index": 0, "delta": {}, "finish_reason": "stop"}]}
    )
    + chunk({"id": "c", "choices": [], "usage": {"prompt_tokens": 60, "completion_tokens": 50, "total_tokens": 110}})
    + chunk(b"[DONE]")
    + b"0\r\n\r\n"
)


def request(port: int, *, stream: bool, prompt: str = "hello") -> bytes:
    body = json.dumps(
        {**json.loads(BODY), "stream": stream, "messages": [{"role": "user", "content": prompt}]}
    ).encode()
    head = f"POST /v1/chat/completions HTTP/1.1\r\nhost: 127.0.0.1:{port}\r\nauthorization: Bearer {KEY}\r\n"
    return f"{head}content-type: application/json\r\ncontent-length: {len(body)}\r\n\r\n".encode() + body


class Load:
    """The C program against one candidate."""

    def __init__(self, program: Path, directory: Path, name: str, port: int, prefix: list[str]) -> None:
        self._program, self._prefix, self._port = program, prefix, port
        self._files = {}
        for kind, data in (
            ("whole", request(port, stream=False)),
            ("stream", request(port, stream=True)),
            ("single", request(port, stream=True, prompt="just one")),
        ):
            self._files[kind] = directory / f"{name}.{kind}"
            self._files[kind].write_bytes(data)

    def _argv(self, what: str, kind: str, *words: object) -> list[str]:
        given = [self._program, what, self._port, self._files[kind], *words]
        return [*self._prefix, *map(str, given)]

    def _run(self, what: str, kind: str, *words: object) -> list[float]:
        done = subprocess.run(self._argv(what, kind, *words), check=True, stdout=subprocess.PIPE, text=True)
        return [float(line) for line in done.stdout.split()]

    def latencies(self, rate: float, seconds: float) -> list[float]:
        """Microseconds from when a request should have been sent to its answer; the first tenth warms up."""
        seen = self._run("load", "whole", rate, int(rate * seconds))
        return seen[len(seen) // 10 :]

    def first_events(self, count: int, pause_ms: float) -> list[float]:
        """Microseconds to the first event, one stream after the other; after a longer pause the caches are colder."""
        return self._run("first", "single", count, pause_ms)[count // 10 :]

    def streams(self) -> int:
        """32 streams at a model's pace; returns the events that arrived."""
        return int(self._run("streams", "stream", STREAMS)[0])

    def first_events_among_streams(self) -> list[float]:
        """As ``first_events``, while others flow."""
        with subprocess.Popen(self._argv("streams", "stream", STREAMS), stdout=subprocess.DEVNULL) as others:
            time.sleep(0.2)
            seen = self._run("first", "single", AMONG, 45)
            if others.poll() is not None:
                raise SystemExit("the other streams were over too soon")
        return seen


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


def build(directory: Path) -> Path:
    """The C program."""
    program = directory / "paced"
    source = Path(__file__).with_name("paced.c")
    subprocess.run(["gcc", "-O2", "-o", str(program), str(source)], check=True)
    return program


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--rate", type=float, default=200)
    parser.add_argument("--seconds", type=float, default=4, help="for which requests come, in a round")
    parser.add_argument("--pause", type=float, default=4, help="ms between streams whose first event is timed")
    parser.add_argument("--streams", type=int, default=200, help="streams a round whose first event is timed")
    parser.add_argument("--realtime", action="store_true")
    parser.add_argument("--awake", action="store_true")
    options = parser.parse_args()
    os.sched_setaffinity(0, {1})
    with tempfile.TemporaryDirectory() as name, contextlib.ExitStack() as stack:
        for core in (0, 1) if options.awake else ():
            stack.enter_context(spinning(core))
        directory = Path(name)
        program, up = build(directory), free_port()
        files = [directory / each for each in ("head-and-body", "head", "end")]
        for path, data in zip(files, (WHOLE, STREAM, END), strict=True):
            path.write_bytes(data)
        upstream, _ = stack.enter_context(
            running([str(program), "upstream", str(up), *map(str, files)], up, 1, directory, {})
        )
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
            for pid in (upstream, *pids.values()):
                realtime(pid)
        prefix = [*(("chrt", "-r", "1") if options.realtime else ()), "taskset", "-c", "1"]
        measure({each: Load(program, directory, each, port, prefix) for each, port in ports.items()}, pids, options)


def measure(loads: dict[str, Load], pids: dict[str, int], options: argparse.Namespace) -> None:
    """Every figure of every candidate in turn, ``rounds`` times."""
    late: dict[str, list[float]] = {each: [] for each in loads}
    late99: dict[str, list[float]] = {each: [] for each in loads}
    first: dict[str, list[float]] = {each: [] for each in loads}
    among: dict[str, list[float]] = {each: [] for each in loads}
    cpu: dict[str, list[float]] = {each: [] for each in pids}
    for load in loads.values():
        load.latencies(options.rate, 1)
        load.streams()
    for _ in range(options.rounds):
        for each, load in loads.items():
            seen = load.latencies(options.rate, options.seconds)
            late[each].append(middle(seen))
            late99[each].append(middle(seen, 0.99))
            first[each] += load.first_events(options.streams, options.pause)
            before = cpu_ns(pids[each]) if each in pids else 0
            arrived = load.streams()
            if arrived != STREAMS * EVENTS:
                raise SystemExit(f"{each}: {arrived} events arrived of {STREAMS * EVENTS}")
            if each in pids:
                cpu[each].append((cpu_ns(pids[each]) - before) / 1000 / arrived)
            among[each] += load.first_events_among_streams()
    base = statistics.median(late["nginx"])
    print(f"requests at {options.rate:g} a second, us (median of {options.rounds} rounds)")
    for each, values in late.items():
        p50 = statistics.median(values)
        print(f"  {each:8} p50 {p50:6.0f}  p99 {statistics.median(late99[each]):6.0f}  nginx {p50 - base:+6.0f}")
    first_event("one stream after the other", first)
    first_event(f"while {STREAMS} streams flow", among)
    print(f"CPU us an event, {STREAMS} streams, 50 events a second each")
    for each, values in cpu.items():
        ratio = statistics.median(values) / statistics.median(cpu["nginx"])
        print(
            f"  {each:8} {statistics.median(values):6.1f} [{min(values):.1f}..{max(values):.1f}]  {ratio:5.2f} x nginx"
        )


def first_event(how: str, times: dict[str, list[float]]) -> None:
    """A table of the times to the first event."""
    print(f"time to the first event, {how}, us")
    for each, values in times.items():
        added = middle(values) - middle(times["direct"])
        print(
            f"  {each:8} p50 {middle(values):6.0f}  p99 {middle(values, 0.99):6.0f}  max {max(values):6.0f}  direct {added:+6.0f}"
        )


if __name__ == "__main__":
    main()
