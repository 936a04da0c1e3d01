"""``llmops serve``: start, announce, stay until it is told to stop or the engine ends."""

from __future__ import annotations

import json
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from llmops.errors import ExitCode
from llmops.findings import Finding
from llmops.hardware import detect
from llmops.progress import Progress
from llmops.report.files import write_whole
from llmops.serve.decide import Decision, decide
from llmops.serve.running import RunningServer, describe_ready, launched
from llmops.serve.spec import ServeSpec


@dataclass(frozen=True, slots=True)
class ServeReport:
    """What was served, or with ``--dry-run`` would be.

    Attributes:
        stopped_by: Signal number that ended it; 0 for a dry run.
    """

    ok: bool
    findings: tuple[Finding, ...]
    decision: Decision
    log: Path | None = None
    ready_s: float | None = None
    served_s: float | None = None
    kv_tokens: int | None = None
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
            "stopped_by": self.stopped_by or None,
        }


def serve(spec: ServeSpec, progress: Progress, *, dry_run: bool = False, ready_file: Path | None = None) -> ServeReport:
    """Serve in the foreground.

    Args:
        spec: What to serve.
        progress: Told of each phase, then how to use the server.
        dry_run: Only decide.
        ready_file: Gets a JSON object with url, model and pid once the server answers; removed at the end.

    Raises:
        UsageError, MachineError: Before anything is started.
        OutsideError: The engine died.
    """
    progress.phase(f"planning {spec.served_name}")
    decision = decide(spec, detect())
    if dry_run:
        return ServeReport(True, decision.plan_findings, decision)
    with launched(spec, decision, progress) as server:
        began = time.monotonic()
        stopped_by = _stay(server, progress, ready_file)
    return ServeReport(
        ok=True,
        findings=decision.plan_findings,
        decision=decision,
        log=server.log_path,
        ready_s=server.ready_s,
        served_s=round(time.monotonic() - began, 1),
        kv_tokens=server.kv_tokens,
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
    content = {
        "url": server.url,
        "model": server.model_name,
        "engine": server.engine,
        "pid": server.pid,
        "log": str(server.log_path),
        "ready_s": server.ready_s,
    }
    write_whole(path, json.dumps(content) + "\n")
