"""The other end of ``children.run_worker``: does one heavy job in a process of its own.

Run as ``python -m llmops.export.worker JOB.json``. Each line on stdout is one JSON object: ``{"phase": …}``,
``{"update": [done, total, note]}``, ``{"note": …}``, at the end ``{"result": …}`` or ``{"error": …}``.
"""

from __future__ import annotations

import importlib
import json
import os
import sys
from pathlib import Path
from typing import Any, Final, TextIO

from llmops.errors import LlmopsError

# Kind of job -> the function that does it: ``work(job, progress) -> result``, both plain data.
JOBS: Final[dict[str, str]] = {
    "onnx-export": "llmops.export.onnx.convert:work",
    "onnx-check": "llmops.export.onnx.parity:work",
    "tensorrt-build": "llmops.export.tensorrt.builder:work",
    "tensorrt-run": "llmops.export.tensorrt.runner:work",
    "tensorrt-precision": "llmops.export.tensorrt.precision:work",
}


class Lines:
    """A progress sink that writes lines for the parent."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream

    def say(self, **message: Any) -> None:
        """One line."""
        self._stream.write(json.dumps(message) + "\n")
        self._stream.flush()

    def phase(self, text: str) -> None:
        """See ``Progress``."""
        self.say(phase=text)

    def update(self, done: float, total: float | None = None, note: str = "") -> None:
        """See ``Progress``."""
        self.say(update=[done, total, note])

    def note(self, text: str) -> None:
        """See ``Progress``."""
        self.say(note=text)


def main() -> None:
    """Do the job; end without running the exit handlers of heavy libraries."""
    job = json.loads(Path(sys.argv[1]).read_text(encoding="utf-8"))
    out = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)  # libraries print; the lines of the parent must stay clean
    lines = Lines(out)
    module, _, name = JOBS[job["kind"]].partition(":")
    code = 0
    try:
        lines.say(result=getattr(importlib.import_module(module), name)(job, lines))
    except LlmopsError as error:
        lines.say(error={"message": error.message, "hint": error.hint, "exit_code": int(error.exit_code)})
        code = int(error.exit_code)
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)


if __name__ == "__main__":
    main()
