"""A running Triton server: repository, check, launch, readiness, and the reason when it dies."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from llmops.errors import ExitCode, LlmopsError, MachineError, OutsideError, UsageError
from llmops.findings import Finding
from llmops.hardware.host import Host
from llmops.process import Child, Command, start, tail
from llmops.progress import Progress
from llmops.serve.preflight import free_port
from llmops.serve.ready import request
from llmops.serve.triton import first
from llmops.serve.triton.check import check_repository
from llmops.serve.triton.images import have_image, removed
from llmops.serve.triton.launch import Ports, TritonLaunch, make_launch
from llmops.serve.triton.locate import Server, find_server
from llmops.serve.triton.logs import describe, error_lines, find_cause, hopeless
from llmops.serve.triton.making import Made, make, own_repository
from llmops.serve.triton.plans import require_engines
from llmops.serve.triton.spec import TritonSpec
from llmops.settings import settings

POLL_S: Final = 0.2
GRACE_S: Final = 20.0


@dataclass(frozen=True, slots=True)
class TritonDecision:
    """Everything that is settled before the launch.

    Attributes:
        models: What a client may call.
        findings: Of the repository's check.
    """

    server: Server
    repository: Path
    launch: TritonLaunch
    middle: str
    models: dict[str, str]
    findings: tuple[Finding, ...] = ()


@dataclass(frozen=True, slots=True)
class RunningTriton:
    """A server whose models are ready.

    Attributes:
        states: Model -> READY, as the server says.
        answers: Model -> what it said to a first request, in short; models of others are not asked.
    """

    decision: TritonDecision
    child: Child = field(repr=False)
    log: Path
    ready_s: float
    states: dict[str, str]
    answers: dict[str, str]

    @property
    def url(self) -> str:
        """Address of the HTTP service."""
        return self.decision.launch.url

    @property
    def grpc(self) -> str:
        """Address of the gRPC service, host:port."""
        return self.decision.launch.grpc

    @property
    def metrics_url(self) -> str:
        """Address of the metrics."""
        return self.decision.launch.metrics_url

    def wait(self, timeout_s: float | None = None) -> int | None:
        """Wait for the server's end; its exit code, or None when the time is up."""
        return self.child.wait(timeout_s)

    def why_ended(self) -> LlmopsError:
        """The explained error of a server that has ended."""
        return explain_end(self.child.returncode, self.log, "while it served")


class TritonFailedError(LlmopsError):
    """The server did not start or died, with what its log says."""

    def __init__(self, message: str, hint: str, code: ExitCode, log: Path, errors: list[str]) -> None:
        super().__init__(message, hint, exit_code=code)
        self.findings = (Finding("triton-server", "error", message, hint, str(log)),)
        self.data = {"log": str(log), "errors": errors[:20]}


def decide(spec: TritonSpec, host: Host, *, write: bool = True) -> TritonDecision:
    """Find the server, make the repository and check it. ``write=False`` writes nothing (a dry run).

    Raises:
        UsageError: The model, the repository or an option is wrong, or an engine was made for another machine.
        MachineError: There is no server or no GPU for an engine, or a port is taken.
    """
    if spec.model is None and spec.repository is None:
        raise UsageError("neither a model nor a repository was given", "llmops serve DIR --engine triton")
    server = find_server(spec)
    directory = spec.repository or own_repository(spec)
    made = Made("as written", {}) if spec.model is None else make(spec, server, host, directory, write=write)
    findings = made.findings
    models = made.models
    if write or spec.model is None:
        report = check_repository(directory, tuple(server.backends or ()))
        findings += report.findings
        broken = [finding for finding in findings if finding.severity == "error"]
        if broken:
            raise _refused(directory, broken)
        models = models or dict.fromkeys(report.models, "")
        require_engines(directory, server, host)
    ports = _ports(spec)
    size = sum(path.stat().st_size for path in directory.rglob("*") if path.is_file()) if directory.is_dir() else 0
    spec = spec.model_copy(update={"extra": (*made.flags, *spec.extra)})
    launch = make_launch(spec, server, directory, ports, gpu=bool(host.usable_gpus), weights_bytes=size)
    return TritonDecision(server, directory, launch, made.middle, models, findings)


def _ports(spec: TritonSpec) -> Ports:
    wanted = {"--http-port": spec.http_port, "--grpc-port": spec.grpc_port, "--metrics-port": spec.metrics_port}
    found = []
    for option, port in wanted.items():
        try:
            found.append(free_port(spec.host, port))
        except MachineError as error:
            raise MachineError(error.message, f"{option} N takes another, {option} 0 a free one") from error
    return Ports(*found)


def _refused(directory: Path, broken: list[Finding]) -> UsageError:
    first = broken[0]
    more = f" (and {len(broken) - 1} more)" if len(broken) > 1 else ""
    error = UsageError(
        f"{first.file}:{first.line}:{first.column or 1}: {first.message}{more}",
        first.remedy or f"llmops check triton {directory}",
    )
    error.findings = tuple(broken)  # type: ignore[attr-defined]  # the JSON envelope takes an error's own findings
    return error


@contextmanager
def running(decision: TritonDecision, progress: Progress, log: Path | None = None) -> Iterator[RunningTriton]:
    """Start the server and wait until every model is ready and has answered once; leaving the block ends it.

    Raises:
        LlmopsError: It died, a model could not be loaded or does not answer, with the cause from its log.
    """
    log = log or _new_log(decision)
    progress.phase(f"starting Triton ({decision.server.kind})")
    progress.note(f"log: {log}")
    command = Command(decision.launch.argv, log, decision.launch.env, grace_s=GRACE_S)
    if decision.server.kind == "container":
        have_image(decision.server, log, progress)
    began = time.monotonic()
    with removed(decision.server, decision.launch, log), start(command) as child:
        states = _wait_ready(child, decision, log, progress, began)
        answers = _ask(child, decision, log, progress)
        yield RunningTriton(decision, child, log, round(time.monotonic() - began, 2), states, answers)


def _wait_ready(child: Child, decision: TritonDecision, log: Path, progress: Progress, began: float) -> dict[str, str]:
    """Ready means that the server says so and that each model does: a port alone may be another server's."""
    deadline = began + decision.launch.deadline_s
    progress.phase("loading the models")
    while True:
        if child.returncode is not None:
            raise explain_end(child.returncode, log, "while it started")
        if request(decision.launch.url, "GET", "/v2/health/ready", key=None, timeout_s=5)[0] == 200:
            states = model_states(decision.launch.url)
            if states and all(state == "READY" for state in states.values()) and set(decision.models) <= set(states):
                return states
        found = hopeless(tail(log, 200))
        if found is not None:
            text = f"Triton cannot load a model: {describe(found)}"
            raise TritonFailedError(text, found.cause.hint, found.cause.code, log, error_lines(tail(log, 400)))
        if time.monotonic() > deadline:
            last = error_lines(tail(log, 400))
            text = f"Triton was not ready after {decision.launch.deadline_s:.0f} s" + (f": {last[0]}" if last else "")
            raise TritonFailedError(
                text, f"allow more with --ready-timeout; the log is {log}", ExitCode.OUTSIDE, log, last
            )
        time.sleep(POLL_S)


def _ask(child: Child, decision: TritonDecision, log: Path, progress: Progress) -> dict[str, str]:
    progress.phase("asking each model once")
    said, failed = first.answers(decision.launch.url, decision.models, decision.launch.deadline_s)
    if failed:
        if child.wait(1.0) is not None:
            raise explain_end(child.returncode, log, "at its first request")
        model, reason = next(iter(failed.items()))
        errors = error_lines(tail(log, 400))
        text = f"the model {model} is loaded, but it does not answer: {reason}"
        raise TritonFailedError(text, f"the log is {log}", ExitCode.OUTSIDE, log, errors)
    return said


def model_states(url: str) -> dict[str, str]:
    """Model -> state, with the reason when it is not ready; empty while the server does not answer."""
    import httpx

    try:
        rows: list[dict[str, Any]] = httpx.post(f"{url}/v2/repository/index", json={}, timeout=5).json()
    except (httpx.HTTPError, json.JSONDecodeError):
        return {}
    return {str(row["name"]): str(row.get("state") or row.get("reason") or "UNKNOWN") for row in rows}


def explain_end(code: int | None, log: Path, when: str) -> TritonFailedError:
    """What a dead server's log says."""
    lines = tail(log, 2000, max_bytes=1 << 20)
    found = find_cause(lines)
    errors = error_lines(lines)
    ended = f"Triton ended with exit code {code} {when}"
    if code is not None and code > 128:
        ended = f"Triton was ended by signal {code - 128} {when}"
    if found is not None:
        return TritonFailedError(f"{ended}: {describe(found)}", found.cause.hint, found.cause.code, log, errors)
    text = f"{ended}: {errors[0]}" if errors else ended
    return TritonFailedError(text, f"the log is {log}", OutsideError.exit_code, log, errors)


def _new_log(decision: TritonDecision) -> Path:
    directory = settings().state_dir / "serve"
    directory.mkdir(parents=True, exist_ok=True)
    return (
        directory
        / f"{decision.repository.name}-triton-{time.strftime('%Y%m%d-%H%M%S')}-{time.monotonic_ns() % 100000}.log"
    )
