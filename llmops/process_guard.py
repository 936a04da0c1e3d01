"""Run as ``python -I -S process_guard.py LIFELINE_FD GRACE_S -- PROGRAM ARG…``: ends PROGRAM's whole tree when the
lifeline closes. Standard library only; it imports nothing of llmops, so that it starts in milliseconds.

It is the child's subreaper: processes that the child orphans (vLLM's workers, say) become the guard's children, so it
can find and end every one of them.
"""

from __future__ import annotations

import ctypes
import os
import select
import signal
import sys
import time
from types import FrameType

_PR_SET_PDEATHSIG = 1
_PR_SET_CHILD_SUBREAPER = 36


def descendants(root: int) -> list[int]:
    """Process ids below ``root``, parents first, read from /proc."""
    children: dict[int, list[int]] = {}
    for name in os.listdir("/proc"):  # noqa: PTH208 - pathlib would double the start-up time
        if name.isdigit():
            try:
                with open(f"/proc/{name}/stat", "rb") as stat:  # noqa: PTH123 - as above
                    fields = stat.read().rpartition(b")")[2].split()
            except OSError:
                continue
            if fields[0] != b"Z":
                children.setdefault(int(fields[1]), []).append(int(name))
    found: list[int] = []
    front = [root]
    while front:
        front = [child for parent in front for child in children.get(parent, [])]
        found += front
    return found


def signal_all(pids: list[int], signum: int) -> None:
    """Send a signal to each process that still exists."""
    for pid in pids:
        try:
            os.kill(pid, signum)
        except (ProcessLookupError, PermissionError):
            continue


def reap() -> dict[int, int]:
    """Collect every ended child; returns pid -> exit code (128 + n for signal n)."""
    ended: dict[int, int] = {}
    while True:
        try:
            pid, status = os.waitpid(-1, os.WNOHANG)
        except ChildProcessError:
            return ended
        if pid == 0:
            return ended
        ended[pid] = 128 + os.WTERMSIG(status) if os.WIFSIGNALED(status) else os.WEXITSTATUS(status)


def end_tree(grace_s: float) -> dict[int, int]:
    """TERM, then KILL after the grace time, until no descendant is left."""
    me = os.getpid()
    ended = reap()
    signal_all(descendants(me), signal.SIGTERM)
    deadline = time.monotonic() + grace_s
    while descendants(me):
        ended.update(reap())
        if time.monotonic() > deadline:
            signal_all(descendants(me), signal.SIGKILL)
        time.sleep(0.02)
    ended.update(reap())
    return ended


def main() -> int:
    """Guard one program; returns its exit code."""
    lifeline, grace_s, argv = int(sys.argv[1]), float(sys.argv[2]), sys.argv[4:]
    ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)
    wake_read, wake_write = os.pipe()
    os.set_blocking(wake_write, False)
    signal.set_wakeup_fd(wake_write, warn_on_full_buffer=False)
    child = os.fork()
    if child == 0:
        signal.set_wakeup_fd(-1)
        for fd in (lifeline, wake_read, wake_write):
            os.close(fd)
        os.setpgid(0, 0)
        # For the case that the guard itself is killed; its parent is alive now, so no race.
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGTERM, 0, 0, 0)
        try:
            os.execvp(argv[0], argv)  # noqa: S606 - launching the given program is the job
        except OSError as error:
            os.write(2, f"{argv[0]}: {error.strerror}\n".encode())
            os._exit(127)

    def forward(signum: int, _frame: FrameType | None) -> None:
        signal_all([child], signum)

    signal.signal(signal.SIGCHLD, lambda *_: None)
    signal.signal(signal.SIGINT, forward)
    stopping = []
    signal.signal(signal.SIGTERM, lambda *_: stopping.append(True))
    signal.signal(signal.SIGHUP, signal.SIG_IGN)
    # The guard must not keep the child's pipes open: readers wait for their end.
    null = os.open(os.devnull, os.O_RDWR)
    os.dup2(null, 1)
    os.dup2(null, 2)
    while True:
        ended = reap()
        if child in ended:
            end_tree(grace_s)
            return ended[child]
        ready, _, _ = select.select([lifeline, wake_read], [], [], 5.0)
        if wake_read in ready:
            os.read(wake_read, 4096)
        if lifeline in ready or stopping:
            return end_tree(grace_s).get(child, 143)


if __name__ == "__main__":
    sys.exit(main())
