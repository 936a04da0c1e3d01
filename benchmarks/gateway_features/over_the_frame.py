"""CPU a request that keys, limits, budgets, guards and the ledger add to the bare gateway, beside nginx; one run.

    python benchmarks/gateway_features/over_the_frame.py [--rounds 7] [--seconds 3] [--stream] [--litellm COMMAND]

Each form of the gateway stands before the same nginx on the same core, in turn; CPU time is the scheduler's count of the
whole process tree, the ledger's thread included. ``frame`` has no callers, no limits, no books, no guard.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import statistics
import sys
import tempfile
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent.parent / "gateway"))

from bench_parts import ANSWER, BODY, EVENTS, KEY, LUA, candidates, cpu_ns, events, free_port, installed, nginx, running
from compare import load, warm

from llmops.gateway.access.callers import CallerDatabase, CallerLimits

FRAME = """
listen: {{port: {port}}}
providers: {{up: {{base_url: "http://127.0.0.1:{up}/v1", prices_as: openai}}}}
routes: [{{match: bench, targets: [{{provider: up, model: gpt-4o}}]}}]
"""
KEYS = "access: {{callers: callers.sqlite}}\n"
MONEY = """
money:
  directory: books-{port}
  max_spool_mib: 4096
  budgets:
    - {{name: key, usd: 900000, each: [key]}}
    - {{name: tenant, usd: 900000, each: [tenant], period: day, time_zone: Asia/Tokyo}}
"""
LEDGER = "money: {{directory: books-{port}, max_spool_mib: 4096}}\n"
GUARD = "guard: {{secrets_in: log, secrets_out: log, injection: log}}\n"
FORMS = {
    "frame": FRAME,
    "keys and limits": FRAME + KEYS,
    "ledger": FRAME + LEDGER,
    "guards": FRAME + GUARD,
    "everything": FRAME + KEYS + MONEY + GUARD,
}


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--seconds", type=int, default=3)
    parser.add_argument("--connections", type=int, default=64)
    parser.add_argument("--only", default=",".join(FORMS), help="forms to measure; the frame is one of them")
    parser.add_argument("--stream", action="store_true", help="a burst of 500 events an answer; CPU is per event")
    parser.add_argument("--litellm", help="the command of LiteLLM's proxy: with its key and its count of spending")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as name, contextlib.ExitStack() as stack:
        measure(options, Path(name), stack)


def measure(options: argparse.Namespace, directory: Path, stack: contextlib.ExitStack) -> None:
    up = free_port()
    answer = f"location / {{ default_type application/json; return 200 '{ANSWER}'; }}"
    body = BODY
    if options.stream:
        body = json.dumps({**json.loads(BODY), "stream": True})
        (directory / "answer.sse").write_text(events())
        answer = (
            f"types {{ text/event-stream sse; }} location = /answer.sse {{ root {directory}; }} "
            "location / { error_page 418 =200 /answer.sse; return 418; }"
        )
    stack.enter_context(running(nginx("up", up, directory, answer), up, 1, directory, {}))
    limits = CallerLimits(100_000_000, 100_000_000_000, 100_000)
    with CallerDatabase(directory / "callers.sqlite", create=True) as database:
        key = database.add("ci", tenant="acme", team="search", limits=limits)
    script = directory / "load.lua"
    script.write_text(LUA.format(body=body, key=key))
    proxy = candidates(up, directory)["nginx"]()
    started = {"nginx": (stack.enter_context(running(proxy.argv, proxy.port, 0, directory, {}))[0], proxy.port)}
    for number, (form, text) in enumerate(FORMS.items()):
        if form not in options.only.split(","):
            continue
        port = free_port()
        (directory / f"{number}.yaml").write_text(text.format(port=port, up=up))
        argv = [sys.executable, "-m", "llmops", "gateway", "run", "-c", f"{number}.yaml"]
        pid, _ = stack.enter_context(running(argv, port, 0, directory, installed()))
        warm(port, script, time.monotonic())
        started[form] = (pid, port)
    scripts = dict.fromkeys(started, script)
    if options.litellm:
        rival = candidates(up, directory, litellm=options.litellm, spend=True)["litellm"]()
        scripts["litellm"] = directory / "rival.lua"
        scripts["litellm"].write_text(LUA.format(body=body, key=KEY))
        pid, _ = stack.enter_context(running(rival.argv, rival.port, 0, directory, {}, wait_s=rival.wait_s))
        warm(rival.port, scripts["litellm"], time.monotonic())
        started["litellm"] = (pid, rival.port)
    table: dict[str, list[float]] = {form: [] for form in started}
    per = EVENTS if options.stream else 1
    for _ in range(options.rounds):
        for form, (pid, port) in started.items():
            before = cpu_ns(pid)
            done = load(port, options.seconds, options.connections, scripts[form])
            table[form].append((cpu_ns(pid) - before) / 1000 / done / per)
    base = statistics.median(table["nginx"])
    for form, values in table.items():
        middle = statistics.median(values)
        added = statistics.median(a - b for a, b in zip(values, table["frame"], strict=True))
        over = f"{added:+7.2f} over the frame" if form not in ("nginx", "frame", "litellm") else ""
        if form == "litellm" and "everything" in table:
            over = f"{middle / statistics.median(table['everything']):.0f} x everything"
        unit = "event" if options.stream else "request"
        print(
            f"{form:16} {middle:8.2f} us CPU/{unit} [{min(values):.2f}..{max(values):.2f}] {middle / base:6.2f} x nginx {over}"
        )


if __name__ == "__main__":
    main()
