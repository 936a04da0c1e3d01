"""``serve --detach`` and what manages such servers: list, follow the log, look, stop."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from llmops.errors import ExitCode, LlmopsError, OutsideError, UsageError
from llmops.findings import Finding
from llmops.hardware import detect
from llmops.process import tail
from llmops.progress import Progress
from llmops.serve import registry
from llmops.serve.decide import decide
from llmops.serve.launch import health_path
from llmops.serve.preflight import check_log_room
from llmops.serve.ready import request
from llmops.serve.registry import Server
from llmops.serve.spec import ServeSpec
from llmops.units import format_duration

STOP_WAIT_S: Final = 30.0
POLL_S: Final = 0.1


@dataclass(frozen=True, slots=True)
class Row:
    """A server as ``ps`` shows it.

    Attributes:
        state: ``ready``, ``unhealthy`` (alive, but /health does not say 200), ``dead`` (killed without a farewell).
    """

    name: str
    state: str
    url: str
    model: str
    engine: str
    pid: int
    up_s: float
    log: str


@dataclass(frozen=True, slots=True)
class ServersReport:
    """Servers, or what was done to them."""

    ok: bool
    findings: tuple[Finding, ...]
    servers: tuple[Row, ...]


@dataclass(frozen=True, slots=True)
class LogReport:
    """The end of a server's log."""

    ok: bool
    findings: tuple[Finding, ...]
    name: str
    log: str
    lines: tuple[str, ...]


def serve_detached(spec: ServeSpec, words: list[str], progress: Progress) -> ServersReport:
    """Start a server that outlives this command, and wait until it answers.

    Args:
        spec: What it serves; checked here, so that mistakes are told before anything is started.
        words: The command line's own words, which the detached process gets without ``--detach``.
        progress: Told of the phases of its start.

    Raises:
        UsageError, MachineError: Before anything is started; also when a server of this name runs.
        OutsideError: It ended before it was ready.
    """
    return start_detached(spec.served_name, lambda: decide(spec, detect()), words, progress)


def start_detached(
    served_name: str, check: Callable[[], object], words: list[str], progress: Progress
) -> ServersReport:
    """The same for any engine; ``check`` raises what must be told before anything is started."""
    name = registry.name_for(served_name)
    file = registry.file_of(name)
    if file.exists() and registry.read(file).alive:
        raise UsageError(f"a server {name!r} is running", f"llmops stop {name}, or give this one another --name")
    file.unlink(missing_ok=True)
    progress.phase(f"planning {served_name}")
    check()
    check_log_room(file.parent)
    process = _spawn(without_detach(words), file)
    _follow_start(process, file, progress)
    return ServersReport(ok=True, findings=(), servers=(_row(registry.read(file)),))


def _spawn(words: list[str], file: Path) -> subprocess.Popen[bytes]:
    """The one process that is meant to outlive llmops; so it is not started under a guard, its engine is."""
    argv = [sys.executable, "-m", "llmops", "serve", *split_extra(words, ["--json", "--ready-file", str(file)])]
    with file.with_suffix(".out").open("wb") as out, file.with_suffix(".err").open("wb") as err:
        return subprocess.Popen(
            argv, stdin=subprocess.DEVNULL, stdout=out, stderr=err, start_new_session=True, close_fds=True
        )


def _follow_start(process: subprocess.Popen[bytes], file: Path, progress: Progress) -> None:
    """Until the ready file is there; on Ctrl-C the server that is not ready yet goes too."""
    try:
        with file.with_suffix(".err").open(encoding="utf-8", errors="replace") as said:
            while not file.exists():
                for line in said:
                    (progress.note if line.startswith(" ") else progress.phase)(line.strip())
                if process.poll() is not None and not file.exists():
                    raise _failure(file)
                time.sleep(POLL_S)
    finally:
        if not file.exists() and process.poll() is None:
            process.terminate()
            process.wait()


def _failure(file: Path) -> LlmopsError:
    """The error of the detached command, from the JSON document that it left."""
    try:
        error = json.loads(file.with_suffix(".out").read_bytes())["error"]
        return OutsideError(error["message"], error["hint"], exit_code=ExitCode(error["exit_code"]))
    except (OSError, ValueError, KeyError, TypeError):
        last = (tail(file.with_suffix(".err"), 1) or ["it said nothing"])[0]
        return OutsideError(f"the server ended before it was ready: {last}", f"see {file.with_suffix('.err')}")


def list_servers() -> ServersReport:
    """All detached servers; those that died without a farewell are shown once and forgotten."""
    known = registry.servers()
    rows = tuple(_row(server) for server in known)
    for server in known:
        if not server.alive:
            registry.forget(server)
    findings = tuple(
        Finding(
            "server-dead", "warning", f"{row.name} is gone; it was not stopped by llmops", f"llmops logs {row.name}"
        )
        for row in rows
        if row.state == "dead"
    )
    return ServersReport(ok=True, findings=findings, servers=rows)


def status(name: str) -> ServersReport:
    """One server; ``ok`` when it answers.

    Raises:
        UsageError: None has that name.
    """
    row = _row(registry.find(name))
    findings = () if row.state == "ready" else (Finding("server-state", "error", f"{name} is {row.state}"),)
    return ServersReport(ok=row.state == "ready", findings=findings, servers=(row,))


def stop(names: list[str], progress: Progress, *, everything: bool = False) -> ServersReport:
    """Stop servers with all their processes, and wait until they are gone.

    Raises:
        UsageError: One of the names is unknown, or none is given; nothing was stopped then.
        OutsideError: A process does not end.
    """
    if not names and not everything:
        raise UsageError("no server is named", "llmops stop NAME, or --all")
    chosen = registry.servers() if everything else tuple(registry.find(name) for name in names)
    rows = tuple(_row(server) for server in chosen)
    for server in chosen:
        progress.phase(f"stopping {server.name}")
        _stop(server)
    return ServersReport(ok=True, findings=(), servers=rows)


def _stop(server: Server) -> None:
    entry = server.entry
    if entry is not None and server.alive:
        with contextlib.suppress(ProcessLookupError):
            os.kill(entry.serve_pid, signal.SIGTERM)
        deadline = time.monotonic() + STOP_WAIT_S
        while registry.identity(entry.serve_pid) == (entry.started, entry.boot):
            if time.monotonic() > deadline:
                raise OutsideError(f"{server.name} (pid {entry.serve_pid}) does not end", f"kill -9 {entry.serve_pid}")
            time.sleep(POLL_S)
    registry.forget(server)


def logs(name: str, lines: int) -> LogReport:
    """The end of the engine's log.

    Raises:
        UsageError: None has that name.
    """
    server = registry.find(name)
    log = server.entry.log if server.entry else str(server.file.with_suffix(".err"))
    return LogReport(ok=True, findings=(), name=name, log=log, lines=tuple(tail(Path(log), lines)))


def _row(server: Server) -> Row:
    entry = server.entry
    if entry is None:
        return Row(server.name, "dead", "-", "-", "-", 0, 0.0, str(server.file.with_suffix(".err")))
    state = "dead"
    if server.alive:
        path = health_path(entry.engine)
        state = "ready" if request(entry.url, "GET", path, key=None, timeout_s=3)[0] == 200 else "unhealthy"
    up_s = round(time.time() - entry.ready_at, 1) if server.alive else 0.0
    return Row(server.name, state, entry.url, entry.model, entry.engine, entry.serve_pid, up_s, entry.log)


def shown_uptime(row: Row) -> str:
    """For tables."""
    return format_duration(row.up_s) if row.state != "dead" else "-"


def without_detach(words: list[str]) -> list[str]:
    """The words after ``serve`` for the detached process: those before ``--`` lose what is the detaching command's own."""
    words = words[words.index("serve") + 1 :]
    at = words.index("--") if "--" in words else len(words)
    own = {"--detach", "--json", "--quiet", "-q"}
    return [word for word in words[:at] if word not in own] + words[at:]


def split_extra(words: list[str], added: list[str]) -> list[str]:
    """Put ``added`` before ``--``."""
    at = words.index("--") if "--" in words else len(words)
    return [*words[:at], *added, *words[at:]]
