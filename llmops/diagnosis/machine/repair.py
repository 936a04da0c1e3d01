"""Safe local remedies: end orphans of this user that hold a GPU, remove stale partial downloads, raise a soft limit.

Each is planned first as a value, shown, and only then applied. Nothing that belongs to another user, to a running
program or to the system is touched.
"""

from __future__ import annotations

import contextlib
import os
import resource
import signal
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import psutil

from llmops.diagnosis.machine import system
from llmops.hardware import Host
from llmops.progress import Progress
from llmops.units import format_size


@dataclass(frozen=True, slots=True)
class Repair:
    """One change: what it is in words, and how it is made."""

    text: str
    apply: Callable[[], None]


def plan(host: Host | None) -> tuple[Repair, ...]:
    """What could be repaired here and now, without changing anything."""
    repairs = [*(_orphans(host) if host else ()), *_downloads()]
    limit = _open_files()
    return tuple([*repairs, limit] if limit else repairs)


def carry_out(repairs: tuple[Repair, ...], progress: Progress) -> tuple[str, ...]:
    """Show all, then apply each; returns what was done, or why it was not."""
    for repair in repairs:
        progress.note(f"will {repair.text}")
    done = []
    for repair in repairs:
        try:
            repair.apply()
            done.append(repair.text)
        except (OSError, ValueError, psutil.Error) as error:
            done.append(f"could not {repair.text}: {error}")
    return tuple(done)


def _orphans(host: Host) -> list[Repair]:
    """Processes of this user on a GPU whose parent is gone: left over from a server that died."""
    found = []
    for gpu in host.gpus:
        for holder in gpu.processes:
            with contextlib.suppress(psutil.Error):
                process = psutil.Process(holder.pid)
                if (
                    process.uids().real == os.getuid()
                    and process.ppid() in (0, 1)
                    and "python" in process.name().lower()
                ):
                    text = f"end process {holder.pid} ({process.name()}), an orphan of yours on GPU {gpu.index}"
                    found.append(Repair(text, _ender(process)))
    return found


def _ender(process: psutil.Process) -> Callable[[], None]:
    def end() -> None:
        process.send_signal(signal.SIGTERM)  # psutil refuses when the pid was given to another process meanwhile
        with contextlib.suppress(psutil.TimeoutExpired):
            process.wait(10)
            return
        process.kill()

    return end


def _downloads() -> list[Repair]:
    return [
        Repair(f"remove the unfinished download {path.name[:16]}… ({format_size(path.stat().st_size)})", _remover(path))
        for path in system.stale_downloads()
    ]


def _remover(path: Path) -> Callable[[], None]:
    return lambda: path.unlink(missing_ok=True)


def _open_files() -> Repair | None:
    """Raise the soft limit of the shell that runs this command, for what is started from it next."""
    shell = os.getppid()
    try:
        soft, hard = resource.prlimit(shell, resource.RLIMIT_NOFILE)
    except OSError:
        return None
    wanted = 65536 if hard == resource.RLIM_INFINITY else min(hard, 65536)
    if soft == resource.RLIM_INFINITY or soft >= min(wanted, 4096):
        return None
    text = f"raise the limit of open files of this shell from {soft} to {wanted}"
    return Repair(text, lambda: _raise(shell, wanted, hard))


def _raise(shell: int, wanted: int, hard: int) -> None:
    resource.prlimit(shell, resource.RLIMIT_NOFILE, (wanted, hard))
