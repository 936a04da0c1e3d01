"""CPU a request of gateways against nginx, on one machine, interleaved: read the ratios, not the microseconds.

    python benchmarks/gateway/compare.py [--rounds 5] [--seconds 4] [--only nginx,llmops]
        [--litellm /path/to/venv/bin/litellm] [--portkey "node /path/to/build/start-server.js"]

Needs nginx and wrk. Each candidate stands before the same nginx, which answers with a constant chat completion; the
candidate is pinned to one core, load and upstream to another. CPU time is the scheduler's own count of the whole process
tree (``/proc/PID/task/*/schedstat``), so other processes hardly count. Throughput of a core is its reciprocal.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import re
import statistics
import subprocess
import tempfile
import time
from pathlib import Path

from bench_parts import (
    ANSWER,
    BODY,
    EVENTS,
    KEY,
    LUA,
    candidates,
    cpu_ns,
    events,
    free_port,
    nginx,
    rss_mib,
    running,
)


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
    parser.add_argument("--litellm", help="the command of LiteLLM's proxy")
    parser.add_argument("--portkey", help="the command of Portkey's gateway")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as name, contextlib.ExitStack() as stack:
        directory = Path(name)
        up = free_port()
        answer = f"location / {{ default_type application/json; return 200 '{ANSWER}'; }}"
        if options.stream:
            (directory / "answer.sse").write_text(events())
            answer = (
                "types { text/event-stream sse; } location = /answer.sse { root " + name + "; } "
                "location / { error_page 418 =200 /answer.sse; return 418; }"
            )
        stack.enter_context(running(nginx("up", up, directory, answer), up, 1, directory, {}))
        made = candidates(up, directory, litellm=options.litellm, portkey=options.portkey)
        wanted = options.only.split(",") + [each for each in ("litellm", "portkey") if getattr(options, each)]
        pids = {}
        for each in dict.fromkeys(wanted):
            candidate = made[each]()
            script = directory / f"{each}.lua"
            body = json.dumps({**json.loads(BODY), "stream": True}) if options.stream else BODY
            script.write_text(LUA.format(body=body, key=KEY) + headers_of(candidate.headers))
            env = {"BENCH_KEY": KEY, **candidate.env}
            began = time.monotonic()
            pid, ready = stack.enter_context(
                running(candidate.argv, candidate.port, 0, directory, env, wait_s=candidate.wait_s)
            )
            warm(candidate.port, script, began)
            pids[each] = (pid, candidate.port, script)
            print(f"{each}: ready after {ready:.2f} s, {rss_mib(pid):.0f} MiB", flush=True)
        table: dict[str, list[float]] = {each: [] for each in pids}
        for _ in range(options.rounds):
            for each, (pid, port, script) in pids.items():
                before = cpu_ns(pid)
                done = load(port, options.seconds, options.connections, script)
                table[each].append((cpu_ns(pid) - before) / 1000 / done / (EVENTS if options.stream else 1))
        unit = "event" if options.stream else "request"
        middles = {each: statistics.median(values) for each, values in table.items()}
        for each, values in table.items():
            ratio = f"{middles[each] / middles['nginx']:8.2f} x nginx" if "nginx" in middles else ""
            own = f"{middles[each] / middles['llmops']:8.2f} x llmops" if "llmops" in middles else ""
            span = f"[{min(values):.2f}..{max(values):.2f}]"
            print(f"{each:8} {middles[each]:9.2f} us CPU/{unit} {span} {ratio} {own}  {rss_mib(pids[each][0]):.0f} MiB")


def headers_of(headers: dict[str, str]) -> str:
    """Lua lines that set headers."""
    return "".join(f'wrk.headers["{name}"] = "{value}"\n' for name, value in headers.items())


def warm(port: int, script: Path, began: float) -> None:
    """Ask until good answers come: some take their connections long before they can answer."""
    while True:
        with contextlib.suppress(SystemExit, subprocess.CalledProcessError):
            if load(port, 1, 8, script) > 0:
                return
        if time.monotonic() - began > 240:
            raise SystemExit(f"the candidate on port {port} gives no good answer")
        time.sleep(0.5)


if __name__ == "__main__":
    main()
