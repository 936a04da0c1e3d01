"""Starts the truth server, runs ``llmops bench`` against it as a user does, and reads both sides."""

from __future__ import annotations

import atexit
import contextlib
import json
import math
import os
import subprocess
import sys
import urllib.request
from pathlib import Path

HERE = Path(__file__).parent


class Truth:
    """A running truth server."""

    def __init__(self, process: subprocess.Popen, port: int) -> None:
        self.process = process
        self.url = f"http://127.0.0.1:{port}"

    def log(self) -> dict:
        with urllib.request.urlopen(self.url + "/log", timeout=30) as answer:
            return json.load(answer)

    def requests(self) -> list[dict]:
        return self.log()["requests"]


@contextlib.contextmanager
def truth(**config):
    """A truth server with ``config``, ended with the block."""
    server = _IDLE.pop() if _IDLE else _start()
    request = urllib.request.Request(server.url + "/config", json.dumps(config).encode(), method="POST")
    urllib.request.urlopen(request, timeout=30).close()
    try:
        yield server
    finally:
        if server.process.poll() is None:
            _IDLE.append(server)


_IDLE: list[Truth] = []


def _start() -> Truth:
    process = subprocess.Popen([sys.executable, str(HERE / "truth_server.py")], stdout=subprocess.PIPE, text=True)
    atexit.register(_end, process)
    return Truth(process, int(process.stdout.readline()))


def _end(process: subprocess.Popen) -> None:
    process.kill()
    process.wait()
    process.stdout.close()


def bench(
    url: str, *options: str, env: dict | None = None, check: int | None = 0
) -> tuple[dict, subprocess.CompletedProcess]:
    """Run ``llmops bench URL … --json``; returns the whole document and the process.

    A run on a busy machine may be INVALID, which without gates is exit 6; what is tested here is mostly something else.
    """
    done = subprocess.run(
        [sys.executable, "-m", "llmops", "bench", url, *options, "--json", "--allow-invalid"],
        capture_output=True,
        text=True,
        timeout=300,
        env={**os.environ, **(env or {})},
    )
    if check is not None:
        assert done.returncode == check, (done.returncode, done.stderr, done.stdout[-2000:])
    return json.loads(done.stdout), done


def measure(url: str, **options) -> dict:
    """The same in this process, where a test needs no command line; returns the JSON data."""
    import msgspec

    from llmops.bench import bench as measure_endpoint
    from llmops.bench import bench_spec
    from llmops.progress import Silent
    from llmops.report import files

    report = measure_endpoint(bench_spec(url=url, **options), Silent())
    return msgspec.json.decode(files.envelope("bench", report))["data"]


def valid_run(attempt, tries=8):
    """The first of a few attempts that the client itself calls valid.

    None is a failure, not a skip: a client that calls every run invalid would look the same as a busy machine.
    """
    import pytest

    reasons = []
    for _ in range(tries):
        data, requests = attempt()
        reasons = data["validity"]["reasons"]
        if not reasons:
            return data, requests
    return pytest.fail(f"every one of {tries} runs was INVALID: {reasons[0]}")


def percentile(values, share):
    ordered = sorted(values)
    return ordered[max(0, math.ceil(share * len(ordered) - 1e-9) - 1)]


def true_ttft(requests):
    return [(row["sent_ns"][0] - row["recv_ns"]) / 1e6 for row in requests if row["sent_ns"]]


def true_e2e(requests):
    return [(row["sent_ns"][-1] - row["recv_ns"]) / 1e6 for row in requests if row["sent_ns"]]


def true_gaps(requests):
    return [(b - a) / 1e6 for row in requests for a, b in zip(row["sent_ns"], row["sent_ns"][1:], strict=False)]
