"""Downloads from a model hub in a child process, which can be stopped at any moment and resumes where it was."""

from __future__ import annotations

import json
import queue
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

from llmops import process
from llmops.progress import Progress
from llmops.units import format_size

CHILD: Final = Path(__file__).with_name("hub_child.py")
# A download that brings nothing for this long is given up; it resumes on the next run.
STALL_S: Final = 120.0


class RefusedError(Exception):
    """The hub did not give the model; the message says why, as a clause."""


def download(
    repo: str,
    revision: str | None,
    target: Path,
    progress: Progress,
    on_reached: Callable[[str | None], None],
    *,
    timeout_s: float,
) -> tuple[Path, str | None]:
    """Download a model's safe files into ``target``; returns where it is and the licence that the hub states.

    Works in ``target.partial``, which a later call continues. ``on_reached`` gets the licence before any file is fetched.
    With HF_HUB_OFFLINE set only the hub's own local cache is used, and the path returned lies there.

    Raises:
        RefusedError: The hub is not reached within ``timeout_s``, refuses, or stops sending.
    """
    partial = target.with_name(target.name + ".partial")
    partial.mkdir(parents=True, exist_ok=True)
    job = {"repo": repo, "revision": revision, "local_dir": str(partial), "timeout_s": timeout_s}
    log = partial.with_name(partial.name + ".log")
    env = {"HF_HUB_DISABLE_TELEMETRY": "1", "HF_HUB_DISABLE_PROGRESS_BARS": "1"}
    command = process.Command((sys.executable, "-P", str(CHILD), json.dumps(job)), log, env, grace_s=2)
    progress.phase(f"Asking the hub for {repo}")
    with process.start(command, pipe_stdout=True) as child:
        messages = _messages(child)
        try:
            reached, path = _conversation(messages, partial, progress, on_reached, timeout_s)
        except RefusedError:
            if not any(path.is_file() for path in partial.rglob("*.safetensors*")):
                _remove_empty(partial)
            raise
    log.unlink(missing_ok=True)
    if path == partial:
        partial.rename(target)
        path = target
    return path, reached.get("licence")


def _messages(child: process.Child) -> queue.Queue[dict[str, Any]]:
    """The child's messages, read by a thread so that waiting for one can time out."""
    messages: queue.Queue[dict[str, Any]] = queue.Queue()

    def read() -> None:
        for line in child.stdout:
            messages.put(json.loads(line))
        messages.put({"refused": "the download ended without a word; see its log"})

    threading.Thread(target=read, daemon=True).start()
    return messages


def _conversation(
    messages: queue.Queue[dict[str, Any]],
    partial: Path,
    progress: Progress,
    on_reached: Callable[[str | None], None],
    timeout_s: float,
) -> tuple[dict[str, Any], Path]:
    try:
        first = messages.get(timeout=timeout_s)
    except queue.Empty:
        raise RefusedError(f"the hub did not answer within {timeout_s:g} s") from None
    if "refused" in first:
        raise RefusedError(first["refused"])
    if "done" in first:  # offline, from the hub's cache
        on_reached(None)
        return {}, Path(first["done"])
    reached = first["reached"]
    on_reached(reached["licence"])
    progress.phase(f"Downloading {format_size(reached['total_bytes'])}")
    size, changed = 0, time.monotonic()
    while True:
        try:
            message = messages.get(timeout=0.5)
        except queue.Empty:
            now = sum(path.stat().st_size for path in _files(partial))
            if now != size:
                size, changed = now, time.monotonic()
                progress.update(size, reached["total_bytes"] or None, format_size(size))
            elif time.monotonic() - changed > STALL_S:
                raise RefusedError(f"the download stood still for {STALL_S:g} s; run again to continue it") from None
            continue
        if "done" in message:
            return reached, Path(message["done"])
        raise RefusedError(message.get("refused", "the download failed"))


def _files(directory: Path) -> list[Path]:
    try:
        return [path for path in directory.rglob("*") if path.is_file()]
    except FileNotFoundError:  # the downloader renames its temporary files as they become whole
        return []


def _remove_empty(partial: Path) -> None:
    import shutil

    shutil.rmtree(partial, ignore_errors=True)
    partial.with_name(partial.name + ".log").unlink(missing_ok=True)
