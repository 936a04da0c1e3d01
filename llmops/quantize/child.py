"""Run one adapter in an engine's interpreter, relay its progress, and turn its end into a result or an error."""

from __future__ import annotations

import json
import os
import shutil
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

from llmops import process
from llmops.errors import LlmopsError, MachineError, OutsideError, UsageError
from llmops.progress import Progress
from llmops.units import format_duration

LAUNCHER: Final = Path(__file__).with_name("adapters") / "launch.py"
_KILLED: Final = (-9, 137)
# What libraries say when an allocation fails: torch's allocator, the C library, CUDA, the dynamic loader.
_NO_MEMORY: Final = ("an't allocate memory", "annot allocate memory", "out of memory", "failed to map segment")


def environment(threads: int, python: Path, *, local: bool, cores: int | None = None) -> dict[str, str | None]:
    """Variables for an engine's process. ``cores`` defaults to this machine's."""
    env: dict[str, str | None] = {
        "OMP_NUM_THREADS": str(threads),
        # Spinning workers steal the cores from each other on small machines: measured three times the CPU time.
        "OMP_WAIT_POLICY": "PASSIVE",
        "TOKENIZERS_PARALLELISM": "false",
        "HF_HUB_DISABLE_TELEMETRY": "1",
        "PYTHONUNBUFFERED": "1",
    }
    if min(threads, cores or os.cpu_count() or 1) <= 2:
        # GPTQModel gives its loader half the cores plus one, and dies when that is more than its pool has.
        env["GPTQMODEL_CPU_WORKERS"] = "2"
    if local:
        env["HF_HUB_OFFLINE"] = "1"
    if python != Path(sys.executable):
        env["PYTHONPATH"] = None  # packages of this interpreter would shadow the engine's own
    return env


def run_adapter(
    name: str, job: Mapping[str, Any], *, python: Path, work: Path, env: Mapping[str, str | None], progress: Progress
) -> dict[str, Any]:
    """Run ``adapters/NAME`` with ``job``, whose paths are absolute; returns the data of its result.

    Raises:
        UsageError: The adapter refused the input before any work.
        MachineError: It was killed or ran out of memory or disk.
        OutsideError: The engine failed otherwise.
    """
    job_file = work / f"{name}.json"
    job_file.write_text(json.dumps(dict(job), default=str), encoding="utf-8")
    log = work / f"{name}.log"
    # In the job's directory: engines write logs into the working directory, and those are nobody's to keep.
    argv = (str(python.absolute()), str(LAUNCHER), name, str(job_file.absolute()))
    command = process.Command(argv, log, env, cwd=work, grace_s=2.0)
    relay = Relay(progress)
    with process.start(command, pipe_stdout=True) as child:
        for line in child.stdout:
            relay.take(line)
        code = child.wait()
    if relay.refusal is not None:
        raise UsageError(relay.refusal["message"], relay.refusal["hint"])
    if code == 0 and relay.result is not None:
        return relay.result
    raise _failure(name, code, relay.failure, log)


class Relay:
    """Passes an adapter's events on to a progress display, with the time that is left."""

    def __init__(self, progress: Progress) -> None:
        self._progress = progress
        self._began = time.monotonic()
        self.result: dict[str, Any] | None = None
        self.refusal: dict[str, Any] | None = None
        self.failure: dict[str, Any] | None = None

    def take(self, line: str) -> None:
        """One line of the adapter's output; a line that is no event is ignored."""
        try:
            event = json.loads(line)
            kind = event["event"]
        except (ValueError, KeyError, TypeError):
            return
        if kind == "phase":
            self._began = time.monotonic()
            self._progress.phase(event["text"])
        elif kind == "progress":
            self._progress.update(event["done"], event["total"], self._note(event))
        elif kind == "note":
            self._progress.note(event["text"])
        elif kind == "result":
            self.result = event["data"]
        elif kind == "refused":
            self.refusal = event
        elif kind == "failed":
            self.failure = event

    def _note(self, event: Mapping[str, Any]) -> str:
        done, total = event["done"], event["total"]
        parts = [str(event["note"])] if event.get("note") else []
        if 0 < done < total:
            left = (time.monotonic() - self._began) / done * (total - done)
            parts.append(f"{format_duration(left)} left")
        return ", ".join(parts)


def _failure(name: str, code: int | None, failed: Mapping[str, Any] | None, log: Path) -> LlmopsError:
    """The error for an adapter that ended without a result."""
    from llmops.quantize.explain import explain

    kept = keep_log(log)
    if code in _KILLED:
        return MachineError(
            "the engine was killed (signal 9): out of memory, as far as the system tells",
            f"stop other programs, lower --samples, or use --method bnb-nf4; log: {kept}",
        )
    kind = str(failed["type"]) if failed else ""
    text = f"{kind}: {failed['message']}" if failed else f"it ended with exit code {code}"
    if kind in ("MemoryError", "OutOfMemoryError") or any(words in text for words in _NO_MEMORY):
        return MachineError(
            f"the engine ran out of memory ({text})", f"use a smaller model or --method bnb-nf4; log: {kept}"
        )
    if "No space left on device" in text:
        return MachineError(f"the disk is full ({text})", f"free some space, or choose another --out; log: {kept}")
    cause = explain(log)
    message = f"the engine failed: {text}" if cause is None else f"the engine failed: {cause[0]} ({text})"
    hint = f"see {kept}" if cause is None or not cause[1] else f"{cause[1]}; log: {kept}"
    del name
    return OutsideError(message, hint)


def keep_log(log: Path) -> Path:
    """Copy a failed run's log to the state directory, since the run's own directory goes away."""
    from llmops.settings import settings

    target = settings().state_dir / "logs" / f"quantize-{time.strftime('%Y%m%d-%H%M%S')}-{log.stem}.log"
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(log, target)
    except OSError:
        return log
    return target
