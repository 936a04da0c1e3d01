"""``llmops serve --engine triton`` as a process."""

import json
import os
import re
import signal
import subprocess
import sys
import time
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import httpx

DEADLINE_S = 240


@dataclass
class Serving:
    """The process, and what its ready file said (empty when it ended before)."""

    process: subprocess.Popen
    ready: dict
    stderr: Path

    def post(self, path, **body):
        return httpx.post(self.ready["url"] + path, json=body, timeout=240)

    def metric(self, name, model):
        text = httpx.get(self.ready["metrics_url"], timeout=30).text
        found = re.search(rf'^{name}{{model="{model}",version="1"}} (\S+)', text, re.MULTILINE)
        return float(found[1]) if found else 0.0

    def ended(self):
        """Exit code and the JSON document, of a server that ends by itself."""
        out, _ = self.process.communicate(timeout=90)
        return self.process.returncode, json.loads(out)

    def stop(self):
        """The same after SIGTERM."""
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)
        return self.ended()


PORTS = ("--port", "0", "--grpc-port", "0", "--metrics-port", "0")


def start(directory, *args, ports=PORTS, extra=()):
    """Begin to serve; waits for the ready file or the end. ``extra`` goes to the server itself."""
    ready, errors = directory / "ready.json", directory / "stderr"
    argv = [sys.executable, "-m", "llmops", "serve", *args, "--engine", "triton", *ports, "--json",
            "--ready-file", ready, "--log", directory / "triton.log", *(["--", *extra] if extra else [])]  # fmt: skip
    env = {
        name: value
        for name, value in os.environ.items()
        if not name.startswith("LLMOPS_") or name == "LLMOPS_ENGINES_DIR"
    }
    with errors.open("w") as stream:
        process = subprocess.Popen(list(map(str, argv)), stdout=subprocess.PIPE, stderr=stream, text=True, env=env)
    deadline = time.monotonic() + DEADLINE_S
    while not ready.is_file():
        if process.poll() is not None or time.monotonic() > deadline:
            return Serving(process, {}, errors)
        time.sleep(0.1)
    return Serving(process, json.loads(ready.read_text()), errors)


@contextmanager
def running(directory, *args):
    """A server that must become ready, stopped at the end."""
    found = start(directory, *args)
    try:
        assert found.ready, found.stderr.read_text()
        yield found
    finally:
        if found.process.poll() is None:
            found.stop()
