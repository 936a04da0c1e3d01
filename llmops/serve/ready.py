"""Waiting until a server really answers: its health, its model's name, and a first token."""

from __future__ import annotations

import http.client
import json
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final
from urllib.parse import urlsplit

from llmops.errors import OutsideError
from llmops.process import Child
from llmops.progress import Progress
from llmops.serve.launch import Launch
from llmops.serve.phases import PhaseReader
from llmops.units import format_duration

POLL_S: Final = 0.15
# Longer than 16 tokens in any tokenizer. vLLM's bfloat16 attention on CPUs with AMX dies when its very first prompt is
# shorter: only a longer one goes through the library that asks the kernel for the AMX state.
FIRST_PROMPT: Final = "The quick brown fox jumps over the lazy dog while the old clock in the hall strikes nine and the rain begins to fall."


class EngineEndedError(Exception):
    """The engine's process ended before it was ready, or while it served.

    Args:
        exit_code: Of the process.
        when: ``start``, ``first request`` or ``serving``.
    """

    def __init__(self, exit_code: int, when: str) -> None:
        super().__init__(f"the engine ended with exit code {exit_code} ({when})")
        self.exit_code = exit_code
        self.when = when


@dataclass(frozen=True, slots=True)
class Readiness:
    """How the start went; times are from the launch.

    Attributes:
        kv_tokens: Tokens of KV cache as the engine itself says.
    """

    healthy_s: float
    ready_s: float
    kv_tokens: int | None


def wait_ready(child: Child, launch: Launch, log: Path, progress: Progress, key: str | None = None) -> Readiness:
    """Block until the server answered a one-token completion.

    Args:
        child: The engine's process.
        launch: Its address, model name and deadline.
        log: Its output, from which the phase is read.
        progress: Told of each phase.
        key: What clients must send.

    Raises:
        EngineEndedError: The process ended.
        OutsideError: The deadline passed, or the first completion was refused.
    """
    began = time.monotonic()
    deadline = began + launch.deadline_s
    reader = PhaseReader(launch.engine)
    with log.open("r", encoding="utf-8", errors="replace") as lines:
        while True:
            _read_phases(lines, reader, progress)
            if child.returncode is not None:
                raise EngineEndedError(child.returncode, "start")
            if _status(launch.url, launch.health_path, key) == 200 and _serves(launch, key):
                break
            if time.monotonic() > deadline:
                raise _too_slow(launch, log)
            time.sleep(POLL_S)
        _read_phases(lines, reader, progress)
    healthy = time.monotonic()
    progress.phase("answering a first request")
    _first_completion(child, launch, key, deadline)
    return Readiness(round(healthy - began, 2), round(time.monotonic() - began, 2), reader.kv_tokens)


def _read_phases(lines: Any, reader: PhaseReader, progress: Progress) -> None:
    for line in lines:
        phase = reader.feed(line)
        if phase:
            progress.phase(phase)
        elif reader.percent:
            progress.update(reader.percent, 100)


def _serves(launch: Launch, key: str | None) -> bool:
    """Whether it is *our* server that answers: another one may have taken the port in the meantime."""
    status, body = request(launch.url, "GET", "/v1/models", key=key, timeout_s=5)
    if status != 200:
        return False
    names = [card.get("id") for card in body.get("data", []) if isinstance(card, dict)]
    return launch.model_name in names


def _first_completion(child: Child, launch: Launch, key: str | None, deadline: float) -> None:
    wait_s = max(30.0, deadline - time.monotonic())
    question = {"model": launch.model_name, "prompt": FIRST_PROMPT, "max_tokens": 1, "temperature": 0}
    status, body = request(launch.url, "POST", "/v1/completions", question, key=key, timeout_s=wait_s)
    # A dying engine closes the connection, or answers one 500, before its process is gone.
    code = child.wait(0 if status == 200 else 5.0)
    if code is not None:
        raise EngineEndedError(code, "first request")
    if status == 200 and body.get("choices"):
        return
    error = body.get("error")
    said = error.get("message") if isinstance(error, dict) else error
    raise OutsideError(
        f"{launch.engine} is healthy but refuses a first request: {said or f'HTTP {status}'}",
        f"the log is {child.command.log}",
    )


def _too_slow(launch: Launch, log: Path) -> OutsideError:
    limit = format_duration(launch.deadline_s)
    return OutsideError(
        f"{launch.engine} was not ready after {limit}",
        f"allow more with --ready-timeout {launch.deadline_s * 3:.0f}; the log is {log}",
    )


def _status(url: str, path: str, key: str | None) -> int:
    return request(url, "GET", path, key=key, timeout_s=5)[0]


def request(
    url: str, method: str, path: str, body: dict[str, Any] | None = None, *, key: str | None, timeout_s: float
) -> tuple[int, dict[str, Any]]:
    """One request to the server on this machine; status 0 when it cannot be reached."""
    address = urlsplit(url)
    connection = http.client.HTTPConnection(address.hostname or "127.0.0.1", address.port, timeout=timeout_s)
    headers = {"Content-Type": "application/json"} | ({"Authorization": f"Bearer {key}"} if key else {})
    try:
        connection.request(method, path, json.dumps(body) if body is not None else None, headers)
        answer = connection.getresponse()
        raw = answer.read()
    except (OSError, http.client.HTTPException):
        return 0, {}
    finally:
        connection.close()
    try:
        parsed = json.loads(raw)
    except ValueError:
        parsed = {}
    return answer.status, parsed if isinstance(parsed, dict) else {}
