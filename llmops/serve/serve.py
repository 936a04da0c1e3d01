"""``llmops serve``: start, announce, stay until it is told to stop or the engine ends."""

from __future__ import annotations

import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from llmops.errors import ExitCode
from llmops.findings import Finding
from llmops.hardware import detect
from llmops.progress import Progress
from llmops.report.files import write_whole
from llmops.serve.decide import Decision, decide
from llmops.serve.explain import EngineFailedError
from llmops.serve.freed import wait_until_freed
from llmops.serve.heal import MOST_HEALS
from llmops.serve.readback import Term
from llmops.serve.registry import encode, own_identity
from llmops.serve.running import RunningServer, describe_ready, start
from llmops.serve.spec import ServeSpec

RESTART_WAIT_S: Final = 1.0
STABLE_S: Final = 600.0


@dataclass(frozen=True, slots=True)
class ServeReport:
    """What was served, or with ``--dry-run`` would be.

    Attributes:
        terms: The engine's own figures beside the plan's.
        restarts: After crashes while serving.
        stopped_by: Signal number that ended it; 0 for a dry run.
    """

    ok: bool
    findings: tuple[Finding, ...]
    decision: Decision
    log: Path | None = None
    ready_s: float | None = None
    served_s: float | None = None
    kv_tokens: int | None = None
    terms: tuple[Term, ...] = ()
    restarts: int = 0
    stopped_by: int = 0

    @property
    def exit_code(self) -> ExitCode:
        """As a shell expects of a program that a signal ended."""
        return ExitCode.OK if not self.stopped_by else ExitCode(128 + self.stopped_by)

    def data(self) -> dict[str, Any]:
        """The JSON ``data``."""
        plan = self.decision.plan
        return {
            "model": self.decision.launch.model_name,
            "engine": self.decision.engine,
            "reason": self.decision.choice.reason,
            "url": self.decision.launch.url,
            "argv": list(self.decision.launch.argv),
            "env": dict(self.decision.launch.env),
            "threads": plan.threads,
            "dtype": plan.dtype,
            "max_model_len": plan.max_model_len,
            "max_num_seqs": plan.max_num_seqs,
            "deadline_s": self.decision.launch.deadline_s,
            "reasons": list(plan.reasons),
            "log": str(self.log) if self.log else None,
            "ready_s": self.ready_s,
            "served_s": self.served_s,
            "kv_tokens": self.kv_tokens,
            "memory": list(self.terms),
            "restarts": self.restarts,
            "stopped_by": self.stopped_by or None,
        }


def serve(
    spec: ServeSpec,
    progress: Progress,
    *,
    dry_run: bool = False,
    ready_file: Path | None = None,
    heal: bool = True,
) -> ServeReport:
    """Serve in the foreground.

    Args:
        spec: What to serve.
        progress: Told of each phase, then how to use the server.
        dry_run: Only decide.
        ready_file: Gets a JSON object with url, model and pid once the server answers; removed at the end.
        heal: Start again, at most three times in ten minutes, after a failed start whose diagnosis advises other
            flags, and after a crash while serving.

    Raises:
        UsageError, MachineError: Before anything is started.
        OutsideError: The engine died.
    """
    if dry_run:
        progress.phase(f"planning {spec.served_name}")
        decision = decide(spec, detect())
        return ServeReport(True, decision.plan_findings, decision)
    restarts = 0
    while True:
        try:
            with start(spec, progress, heals=MOST_HEALS if heal else 0) as server:
                began = time.monotonic()
                stopped_by = _stay(server, progress, ready_file)
            return _report(server, stopped_by, time.monotonic() - began, restarts)
        except EngineFailedError as error:
            if not heal or error.when != "serving":
                raise
            # An engine that ran for long may try all its restarts again.
            restarts = 1 if time.monotonic() - began > STABLE_S else restarts + 1
            if restarts > MOST_HEALS:
                raise
            wait_s = RESTART_WAIT_S * 2 ** (restarts - 1)
            progress.note(f"{error.message}; starting again in {wait_s:g} s ({restarts} of {MOST_HEALS})")
            time.sleep(wait_s)
            wait_until_freed(server.decision.plan, progress)
            # The corrected flags that it ran with, on the same port: clients know that address.
            spec = server.spec.model_copy(update={"port": server.port})


def _report(server: RunningServer, stopped_by: int, served_s: float, restarts: int) -> ServeReport:
    return ServeReport(
        ok=True,
        findings=server.decision.plan_findings,
        decision=server.decision,
        log=server.log_path,
        ready_s=server.ready_s,
        served_s=round(served_s, 1),
        kv_tokens=server.kv_tokens,
        terms=server.terms,
        restarts=restarts,
        stopped_by=stopped_by,
    )


def _stay(server: RunningServer, progress: Progress, ready_file: Path | None) -> int:
    """Until a signal, whose number is returned, or the engine's end, which is an error."""
    try:
        for line in describe_ready(server):
            progress.note(line)
        progress.phase(f"serving {server.model_name} on {server.url}")
        if ready_file is not None:
            write_ready_file(ready_file, server)
        while server.wait(3600.0) is None:
            pass
    except KeyboardInterrupt as stop:  # Ctrl-C, and TERM and HUP, which the command line raises as its kind
        return int(getattr(stop, "signum", 2))
    finally:
        if ready_file is not None:
            ready_file.unlink(missing_ok=True)
    raise server.why_ended()


def write_ready_file(path: Path, server: RunningServer) -> None:
    """For scripts that start a server and wait: the file appears whole, when requests can be sent."""
    content: dict[str, object] = {
        "url": server.url,
        "model": server.model_name,
        "engine": server.engine,
        "pid": server.pid,
        "log": str(server.log_path),
        "ready_s": server.ready_s,
        "ready_at": time.time(),
        **own_identity(),
    }
    write_whole(path, encode(content))
