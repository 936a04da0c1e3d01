"""The adapters' side of the protocol: read the job, write events, end with a result, a refusal or a failure.

Events, one JSON object a line on the descriptor that was stdout when the process started:
``phase`` (text), ``progress`` (done, total, note), ``note`` (text), ``refused`` (rule, message, hint),
``failed`` (type, message), ``result`` (data). Whatever a library prints goes to stderr, which is the log.
"""

from __future__ import annotations

import contextlib
import importlib.metadata
import json
import os
import resource
import sys
import time
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any, NoReturn, TextIO


class RefusedError(Exception):
    """The input cannot be worked on; found before any work."""

    def __init__(self, rule: str, message: str, hint: str) -> None:
        super().__init__(message)
        self.rule = rule
        self.hint = hint


class Channel:
    """Where events go."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream
        self._began = time.monotonic()

    def phase(self, text: str) -> None:
        """A new phase begins."""
        self.send("phase", text=text)

    def progress(self, done: int, total: int, note: str = "") -> None:
        """``done`` of ``total`` within the phase."""
        self.send("progress", done=done, total=total, note=note)

    def note(self, text: str) -> None:
        """Something worth a line."""
        self.send("note", text=text)

    def send(self, event: str, **fields: Any) -> None:
        """Write one event, at once."""
        self._stream.write(json.dumps({"event": event, **fields}) + "\n")
        self._stream.flush()


def run(main: Callable[[dict[str, Any], Channel], dict[str, Any]], job_file: Path) -> NoReturn:
    """Run an adapter's ``main(job, channel)`` to its end and leave the process."""
    channel = Channel(os.fdopen(os.dup(1), "w", encoding="utf-8"))
    os.dup2(2, 1)
    code = 1
    began = time.monotonic()
    try:
        job = json.loads(job_file.read_text(encoding="utf-8"))
        result = main(job, channel)
        channel.send("result", data={**result, **usage(began)})
        code = 0
    except RefusedError as refusal:
        channel.send("refused", rule=refusal.rule, message=str(refusal), hint=refusal.hint)
    except Exception as error:  # noqa: BLE001 - an engine may raise anything; the parent explains it
        lines = str(error).strip().splitlines() or [""]
        channel.send("failed", type=type(error).__name__, message=lines[0][:500])
        # The log may lie on the very disk whose being full is the failure.
        with contextlib.suppress(OSError):
            traceback.print_exc()
    with contextlib.suppress(OSError):
        sys.stderr.flush()
    # Engines leave threads, pools and exit hooks behind that can hang or crash an orderly exit after the work is done.
    os._exit(code)


def usage(began: float) -> dict[str, Any]:
    """Seconds, CPU seconds and peak resident memory of this process."""
    own = resource.getrusage(resource.RUSAGE_SELF)
    return {
        "seconds": round(time.monotonic() - began, 3),
        "cpu_seconds": round(own.ru_utime + own.ru_stime, 3),
        "peak_rss_bytes": own.ru_maxrss * 1024,
    }


def versions(*distributions: str) -> dict[str, str]:
    """Installed versions of those that are installed, and Python's."""
    found = {"python": ".".join(map(str, sys.version_info[:3]))}
    for name in distributions:
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return found


def seed_everything(seed: int, threads: int) -> None:
    """Fix the seeds and the number of threads: with both and the same input, results repeat."""
    import torch

    torch.manual_seed(seed)
    torch.set_num_threads(threads)


def device_peak_bytes(device: str) -> int | None:
    """Peak memory allocated on the device; None on the CPU."""
    if device == "cpu":
        return None
    import torch

    return int(torch.cuda.max_memory_allocated(device))


def restore_config(source: Path, out: Path, quantization: dict[str, Any] | None = None) -> None:
    """Remove paths of this machine from ``quantization_config`` of a saved checkpoint."""
    del source
    for name in ("config.json", "quantize_config.json"):
        path = out / name
        if not path.is_file():
            continue
        config = json.loads(path.read_text(encoding="utf-8"))
        section = config.get("quantization_config", config if name == "quantize_config.json" else {})
        meta = section.get("meta")
        if isinstance(meta, dict):
            meta.pop("offload_to_disk_path", None)
        if quantization:
            section.update(quantization)
        path.write_text(json.dumps(config, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
