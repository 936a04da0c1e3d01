"""Several workers on one port: started, watched, started again, and stopped together.

The kernel spreads connections over the workers (SO_REUSEPORT). They share a private directory: counters for ``/metrics``,
the rate limits, and the stamp that tells them to read the config again.
"""

from __future__ import annotations

import contextlib
import shutil
import signal
import socket
import sys
import tempfile
import threading
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import msgspec

from llmops.errors import MachineError
from llmops.gateway.config import Gateway
from llmops.gateway.server import ServedReport
from llmops.process import Child, Command, start

if TYPE_CHECKING:
    from llmops.gateway.launch import RunSpec
    from llmops.progress import Progress

RELOAD: Final = "reload"
_READY_S: Final = 30.0
_QUICK_S: Final = 5.0


def run_workers(config: Gateway, spec: RunSpec, progress: Progress) -> ServedReport:
    """Run the workers until a signal.

    Raises:
        MachineError: The port is taken, or the workers do not come up.
    """
    host = config.listen.host
    held = _reserve(host, config.listen.port)
    port = held.getsockname()[1]
    directory = Path(tempfile.mkdtemp(prefix="llmops-gateway-"))
    began = time.monotonic()
    supervisor = _Supervisor(config, spec, port, directory)
    try:
        supervisor.start_all()
        shown = f"[{host}]" if ":" in host else host
        progress.phase(f"gateway ready on http://{shown}:{port} with {config.listen.workers} workers")
        supervisor.watch()
        supervisor.stop_all()
        return ServedReport(f"http://{shown}:{port}", supervisor.requests(), time.monotonic() - began)
    finally:
        supervisor.stop_all()
        held.close()
        shutil.rmtree(directory, ignore_errors=True)


def _reserve(host: str, port: int) -> socket.socket:
    """Hold the port without listening, so that it stays ours while workers come and go."""
    made = socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET, socket.SOCK_STREAM)
    try:
        # Without SO_REUSEPORT first: with it, a port that someone else shares in the same way would look free.
        with socket.socket(made.family, socket.SOCK_STREAM) as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind((host.strip("[]"), port))
        made.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        made.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        made.bind((host.strip("[]"), port))
    except OSError as error:
        made.close()
        hint = f"another port: --port {port + 1}"
        raise MachineError(f"cannot listen on {host}:{port}: {error.strerror}", hint) from error
    return made


class _Supervisor:
    """The parent's view of its workers."""

    def __init__(self, config: Gateway, spec: RunSpec, port: int, directory: Path) -> None:
        self._config = config
        self._spec = spec
        self._port = port
        self._directory = directory
        self._children: dict[int, tuple[Child, float]] = {}
        self._generation = 0
        self._stopping = threading.Event()

    def start_all(self) -> None:
        """Start every worker and wait until all have reported, or a signal ends it all.

        The first worker answers while the others still start, so from here on a signal means an end in good order.
        """
        for each in (signal.SIGTERM, signal.SIGINT):
            signal.signal(each, lambda *_: self._stopping.set())
        signal.signal(signal.SIGHUP, lambda *_: (self._directory / RELOAD).write_text(str(time.time_ns())))
        for index in range(self._config.listen.workers):
            self._start(index)
        deadline = time.monotonic() + _READY_S
        while len(list(self._directory.glob("*.json"))) < self._config.listen.workers and not self._stopping.is_set():
            dead = [child for child, _ in self._children.values() if child.returncode is not None]
            if dead or time.monotonic() > deadline:
                self.stop_all()
                raise MachineError("a gateway worker did not start", "its message is above; try --workers 1")
            time.sleep(0.02)

    def watch(self) -> None:
        """Start again what dies, until SIGTERM or SIGINT; SIGHUP makes the workers read the config again."""
        while not self._stopping.wait(0.1):
            for index, (child, since) in list(self._children.items()):
                if child.returncode is None:
                    continue
                child.stop()
                self._bury(index)
                if time.monotonic() - since < _QUICK_S:  # it dies at once: do not spin
                    self._stopping.wait(1.0)
                self._start(index)

    def stop_all(self) -> None:
        """Let every worker drain, all at the same time."""
        threads = [threading.Thread(target=child.stop) for child, _ in self._children.values()]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        self._children.clear()

    def requests(self) -> int:
        """Answers given by all workers that ever lived."""
        total = 0
        for path in self._directory.glob("*.json"):
            with contextlib.suppress(OSError, msgspec.MsgspecError):
                models: dict[str, Any] = msgspec.json.decode(path.read_bytes())["models"]
                total += sum(sum(row["statuses"].values()) for row in models.values())
        return total

    def _start(self, index: int) -> None:
        self._generation += 1
        spec, listen = self._spec, self._config.listen
        job = {
            "config": str(spec.config) if spec.config else None,
            "upstream": spec.upstream,
            "host": listen.host,
            "port": self._port,
            "prices": str(spec.prices) if spec.prices else None,
            "index": index,
            "generation": self._generation,
            "directory": str(self._directory),
        }
        argv = (sys.executable, "-m", "llmops.gateway.worker", msgspec.json.encode(job).decode())
        command = Command(argv, self._log(), grace_s=listen.drain_s + 2)
        self._children[index] = (start(command), time.monotonic())

    def _log(self) -> Path:
        """Workers speak on our stderr, where it can be opened again."""
        stderr = Path("/dev/stderr")
        try:
            with stderr.open("ab"):
                return stderr
        except OSError:
            return self._directory / "workers.log"

    def _bury(self, index: int) -> None:
        """What a dead worker counted stays; what it had under way does not."""
        for path in self._directory.glob(f"{index}-*.json"):
            with contextlib.suppress(OSError, msgspec.MsgspecError):
                snapshot = msgspec.json.decode(path.read_bytes())
                snapshot["in_flight"], snapshot["gauges"] = 0, {}
                path.write_bytes(msgspec.json.encode(snapshot))
