"""``llmops serve --engine triton``: start, show each model's state, stay until told to stop or the server ends."""

from __future__ import annotations

import json
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from llmops.errors import ExitCode
from llmops.findings import Finding
from llmops.hardware import detect
from llmops.progress import Progress
from llmops.report.document import Block, Code, Document, Facts, Table, Text
from llmops.report.files import write_whole
from llmops.serve import registry
from llmops.serve.detached import ServersReport, start_detached
from llmops.serve.triton.first import command
from llmops.serve.triton.server import RunningTriton, TritonDecision, decide, running
from llmops.serve.triton.spec import TritonSpec
from llmops.units import format_duration


@dataclass(frozen=True, slots=True)
class TritonReport:
    """What was served, or with ``--dry-run`` would be."""

    ok: bool
    findings: tuple[Finding, ...]
    decision: TritonDecision
    log: Path | None = None
    ready_s: float | None = None
    served_s: float | None = None
    states: dict[str, str] = field(default_factory=dict)
    answers: dict[str, str] = field(default_factory=dict)
    stopped_by: int = 0

    @property
    def exit_code(self) -> ExitCode:
        """As a shell expects of a program that a signal ended."""
        return ExitCode.OK if not self.stopped_by else ExitCode(128 + self.stopped_by)

    def data(self) -> dict[str, Any]:
        """The JSON ``data``."""
        launch = self.decision.launch
        return {
            "engine": "triton",
            "server": self.decision.server.kind,
            "repository": self.decision.repository,
            "middle": self.decision.middle,
            "models": self.decision.models,
            "states": self.states,
            "answers": self.answers,
            "url": launch.url,
            "grpc": launch.grpc,
            "metrics_url": launch.metrics_url,
            "argv": list(launch.argv),
            "env": dict(launch.env),
            "log": self.log,
            "ready_s": self.ready_s,
            "served_s": self.served_s,
            "stopped_by": self.stopped_by or None,
        }


def serve(
    spec: TritonSpec, progress: Progress, *, dry_run: bool = False, ready_file: Path | None = None
) -> TritonReport:
    """Serve in the foreground.

    Args:
        spec: What to serve.
        progress: Told of each phase, then of each model's state and how to call it.
        dry_run: Only decide; writes nothing.
        ready_file: Gets a JSON object with the addresses once every model is ready; removed at the end.

    Raises:
        UsageError, MachineError: Before anything is started.
        LlmopsError: The server died, with the cause that its log names.
    """
    progress.phase("preparing the model repository")
    decision = decide(spec, detect(), write=not dry_run)
    if dry_run:
        return TritonReport(True, decision.findings, decision)
    for finding in decision.findings:
        progress.note(f"{finding.severity}: {finding.message}" + (f" ({finding.remedy})" if finding.remedy else ""))
    with running(decision, progress, spec.log) as server:
        began = time.monotonic()
        stopped_by = _stay(server, progress, ready_file)
    return TritonReport(
        ok=True,
        findings=decision.findings,
        decision=decision,
        log=server.log,
        ready_s=server.ready_s,
        served_s=round(time.monotonic() - began, 1),
        states=server.states,
        answers=server.answers,
        stopped_by=stopped_by,
    )


def serve_detached(spec: TritonSpec, words: list[str], progress: Progress) -> ServersReport:
    """Serve in a process that outlives this command; ``llmops ps``, ``logs``, ``status`` and ``stop`` know it.

    Raises:
        UsageError, MachineError: Before anything is started.
        OutsideError: It ended before it was ready.
    """
    return start_detached(spec.served_name, lambda: decide(spec, detect(), write=False), words, progress)


def _stay(server: RunningTriton, progress: Progress, ready_file: Path | None) -> int:
    try:
        for line in how_to_use(server):
            progress.note(line)
        progress.phase(f"serving on {server.url}")
        if ready_file is not None:
            write_whole(ready_file, json.dumps(ready_data(server)) + "\n")
        while server.wait(3600.0) is None:
            pass
    except KeyboardInterrupt as stop:  # Ctrl-C, and TERM and HUP, which the command line raises as its kind
        return int(getattr(stop, "signum", 2))
    finally:
        if ready_file is not None:
            ready_file.unlink(missing_ok=True)
    raise server.why_ended()


def ready_data(server: RunningTriton) -> dict[str, Any]:
    """For scripts that wait for the server."""
    return {
        "url": server.url,
        "grpc": server.grpc,
        "metrics_url": server.metrics_url,
        "engine": "triton",
        "model": next(iter(server.decision.models), "triton"),
        "models": server.decision.models,
        "pid": server.child.pid,
        "log": str(server.log),
        "ready_s": server.ready_s,
        "ready_at": time.time(),
        **registry.own_identity(),
    }


def how_to_use(server: RunningTriton) -> tuple[str, ...]:
    """A line for each model's state, then one request to copy."""
    width = max(map(len, server.states), default=0)
    states = [
        f"{name:{width}}  {state}  {server.decision.models.get(name, 'a step of the ensemble')}"
        for name, state in sorted(server.states.items())
    ]
    lines = [f"ready after {format_duration(server.ready_s)}: {server.url}  gRPC: {server.grpc}", *states]
    calls = (command(server.url, name, use) for name, use in server.decision.models.items())
    lines += [f"try: {line}" for line in calls if line][:1]
    return (*lines, f"metrics: {server.metrics_url}  log: {server.log}  stop: Ctrl-C")


def view(report: TritonReport) -> Document:
    """Models, addresses and the command."""
    decision = report.decision
    rows = tuple(
        (name, report.states.get(name, ""), decision.models.get(name, "a step of the ensemble"))
        for name in sorted({*decision.models, *report.states})
    )
    blocks: list[Block] = [
        Facts((("repository", str(decision.repository)), ("server", f"{decision.server.kind} {decision.server.program}"),
               ("computes", decision.middle), ("HTTP", decision.launch.url), ("gRPC", decision.launch.grpc),
               ("metrics", decision.launch.metrics_url))),
        Table(("model", "state", "use"), rows),
        Code(" ".join(decision.launch.argv)),
    ]  # fmt: skip
    if report.served_s is None:
        return Document("Triton", tuple(blocks), Text("would start this; nothing was changed"))
    return Document("Triton", tuple(blocks), Text(f"served for {format_duration(report.served_s)}", "good"))
