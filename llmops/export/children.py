"""Run a heavy job in a child process: its progress, its result, and what to say when it dies."""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

from llmops.errors import ExitCode, LlmopsError, MachineError, OutsideError
from llmops.process import Child, Command, start, tail
from llmops.progress import Progress

KILLED: Final = 137
_ERROR_LINE: Final = re.compile(r"^(?:\[?[\w.]+\]?: )?[\w.]*(?:Error|Exception|Violation\w*)\b.*")


def run_worker(
    job: Mapping[str, Any],
    log: Path,
    progress: Progress,
    *,
    python: Path | None = None,
    env: Mapping[str, str | None] | None = None,
    threads: int = 1,
) -> dict[str, Any]:
    """Do ``job`` (see ``worker``) in a process of its own, which ends with this one.

    Args:
        job: Plain data with the key ``kind``.
        log: Receives what libraries print.
        progress: Shows the child's progress.
        python: Another interpreter; llmops need not be installed in it.
        env: Further variables.
        threads: For the libraries' thread pools.

    Raises:
        LlmopsError: What the job itself reports.
        MachineError: It was killed, most often for memory.
        OutsideError: It died of something else; the message is the last error line of its log.
    """
    path = log.with_suffix(".job.json")
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(dict(job), default=str), encoding="utf-8")
    root = str(Path(__file__).parent.parent.parent)
    variables = {
        "HF_HUB_OFFLINE": "1",
        "TRANSFORMERS_VERBOSITY": "error",
        "TOKENIZERS_PARALLELISM": "false",
        "OMP_NUM_THREADS": str(threads),
        "OMP_WAIT_POLICY": "PASSIVE",
        # Weights are freed in large pieces between phases: what is as large as a weight goes back to the system at once. Smaller
        # thresholds do that with every small tensor too, which takes 5 % of an export's time and saves no memory.
        "MALLOC_MMAP_THRESHOLD_": str(4 * 2**20),
        "MALLOC_TRIM_THRESHOLD_": str(64 * 2**20),
        **({"PYTHONPATH": root} if python else {}),
        **(env or {}),
    }
    argv = (str(python or sys.executable), "-m", "llmops.export.worker", str(path))
    with start(Command(argv, log, variables), pipe_stdout=True) as child:
        try:
            return _listen(child, log, progress)
        finally:
            path.unlink(missing_ok=True)


def _listen(child: Child, log: Path, progress: Progress) -> dict[str, Any]:
    for line in child.stdout:
        message = _message(line)
        if "phase" in message:
            progress.phase(message["phase"])
        elif "update" in message:
            progress.update(*message["update"])
        elif "note" in message:
            progress.note(message["note"])
        elif "result" in message:
            child.wait(30)
            return dict(message["result"])
        elif "error" in message:
            raise _reported(message["error"])
    raise _died(child.wait(30), log)


def _message(line: str) -> dict[str, Any]:
    try:
        found = json.loads(line)
    except ValueError:
        return {}
    return found if isinstance(found, dict) else {}


def _reported(error: Mapping[str, Any]) -> LlmopsError:
    return LlmopsError(error["message"], error["hint"], exit_code=ExitCode(error["exit_code"]))


def _died(code: int | None, log: Path) -> LlmopsError:
    if code == KILLED:
        return MachineError(
            "the worker process was killed, most often because memory ran out",
            "see `dmesg | tail`, or free some memory",
        )
    line = first_error(tail(log, 200)) or f"it ended with code {code} and said nothing"
    return OutsideError(f"the worker process failed: {line}", f"its log: {log}; llmops diagnose {log}")


def first_error(lines: list[str]) -> str | None:
    """The line of a traceback that names the error: of a chain of exceptions the first, which is the cause."""
    for line in lines:
        if _ERROR_LINE.match(line.strip()) and "deprecat" not in line.lower():
            return line.strip()[:400]
    plain = [line.strip() for line in lines if line.strip()]
    return plain[-1][:400] if plain else None
