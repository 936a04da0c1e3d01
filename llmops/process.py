"""Child processes that never outlive llmops.

Each child runs under a small guard process (``process_guard.py``) in a session of its own. The guard holds the read end
of a pipe whose write end only llmops holds: when llmops ends for any reason, ``kill -9`` included, the pipe closes and
the guard ends the child with everything the child started. A parent-death signal alone would not reach grandchildren,
and it fires when the *thread* that forked ends, not the process.
"""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import IO, Final, Self

from llmops.errors import MachineError

GUARD: Final = Path(__file__).with_name("process_guard.py")
KILL_GRACE_S: Final = 10.0
WAIT_POLL_S: Final = 0.05


@dataclass(frozen=True, slots=True)
class Command:
    """What to launch.

    Attributes:
        argv: Program and arguments; never a shell string.
        log: File that receives stderr, and stdout unless it is piped. Appended to, so that a crash loses nothing.
        env: Variables set over the inherited environment; ``None`` as value removes one.
        cwd: Working directory.
        grace_s: Seconds between TERM and KILL when it is stopped.
    """

    argv: tuple[str, ...]
    log: Path
    env: Mapping[str, str | None] = field(default_factory=dict)
    cwd: Path | None = None
    grace_s: float = KILL_GRACE_S


class Child:
    """A running child. Use it as a context manager: leaving the block stops it and everything it started."""

    def __init__(self, command: Command, process: subprocess.Popen[str], lifeline: int) -> None:
        self.command = command
        self._process = process
        self._lifeline = lifeline

    @property
    def pid(self) -> int:
        """Process id of the guard, whose descendants the child and its workers are."""
        return self._process.pid

    @property
    def returncode(self) -> int | None:
        """The child's exit code; 128 + n when signal n ended it (137: killed, often for memory); None while it runs."""
        return self._ended()

    @property
    def stdout(self) -> IO[str]:
        """Lines of the child's stdout, when it was started with ``pipe_stdout``."""
        assert self._process.stdout is not None
        return self._process.stdout

    def wait(self, timeout_s: float | None = None) -> int | None:
        """Wait for the end; returns the exit code, or None when the time is up."""
        deadline = None if timeout_s is None else time.monotonic() + timeout_s
        while (code := self._ended()) is None:
            if deadline is not None and time.monotonic() >= deadline:
                return None
            time.sleep(WAIT_POLL_S)
        return code

    def stop(self) -> int:
        """TERM to all of the child's processes, KILL after the grace time; returns the exit code."""
        self._close_lifeline()
        code = self.wait(self.command.grace_s + 5)
        if code is None:  # the guard itself is stuck (SIGSTOP, say)
            os.kill(self._process.pid, signal.SIGKILL)
            code = self.wait()
            assert code is not None
        return code

    def interrupt(self) -> None:
        """Pass SIGINT on, for a child that reports what it has on Ctrl-C."""
        if self._ended() is None:
            with contextlib.suppress(ProcessLookupError):
                os.kill(self._process.pid, signal.SIGINT)

    def _ended(self) -> int | None:
        """The guard's exit code, None while it runs.

        Not by Popen's poll and wait: they take a lock, and an exception that a signal's handler raises between taking
        it and the ``try`` that frees it (Ctrl-C, TERM) would make the next wait last forever. Asking the kernel without
        collecting the answer can be interrupted anywhere and asked again.
        """
        if self._process.returncode is None:
            state = os.waitid(os.P_PID, self._process.pid, os.WEXITED | os.WNOHANG | os.WNOWAIT)
            if state is None:
                return None
            code = state.si_status if state.si_code == os.CLD_EXITED else 128 + state.si_status
            self._process.returncode = code
            with contextlib.suppress(ChildProcessError):
                os.waitpid(self._process.pid, os.WNOHANG)  # now it may go
        return self._process.returncode

    def _close_lifeline(self) -> None:
        if self._lifeline >= 0:
            os.close(self._lifeline)
            self._lifeline = -1

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        self.stop()
        if self._process.stdout is not None:
            self._process.stdout.close()


def start(command: Command, *, pipe_stdout: bool = False) -> Child:
    """Launch ``command`` under a guard.

    Raises:
        MachineError: The program does not exist or cannot be run.
    """
    _require_program(command)
    command.log.parent.mkdir(parents=True, exist_ok=True)
    read_end, write_end = os.pipe()
    # -I -S: the guard needs the standard library only, and must not be bent by PYTHONPATH or the child's cwd.
    guard = (sys.executable, "-I", "-S", str(GUARD), str(read_end), str(command.grace_s), "--", *command.argv)
    with command.log.open("ab") as log:
        try:
            process = subprocess.Popen(
                guard,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE if pipe_stdout else log,
                stderr=log,
                cwd=command.cwd,
                env=merged_environment(command.env),
                pass_fds=(read_end,),
                start_new_session=True,
                text=True,
                encoding="utf-8",
                errors="replace",
            )
        except BaseException:
            os.close(write_end)
            raise
        finally:
            os.close(read_end)
    return Child(command, process, write_end)


def merged_environment(changes: Mapping[str, str | None]) -> dict[str, str]:
    """The inherited environment with ``changes`` applied; a None removes."""
    merged = dict(os.environ)
    for name, value in changes.items():
        if value is None:
            merged.pop(name, None)
        else:
            merged[name] = value
    return merged


def run_logged(
    argv: Sequence[str], log: Path, *, env: Mapping[str, str | None] | None = None, timeout_s: float = 3600
) -> int:
    """Run a command to its end with its output in ``log``; returns the exit code (124 when time was up)."""
    with start(Command(tuple(argv), log, env or {})) as child:
        code = child.wait(timeout_s)
        return 124 if code is None else code


def tail(path: Path, lines: int = 20, max_bytes: int = 65536) -> list[str]:
    """The last lines of a file, read from its end."""
    try:
        with path.open("rb") as file:
            file.seek(0, os.SEEK_END)
            file.seek(max(0, file.tell() - max_bytes))
            return file.read().decode("utf-8", "replace").splitlines()[-lines:]
    except FileNotFoundError:
        return []


def follow(path: Path, stop_when: Child, poll_s: float = 0.1) -> Iterator[str]:
    """Yield lines of a growing file until the child has ended and the file is read to its end."""
    with path.open("r", encoding="utf-8", errors="replace") as file:
        rest = ""
        while True:
            ended = stop_when.returncode is not None
            chunk = file.read()
            rest += chunk
            *whole, rest = rest.split("\n")
            yield from whole
            if not chunk:
                if ended:
                    break
                time.sleep(poll_s)
        if rest:
            yield rest


def _require_program(command: Command) -> None:
    import shutil

    program = command.argv[0]
    if shutil.which(program, path=merged_environment(command.env).get("PATH")) is None:
        raise MachineError(f"there is no program {program!r} on this machine", "check the path, or install it")
