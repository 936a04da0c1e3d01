"""Run every check with a limit of time; a check that crashes or hangs is a result like another."""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping
from typing import Final

from llmops.diagnosis.machine import gpus, network, system
from llmops.diagnosis.machine.state import Check, MachineReport
from llmops.hardware import Host, detect
from llmops.progress import Progress, Silent

LIMIT_S: Final = 5.0
CheckFunction = Callable[[Host], Check]
CHECKS: Final[Mapping[str, CheckFunction]] = {
    "driver": gpus.driver,
    "gpu-memory": gpus.memory,
    "gpu-errors": gpus.ecc,
    "gpu-modes": gpus.modes,
    "topology": gpus.topology,
    "kernel-log": system.kernel_log,
    "engines": system.engines,
    "packages": system.packages,
    "build-tools": system.build_tools,
    "container": system.container,
    "memory": system.memory,
    "shared-memory": system.shared_memory,
    "open-files": system.open_files,
    "disk": system.disk,
    "partial-downloads": system.partial_downloads,
    "clock": system.clock,
    "hub": network.hub,
    "hub-token": network.hub_token,
    "ports": network.ports,
}


def examine(
    progress: Progress | None = None,
    checks: Mapping[str, CheckFunction] = CHECKS,
    limit_s: float = LIMIT_S,
    host: Host | None = None,
) -> MachineReport:
    """Examine this machine. All checks run at the same time, each with ``limit_s`` seconds."""
    progress = progress or Silent()
    progress.phase("examining this machine")
    found: Host | None = host or _in_time(detect, limit_s)
    if found is None:
        return MachineReport((Check("host", "late", f"the machine could not be described in {limit_s:g} s"),))
    running = [(name, _Running(function, found)) for name, function in checks.items()]
    results = tuple(run.result(name, limit_s) for name, run in running)
    return MachineReport(results, found)


class _Running:
    """A check in a thread that may be left behind: it only reads, and ends with the process."""

    def __init__(self, function: CheckFunction, host: Host) -> None:
        self._answer: Check | None = None
        self._error: Exception | None = None
        self._thread = threading.Thread(target=self._work, args=(function, host), daemon=True)
        self._thread.start()

    def _work(self, function: CheckFunction, host: Host) -> None:
        try:
            self._answer = function(host)
        except Exception as error:  # noqa: BLE001 - a crash of a check is what is reported
            self._error = error

    def result(self, name: str, limit_s: float) -> Check:
        self._thread.join(limit_s)
        if self._answer is not None:
            return self._answer
        if self._error is not None:
            what = f"{type(self._error).__name__}: {self._error}".splitlines()[0]
            return Check(name, "crashed", f"the check itself failed: {what}")
        return Check(name, "late", f"no answer within {limit_s:g} s")


def _in_time(function: Callable[[], Host], limit_s: float) -> Host | None:
    answer: list[Host] = []
    thread = threading.Thread(target=lambda: answer.append(function()), daemon=True)
    thread.start()
    thread.join(limit_s)
    return answer[0] if answer else None
