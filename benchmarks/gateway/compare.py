"""CPU a request of gateways against nginx, on one machine, interleaved: read the ratios, not the microseconds.

    python benchmarks/gateway/compare.py [--rounds 5] [--seconds 4] [--only nginx,llmops]

Needs nginx and wrk. Each candidate proxies to the same nginx that answers with a constant chat completion; the candidate
is pinned to one core, load and upstream to another. CPU time is the scheduler's own count of the whole process tree
(``/proc/PID/task/*/schedstat``), so noise of other processes hardly counts.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import re
import shutil
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

ANSWER = json.dumps(
    {
        "id": "chatcmpl-1",
        "object": "chat.completion",
        "created": 1700000000,
        "model": "bench",
        "choices": [
            {
                "index": 0,
                "message": {"role": "assistant", "content": "word " * 50},
                "logprobs": None,
                "finish_reason": "stop",
            }
        ],
        "usage": {"prompt_tokens": 60, "completion_tokens": 50, "total_tokens": 110},
    }
)
BODY = json.dumps(
    {
        "model": "bench",
        "messages": [{"role": "system", "content": "You are helpful."}, {"role": "user", "content": "hello " * 50}],
        "max_tokens": 50,
        "temperature": 0.7,
    }
)
LUA = """
wrk.method = "POST"
wrk.body = [==[{body}]==]
wrk.headers["content-type"] = "application/json"
wrk.headers["authorization"] = "Bearer {key}"
"""
KEY = "sk-bench-0123456789abcdef"
NGINX = """
user root; worker_processes 1; daemon off; pid {dir}/{name}.pid; error_log {dir}/{name}.log;
events {{ worker_connections 4096; }}
http {{
  access_log off; client_body_temp_path {dir}/{name}-body; proxy_temp_path {dir}/{name}-proxy;
  fastcgi_temp_path {dir}/f; uwsgi_temp_path {dir}/u; scgi_temp_path {dir}/s;
  keepalive_requests 100000000; client_max_body_size 64m;
  {http}
  server {{ listen 127.0.0.1:{port} backlog=2048; {server} }}
}}
"""
CONFIG = """
listen: {{port: {port}}}
keys: [{{name: bench, env: BENCH_KEY, limits: {{requests_per_minute: 100000000, tokens_per_minute: 100000000000, concurrent: 100000}}}}]
providers: {{up: {{base_url: "http://127.0.0.1:{upstream}/v1", prices_as: openai}}}}
routes: [{{match: bench, targets: [{{provider: up, model: gpt-4o}}]}}]
access_log: access.jsonl
"""


EVENTS = 500


def events() -> str:
    """A whole stream of so many tokens."""
    row = {"id": "c", "object": "chat.completion.chunk", "created": 1, "model": "bench"}

    def event(choices: list[dict], **more: object) -> str:
        return "data: " + json.dumps({**row, "choices": choices, **more}) + "\n\n"

    words = "".join(
        event([{"index": 0, "delta": {"content": f"word{n} "}, "finish_reason": None}]) for n in range(EVENTS)
    )
    last = event([{"index": 0, "delta": {}, "finish_reason": "stop"}])
    usage = event([], usage={"prompt_tokens": 60, "completion_tokens": EVENTS, "total_tokens": 60 + EVENTS})
    return words + last + usage + "data: [DONE]\n\n"


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def tree(pid: int) -> list[int]:
    """A process and all its descendants."""
    pids = [pid]
    for each in pids:
        for task in Path(f"/proc/{each}/task").iterdir():
            with contextlib.suppress(OSError):
                pids += [int(child) for child in (task / "children").read_text().split()]
    return pids


def cpu_ns(pid: int) -> int:
    """CPU time of a process tree, from the scheduler."""
    total = 0
    for each in tree(pid):
        for path in Path(f"/proc/{each}/task").glob("*/schedstat"):
            with contextlib.suppress(OSError):
                total += int(path.read_text().split()[0])
    return total


def rss_mib(pid: int) -> float:
    """Resident memory of a process tree."""
    total = 0
    for each in tree(pid):
        with contextlib.suppress(OSError):
            total += int(re.search(r"VmRSS:\s+(\d+)", Path(f"/proc/{each}/status").read_text())[1])
    return total / 1024


@contextlib.contextmanager
def running(argv: list[str], port: int, core: int, directory: Path, env: dict[str, str]) -> Iterator[tuple[int, float]]:
    """A server on a core; yields its pid and the seconds until it answered."""
    began = time.monotonic()
    with (directory / f"{Path(argv[0]).name}-{port}.out").open("w") as log:
        process = subprocess.Popen(
            ["taskset", "-c", str(core), *argv], stdout=log, stderr=log, cwd=directory, env={**os.environ, **env}
        )
    try:
        while True:
            try:
                socket.create_connection(("127.0.0.1", port), timeout=1).close()
                break
            except OSError:
                if process.poll() is not None or time.monotonic() - began > 60:
                    raise SystemExit(f"{argv[0]} did not start; see {log.name}") from None
                time.sleep(0.01)
        yield process.pid, time.monotonic() - began
    finally:
        process.terminate()
        process.wait(20)


def nginx(name: str, port: int, directory: Path, server: str, http: str = "") -> list[str]:
    conf = directory / f"{name}.conf"
    conf.write_text(NGINX.format(dir=directory, name=name, port=port, server=server, http=http))
    return [shutil.which("nginx") or "/usr/sbin/nginx", "-c", str(conf), "-p", str(directory)]


def load(port: int, seconds: float, connections: int, script: Path) -> int:
    """Run wrk; returns the number of good answers."""
    out = subprocess.run(
        ["taskset", "-c", "1", "wrk", "-t1", f"-c{connections}", f"-d{seconds}s", "-s", str(script),
         f"http://127.0.0.1:{port}/v1/chat/completions"],
        capture_output=True, text=True, check=True,
    ).stdout  # fmt: skip
    if "Non-2xx" in out:
        raise SystemExit(out)
    return int(re.search(r"(\d+) requests in", out)[1])


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=int, default=4)
    parser.add_argument("--connections", type=int, default=64)
    parser.add_argument("--stream", action="store_true", help="a burst of 500 events an answer; CPU is per event")
    parser.add_argument("--only", default="nginx,llmops")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as name, contextlib.ExitStack() as stack:
        directory = Path(name)
        up, proxy, own = free_port(), free_port(), free_port()
        script = directory / "load.lua"
        body = json.dumps({**json.loads(BODY), "stream": True}) if options.stream else BODY
        script.write_text(LUA.format(body=body, key=KEY))
        answer = f"location / {{ default_type application/json; return 200 '{ANSWER}'; }}"
        if options.stream:
            (directory / "answer.sse").write_text(events())
            answer = (
                "types { text/event-stream sse; } location = /answer.sse { root " + name + "; } "
                "location / { error_page 418 =200 /answer.sse; return 418; }"
            )
        stack.enter_context(running(nginx("up", up, directory, answer), up, 1, directory, {}))
        keep = f"upstream up {{ server 127.0.0.1:{up}; keepalive 256; keepalive_requests 100000000; }}"
        forward = 'location / { proxy_pass http://up; proxy_http_version 1.1; proxy_set_header Connection ""; }'
        (directory / "gateway.yaml").write_text(CONFIG.format(port=own, upstream=up))
        commands = {
            "nginx": (nginx("proxy", proxy, directory, forward, keep), proxy),
            "llmops": ([sys.executable, "-m", "llmops", "gateway", "run", "-c", "gateway.yaml"], own),
        }
        pids = {}
        for candidate in options.only.split(","):
            argv, port = commands[candidate]
            env = {"BENCH_KEY": KEY}
            pid, ready = stack.enter_context(running(argv, port, 0, directory, env))
            pids[candidate] = (pid, port)
            load(port, 1, 8, script)
            print(f"{candidate}: ready after {ready:.2f} s, {rss_mib(pid):.0f} MiB")
        table: dict[str, list[float]] = {candidate: [] for candidate in pids}
        for _ in range(options.rounds):
            for candidate, (pid, port) in pids.items():
                before = cpu_ns(pid)
                done = load(port, options.seconds, options.connections, script)
                table[candidate].append((cpu_ns(pid) - before) / 1000 / done / (EVENTS if options.stream else 1))
        unit = "event" if options.stream else "request"
        base = statistics.median(table["nginx"]) if "nginx" in table else None
        for candidate, values in table.items():
            middle = statistics.median(values)
            ratio = f"{middle / base:5.2f} x nginx" if base else ""
            span = f"[{min(values):.2f}..{max(values):.2f}]"
            print(f"{candidate:8} {middle:7.2f} us CPU/{unit} {span} {ratio}  {rss_mib(pids[candidate][0]):.0f} MiB")


if __name__ == "__main__":
    main()
