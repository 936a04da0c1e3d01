"""A server from its launch to its end, as a context manager. Leaving it leaves no process behind."""

from __future__ import annotations

import contextlib
import os
import re
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from llmops.errors import LlmopsError
from llmops.hardware import Host, detect
from llmops.process import Child, Command
from llmops.process import start as start_child
from llmops.progress import Progress
from llmops.serve.decide import Decision, decide
from llmops.serve.explain import EngineFailedError, explain
from llmops.serve.freed import wait_until_freed
from llmops.serve.heal import Correction, correct
from llmops.serve.launch import API_KEY_VARIABLE
from llmops.serve.preflight import check_log_room
from llmops.serve.readback import Term, keep, read_back
from llmops.serve.ready import EngineEndedError, Readiness, wait_ready
from llmops.serve.spec import ServeSpec
from llmops.settings import settings
from llmops.units import format_duration

KEPT_LOGS: Final = 20
STOP_GRACE_S: Final = 15.0
# Their processes and logs are of several copies, or of another account of memory than the plan's.
_MORE_THAN_THE_ENGINE: Final = ("ray", "trtllm")


@dataclass(frozen=True, slots=True)
class RunningServer:
    """A server that has answered its first request.

    Attributes:
        url: Without ``/v1``.
        model_name: What clients put into ``model``.
        ready_s: From the launch to the first answer.
        pid: Of the process group's guard.
        spec: With the corrections that healing made.
        kv_tokens: Tokens of KV cache as the engine says; None when it does not.
        terms: The engine's own figures beside the plan's.
    """

    url: str
    model_name: str
    engine: str
    log_path: Path
    ready_s: float
    pid: int
    kv_tokens: int | None
    terms: tuple[Term, ...]
    spec: ServeSpec = field(repr=False)
    decision: Decision = field(repr=False)
    child: Child = field(repr=False, compare=False)

    @property
    def port(self) -> int:
        """Where it listens."""
        return int(self.url.rpartition(":")[2])

    def wait(self, timeout_s: float | None = None) -> int | None:
        """Wait for the engine's end; its exit code, or None when the time is up."""
        return self.child.wait(timeout_s)

    def why_ended(self) -> EngineFailedError:
        """The explained error of an engine that has ended."""
        error = EngineEndedError(self.child.returncode or 0, "serving")
        return explain(self.engine, error, self.log_path)


@contextmanager
def start(
    spec: ServeSpec,
    progress: Progress,
    host: Host | None = None,
    *,
    heals: int = 0,
    decision: Decision | None = None,
) -> Iterator[RunningServer]:
    """Serve a model for the time of the block.

    Args:
        spec: What to serve.
        progress: Told of each phase of the start.
        host: The machine; detected when None.
        decision: For ``spec``, when it was made before.
        heals: How often a failed start is tried again with the flags that its diagnosis advises.

    Raises:
        UsageError: The model or an option is wrong; nothing was started.
        MachineError: This machine cannot: engine, port, memory; nothing was started.
        OutsideError: The engine died or was not ready in time; with the cause from its log where one is known.
    """
    with ExitStack() as stack:
        failed: EngineFailedError | None = None
        for left in reversed(range(heals + 1)):
            if decision is None:
                decision = _decide(spec, host, progress, failed)
            try:
                server = stack.enter_context(launched(spec, decision, progress))
                break
            except EngineFailedError as error:
                correction = _correction(spec, error, decision, host) if left else None
                if correction is None:
                    raise
                title = error.cause.title if error.cause else error.message
                progress.note(f"{title}: trying again with {correction.change}")
                wait_until_freed(decision.plan, progress)
                spec, decision, failed = correction.spec, None, error
        yield server


def _correction(spec: ServeSpec, error: EngineFailedError, decision: Decision, host: Host | None) -> Correction | None:
    if error.diagnosis is None:
        return None
    usable = (host or detect()).usable_gpus
    return correct(spec, error.diagnosis, decision.launch.argv, gpus=len(usable))


def _decide(spec: ServeSpec, host: Host | None, progress: Progress, failed: EngineFailedError | None) -> Decision:
    """The decision for a start; what cannot be after a failure leaves that failure as the answer."""
    progress.phase(f"planning {spec.served_name}")
    try:
        return decide(spec, host or detect())
    except LlmopsError as refused:
        if failed is None:
            raise
        progress.note(f"that cannot be here: {refused.message}")
        raise failed from refused


@contextmanager
def launched(spec: ServeSpec, decision: Decision, progress: Progress) -> Iterator[RunningServer]:
    """The second half of :func:`start`, for a decision that was shown before."""
    check_log_room(spec.log.absolute().parent if spec.log else log_directory())
    log = spec.log or new_log(decision)
    key = os.environ.get(spec.api_key_env) if spec.api_key_env else None
    progress.note(f"{decision.engine}: {decision.choice.reason}; log: {log}")
    progress.phase(f"starting {decision.engine}")
    with start_child(_command(decision, log, key)) as child:
        try:
            ready = wait_ready(child, decision.launch, log, progress, key)
        except EngineEndedError as error:
            raise explain(decision.engine, error, log) from error
        yield _running(spec, decision, log, child, ready)


def _running(spec: ServeSpec, decision: Decision, log: Path, child: Child, ready: Readiness) -> RunningServer:
    with log.open(encoding="utf-8", errors="replace") as lines:
        found = read_back(lines, decision.plan, None if spec.image else child.pid)
    if decision.engine not in _MORE_THAN_THE_ENGINE:
        with contextlib.suppress(OSError):  # a full or read-only state directory must not end a server that works
            keep(found, decision.plan, size_bytes=decision.facts.size_bytes, gpu=decision.gpu)
    return RunningServer(
        url=decision.launch.url,
        model_name=decision.launch.model_name,
        engine=decision.engine,
        log_path=log,
        ready_s=ready.ready_s,
        pid=child.pid,
        kv_tokens=ready.kv_tokens,
        terms=found.terms(decision.plan),
        spec=spec,
        decision=decision,
        child=child,
    )


def _command(decision: Decision, log: Path, key: str | None) -> Command:
    env = dict(decision.launch.env)
    if key is not None:
        # Each engine's own way to take the key without showing it in its argv.
        env["VLLM_API_KEY" if decision.engine == "vllm" else API_KEY_VARIABLE] = key
    return Command(decision.launch.argv, log, env, grace_s=STOP_GRACE_S)


def log_directory() -> Path:
    """Where logs without a name of their own are kept."""
    return settings().state_dir / "serve"


def new_log(decision: Decision) -> Path:
    """A fresh name in the state directory; the oldest logs go."""
    directory = log_directory()
    directory.mkdir(parents=True, exist_ok=True)
    for old in sorted(directory.glob("*.log"), key=lambda path: path.stat().st_mtime)[:-KEPT_LOGS]:
        old.unlink(missing_ok=True)
    name = re.sub(r"[^A-Za-z0-9._-]", "_", decision.launch.model_name)
    stamp = time.strftime("%Y%m%d-%H%M%S")
    return directory / f"{name}-{decision.engine}-{stamp}-{os.getpid()}.log"


def describe_ready(server: RunningServer) -> tuple[str, ...]:
    """What a person needs to use the server, a line each."""
    path, asked = "chat/completions", '"messages": [{"role": "user", "content": "Hello"}]'
    if not server.decision.chats:
        path, asked = "completions", '"prompt": "Hello"'
    body = f'{{"model": "{server.model_name}", {asked}}}'
    return (
        f"ready after {format_duration(server.ready_s)}: {server.url}/v1  model: {server.model_name}",
        *describe_findings(server),
        f"try: curl {server.url}/v1/{path} -H 'Content-Type: application/json' -d '{body}'",
        f"log: {server.log_path}  stop: Ctrl-C",
    )


def describe_findings(server: RunningServer) -> tuple[str, ...]:
    """What its clients will stumble over, and the remedy."""
    return tuple(f"{finding.message}; remedy: {finding.remedy}" for finding in server.decision.plan_findings)
