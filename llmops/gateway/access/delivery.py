"""Handing a secret to its owner: into a file that only the owner may read, or a descriptor; never to stdout or a log."""

from __future__ import annotations

import os
import stat
from pathlib import Path

from llmops.errors import UsageError


def deliver(to: Path, secret: str) -> None:
    """Write ``secret`` and a newline to a new file with mode 600, or to an open descriptor (``/dev/fd/3``).

    Raises:
        UsageError: The file exists, or its directory does not.
    """
    refuse_existing(to)
    if _is_stream(to):
        with to.open("w", encoding="utf-8") as stream:
            stream.write(secret + "\n")
        return
    descriptor = os.open(to, os.O_CREAT | os.O_EXCL | os.O_WRONLY | os.O_CLOEXEC, 0o600)
    with os.fdopen(descriptor, "w", encoding="utf-8") as file:
        file.write(secret + "\n")


def refuse_existing(to: Path) -> None:
    """Refuse before work what ``deliver`` would refuse after it.

    Raises:
        UsageError: The file exists, or its directory does not.
    """
    if _is_stream(to):
        return
    if to.exists() or to.is_symlink():
        raise UsageError(f"{to} exists already; a secret never overwrites a file", "name a new file with --to")
    if not to.absolute().parent.is_dir():
        raise UsageError(f"there is no directory {to.parent}", f"mkdir -p {to.parent}")


def _is_stream(to: Path) -> bool:
    try:
        mode = to.stat().st_mode
    except OSError:
        return False
    return stat.S_ISFIFO(mode) or stat.S_ISCHR(mode) or stat.S_ISSOCK(mode) or str(to).startswith("/dev/fd/")
