"""The output directory: made beside its name as ``OUT.partial``, and renamed only when it is whole."""

from __future__ import annotations

import fcntl
import os
import shutil
import uuid
from pathlib import Path
from types import TracebackType
from typing import Self

from llmops.errors import MachineError, UsageError


class Workspace:
    """``OUT.partial/RUN/{model,job}``, locked while it is used, removed when the block ends however it ends.

    What a killed run left is replaced: its lock died with it. Each run works in a directory of its own name, so that an
    orphan of a killed run, in the second before its guard ends it, writes into a place that is gone.
    """

    def __init__(self, out: Path, *, force: bool = False) -> None:
        self.out = out.absolute()
        self.force = force
        self.partial = self.out.with_name(self.out.name + ".partial")
        self.rejected = self.out.with_name(self.out.name + ".rejected")
        self._run = self.partial / uuid.uuid4().hex[:8]
        self._lock = -1

    @property
    def model(self) -> Path:
        """Where the engine writes the checkpoint."""
        return self._run / "model"

    @property
    def job(self) -> Path:
        """Job files, logs and scratch space."""
        return self._run / "job"

    def __enter__(self) -> Self:
        refuse_existing(self.out, force=self.force)
        self.partial.mkdir(parents=True, exist_ok=True)
        self._lock = os.open(self.partial, os.O_RDONLY | os.O_DIRECTORY)
        try:
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(self._lock)
            raise MachineError(
                f"another llmops is writing {self.out}", "wait for it, or choose another --out"
            ) from None
        for stale in self.partial.iterdir():
            shutil.rmtree(stale, ignore_errors=True)
        self.job.mkdir(parents=True)
        self.model.mkdir()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        shutil.rmtree(self.partial, ignore_errors=True)
        os.close(self._lock)

    def publish(self) -> Path:
        """Give the finished checkpoint its name."""
        _sync(self.model)
        if self.out.exists():
            self.out.rename(self._run / "replaced")
        self.model.rename(self.out)
        shutil.rmtree(self.rejected, ignore_errors=True)
        return self.out

    def reject(self) -> Path:
        """Keep a checkpoint that failed its gate as ``OUT.rejected``, in place of an older one."""
        if self.rejected.exists():
            self.rejected.rename(self._run / "replaced")
        self.model.rename(self.rejected)
        return self.rejected


def refuse_existing(out: Path, *, force: bool) -> None:
    """Refuse to write over something.

    Raises:
        UsageError: ``out`` exists and is not to be replaced, or its parent cannot hold it.
    """
    if out.is_dir() and any(out.iterdir()) and not force:
        raise UsageError(f"--out {out} exists already", "choose another name, or replace it with --force")
    if out.exists() and not out.is_dir():
        raise UsageError(f"--out {out} is a file", "give a directory that does not exist yet")
    if force and out.is_dir() and any(out.iterdir()) and not (out / "config.json").is_file():
        raise UsageError(f"--out {out} is no checkpoint, so --force will not replace it", "choose another name")


def existing_parent(path: Path) -> Path:
    """The nearest directory above ``path`` that exists: its file system will hold the output."""
    for parent in (path.absolute(), *path.absolute().parents):
        if parent.is_dir():
            return parent
    return Path("/")


def _sync(directory: Path) -> None:
    """Flush the files to the disk, so that a power cut cannot leave a whole-looking directory with empty files."""
    for path in directory.rglob("*"):
        if path.is_file():
            handle = os.open(path, os.O_RDONLY)
            try:
                os.fsync(handle)
            finally:
                os.close(handle)
