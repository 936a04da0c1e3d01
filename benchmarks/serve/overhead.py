"""What llmops adds to an engine's own start: the same command started by hand and by ``llmops serve``, in turns.

    python benchmarks/serve/overhead.py MODEL [--engine vllm] [--rounds 3]

Prints seconds from launch to the first answered token of both, their difference, and the resident memory of llmops' own
processes (its own and the engine's guard) while it serves. Each round runs both, in turns first, so that a change of the
machine's load meets both.

An engine's start varies by seconds from one to the next, so the difference of two starts says little about one second.
What llmops itself does is measured within its own start as well: from its launch to the engine's launch, and from the
engine's health to ready, less the same by hand. Exit code 1 when the median of that is over 1 s or the memory over 60 MB.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import socket
import statistics
import subprocess
import sys
import tempfile
import time
import urllib.request
from dataclasses import dataclass
from pathlib import Path

import psutil

MOST_ADDED_S, MOST_MEMORY_MB = 1.0, 60.0
POLL_S = 0.02
PROMPT = "The quick brown fox jumps over the lazy dog while the old clock in the hall strikes nine and the rain begins."


def plan(model: str, engine: str) -> dict:
    command = [sys.executable, "-m", "llmops", "serve", model, "--engine", engine, "--port", "0", "-n", "--json", "-q"]
    return json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout)["data"]


@dataclass(frozen=True)
class Start:
    """One start, in seconds; ``before`` and ``memory_mb`` only of llmops."""

    took: float
    after_health: float
    before: float = 0.0
    memory_mb: float = 0.0


def answers(url: str, path: str, body: dict | None = None) -> bool:
    data = json.dumps(body).encode() if body else None
    request = urllib.request.Request(url + path, data, {"Content-Type": "application/json"})
    try:
        with urllib.request.urlopen(request, timeout=120) as answer:
            return answer.status == 200
    except OSError:
        return False


def healthy_at(url: str, process: subprocess.Popen) -> float:
    while not answers(url, "/health"):
        if process.poll() is not None:
            raise SystemExit(f"it ended with {process.returncode}")
        time.sleep(POLL_S)
    return time.monotonic()


def by_hand(model: str, engine: str) -> Start:
    decided = plan(model, engine)
    environment = os.environ | {name: value for name, value in decided["env"].items() if value is not None}
    question = {"model": decided["model"], "prompt": PROMPT, "max_tokens": 1, "temperature": 0}
    began = time.monotonic()
    with tempfile.TemporaryFile() as log:
        process = subprocess.Popen(decided["argv"], env=environment, stdout=log, stderr=log, start_new_session=True)
        try:
            healthy = healthy_at(decided["url"], process)
            while not answers(decided["url"], "/v1/completions", question):
                time.sleep(POLL_S)
            answered = time.monotonic()
            return Start(answered - began, answered - healthy)
        finally:
            os.killpg(process.pid, signal.SIGTERM)
            process.wait()


def by_llmops(model: str, engine: str) -> Start:
    port = free_port()
    with tempfile.TemporaryDirectory() as scratch:
        ready = Path(scratch) / "ready.json"
        command = [sys.executable, "-m", "llmops", "serve", model, "--engine", engine, "--port", str(port), "--quiet"]
        began = time.monotonic()
        process = subprocess.Popen([*command, "--ready-file", str(ready)], stdout=subprocess.DEVNULL)
        try:
            healthy = healthy_at(f"http://127.0.0.1:{port}", process)
            while not ready.exists():
                if process.poll() is not None:
                    raise SystemExit(f"llmops ended with {process.returncode}")
                time.sleep(POLL_S)
            answered = time.monotonic()
            own = psutil.Process(process.pid)
            guards = own.children()  # the engine is theirs
            before = guards[0].children()[0].create_time() - own.create_time()  # of one clock
            memory_mb = sum(each.memory_info().rss for each in (own, *guards)) / 1e6
            return Start(answered - began, answered - healthy, before, memory_mb)
        finally:
            process.terminate()
            process.wait()


def free_port() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return free.getsockname()[1]


def main() -> int:
    parser = argparse.ArgumentParser()
    parser.add_argument("model")
    parser.add_argument("--engine", default="auto")
    parser.add_argument("--rounds", type=int, default=3)
    options = parser.parse_args()
    hand, ours = [], []
    for number in range(options.rounds):
        if number % 2 == 0:
            hand.append(by_hand(options.model, options.engine))
        ours.append(by_llmops(options.model, options.engine))
        if number % 2:
            hand.append(by_hand(options.model, options.engine))
        one, by = ours[-1], hand[-1]
        print(
            f"round {number + 1}: by hand {by.took:.2f} s, llmops {one.took:.2f} s; before the engine {one.before:.2f} s, "
            f"from health to ready {one.after_health:.2f} s (by hand {by.after_health:.2f} s); {one.memory_mb:.0f} MB",
            flush=True,
        )
    pairs = list(zip(hand, ours, strict=True))
    added = statistics.median(b.took - a.took for a, b in pairs)
    own = statistics.median(b.before + b.after_health - a.after_health for a, b in pairs)
    memory = max(one.memory_mb for one in ours)
    by = statistics.median(one.took for one in hand)
    print(f"median: llmops itself {own:+.2f} s, starts differ by {added:+.2f} s (by hand {by:.2f} s), {memory:.0f} MB")
    return 1 if own > MOST_ADDED_S or memory > MOST_MEMORY_MB else 0


if __name__ == "__main__":
    raise SystemExit(main())
