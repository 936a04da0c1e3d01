"""What llmops adds to an engine's own start: the same command started by hand and by ``llmops serve``, in turns.

    python benchmarks/serve/overhead.py MODEL [--engine vllm] [--rounds 3]

Prints seconds from launch to the first answered token of both, their difference, and the resident memory of llmops' own
processes (its own and the engine's guard) while it serves. Each round runs both, in turns first, so that a change of the
machine's load meets both. Exit code 1 when the median added is over 1 s or the memory over 60 MB.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import statistics
import subprocess
import sys
import tempfile
import time
import urllib.request
from pathlib import Path

import psutil

MOST_ADDED_S, MOST_MEMORY_MB = 1.0, 60.0
PROMPT = "The quick brown fox jumps over the lazy dog while the old clock in the hall strikes nine and the rain begins."


def plan(model: str, engine: str) -> dict:
    command = [sys.executable, "-m", "llmops", "serve", model, "--engine", engine, "--port", "0", "-n", "--json", "-q"]
    return json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout)["data"]


def answers(url: str, model: str) -> bool:
    body = json.dumps({"model": model, "prompt": PROMPT, "max_tokens": 1, "temperature": 0}).encode()
    request = urllib.request.Request(url + "/v1/completions", body, {"Content-Type": "application/json"})
    try:
        with urllib.request.urlopen(request, timeout=120) as answer:
            return answer.status == 200
    except OSError:
        return False


def by_hand(model: str, engine: str) -> float:
    decided = plan(model, engine)
    environment = os.environ | {name: value for name, value in decided["env"].items() if value is not None}
    began = time.monotonic()
    with tempfile.TemporaryFile() as log:
        process = subprocess.Popen(decided["argv"], env=environment, stdout=log, stderr=log, start_new_session=True)
        try:
            while not answers(decided["url"], decided["model"]):
                if process.poll() is not None:
                    raise SystemExit(f"the engine ended with {process.returncode}")
                time.sleep(0.1)
            return time.monotonic() - began
        finally:
            os.killpg(process.pid, signal.SIGTERM)
            process.wait()


def by_llmops(model: str, engine: str) -> tuple[float, float]:
    with tempfile.TemporaryDirectory() as scratch:
        ready = Path(scratch) / "ready.json"
        command = [sys.executable, "-m", "llmops", "serve", model, "--engine", engine, "--port", "0", "--quiet"]
        began = time.monotonic()
        process = subprocess.Popen([*command, "--ready-file", str(ready)], stdout=subprocess.DEVNULL)
        try:
            while not ready.exists():
                if process.poll() is not None:
                    raise SystemExit(f"llmops ended with {process.returncode}")
                time.sleep(0.05)
            took = time.monotonic() - began
            own = psutil.Process(process.pid)
            guards = own.children()  # the engine is theirs
            return took, sum(each.memory_info().rss for each in (own, *guards)) / 1e6
        finally:
            process.terminate()
            process.wait()


def main() -> int:
    parser = argparse.ArgumentParser()
    parser.add_argument("model")
    parser.add_argument("--engine", default="auto")
    parser.add_argument("--rounds", type=int, default=3)
    options = parser.parse_args()
    hand, ours, memory = [], [], []
    for number in range(options.rounds):
        if number % 2 == 0:
            hand.append(by_hand(options.model, options.engine))
        took, rss_mb = by_llmops(options.model, options.engine)
        if number % 2:
            hand.append(by_hand(options.model, options.engine))
        ours.append(took)
        memory.append(rss_mb)
        print(f"round {number + 1}: by hand {hand[-1]:.2f} s, llmops {took:.2f} s, llmops itself {rss_mb:.0f} MB")
    added = statistics.median(b - a for a, b in zip(hand, ours, strict=True))
    print(f"median added: {added:+.2f} s (by hand {statistics.median(hand):.2f} s), {max(memory):.0f} MB")
    return 1 if added > MOST_ADDED_S or max(memory) > MOST_MEMORY_MB else 0


if __name__ == "__main__":
    raise SystemExit(main())
