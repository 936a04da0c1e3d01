"""The directory of one run: a lock, what each finished step left, and the reports. Survives ``kill -9`` at any point."""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec

from llmops import __version__
from llmops.errors import MachineError, UsageError
from llmops.report.files import write_whole


@contextlib.contextmanager
def locked(path: Path) -> Iterator[None]:
    """Hold the run directory for this process. The lock is the kernel's, so a killed run leaves none behind.

    Raises:
        MachineError: Another run holds it.
        UsageError: The path exists and is no directory.
    """
    if path.exists() and not path.is_dir():
        raise UsageError(f"{path} exists and is not a directory", "choose another name with --name")
    path.mkdir(parents=True, exist_ok=True)
    handle = os.open(path / ".lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
    try:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise MachineError(
                f"another run is at work in {path}", "wait for it, or give this one its own --name"
            ) from None
        yield
    finally:
        os.close(handle)


def fingerprint(*parts: Any) -> str:
    """A short hash of everything a step depends on; the version of llmops is always part of it."""
    encoded = msgspec.json.encode([__version__, *parts], enc_hook=str, order="deterministic")
    return hashlib.sha256(encoded).hexdigest()[:16]


def model_fingerprint(path: Path) -> str:
    """Identity of a checkpoint without reading its weights: names, sizes and times of its files."""
    files = [path] if path.is_file() else sorted(each for each in path.iterdir() if each.is_file())
    return fingerprint([(each.name, each.stat().st_size, each.stat().st_mtime_ns) for each in files])


def recall(path: Path, key: str) -> Any | None:
    """What a finished step left under ``key``; None when it never finished, or with other inputs."""
    try:
        record = msgspec.json.decode(path.read_bytes())
    except (FileNotFoundError, msgspec.DecodeError):
        return None
    return record.get("result") if isinstance(record, dict) and record.get("key") == key else None


def remember(path: Path, key: str, result: Any) -> None:
    """Record that a step finished, whole or not at all."""
    write_whole(path, msgspec.json.encode({"key": key, "result": result}, enc_hook=_plain).decode())


def discard(path: Path) -> None:
    """Remove what an earlier, different run left: a file or a directory."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


def _plain(value: Any) -> Any:
    if isinstance(value, Path):
        return str(value)
    dump = getattr(value, "model_dump", None)
    if callable(dump):
        return dump(mode="json")
    return str(value)
