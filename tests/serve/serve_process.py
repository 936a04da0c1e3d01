"""``llmops serve`` as a user runs it: a process with a ready file, whose whole tree can be looked for afterwards."""

import contextlib
import json
import os
import signal
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path

import psutil


def until(condition, seconds=30.0):
    """Poll a condition; the deadline only matters when the test fails."""
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "condition not met in time"
        time.sleep(0.02)


@dataclass
class Served:
    process: subprocess.Popen
    url: str
    model: str
    log: Path
    errors: Path
    tree: list[psutil.Process]

    @property
    def children(self) -> list[psutil.Process]:
        """Every process that serving started; the first is the guard."""
        return self.tree

    def engine(self) -> psutil.Process:
        """The engine's own process: the guard's child."""
        return self.tree[0].children()[0]

    def nothing_left(self, seconds=30.0) -> None:
        until(lambda: not any(alive(child) for child in self.tree), seconds)

    def stop(self, signum=signal.SIGINT, seconds=40) -> int:
        self.process.send_signal(signum)
        return self.process.wait(seconds)

    def stderr(self) -> str:
        return self.errors.read_text()


def alive(process: psutil.Process) -> bool:
    try:
        return process.is_running() and process.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def environment(state: Path, **more) -> dict[str, str]:
    kept = {k: v for k, v in os.environ.items() if not k.startswith("LLMOPS_") or k == "LLMOPS_ENGINES_DIR"}
    return kept | {"NO_COLOR": "1", "LLMOPS_STATE_DIR": str(state), **more}


@contextlib.contextmanager
def serving(tmp: Path, *args, seconds=120, env=None, **popen):
    """Start, wait for the ready file, and make sure at the end that nothing is left even when a test fails."""
    ready, errors = tmp / "ready.json", tmp / "stderr.txt"
    ready.unlink(missing_ok=True)
    words = list(map(str, args))
    at = words.index("--") if "--" in words else len(words)
    words[at:at] = ["--port", "0", "--ready-file", str(ready)]
    command = [sys.executable, "-m", "llmops", "serve", *words]
    popen = {"stdin": subprocess.DEVNULL, "stdout": subprocess.DEVNULL} | popen
    with errors.open("wb") as stderr:
        popen.setdefault("stderr", stderr)
        process = subprocess.Popen(command, env=environment(tmp / "state", **(env or {})), **popen)
    try:
        deadline = time.monotonic() + seconds
        while not ready.exists():
            assert process.poll() is None, errors.read_text()
            assert time.monotonic() < deadline, f"not ready: {errors.read_text()}"
            time.sleep(0.05)
        told = json.loads(ready.read_text())
        tree = psutil.Process(process.pid).children(recursive=True)
        yield Served(process, told["url"], told["model"], Path(told["log"]), errors, tree)
    finally:
        if process.poll() is None:
            process.terminate()
            try:
                process.wait(40)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
