"""Child processes: nothing outlives llmops, whatever ends it."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest

from llmops.errors import MachineError
from llmops.process import Command, follow, start, tail

# A child that starts a grandchild which leaves its session, ignores TERM and writes both pids.
STUBBORN = """
import os, signal, subprocess, sys, time
pids = sys.argv[1]
grandchild = subprocess.Popen([sys.executable, "-c",
    "import signal,time; signal.signal(signal.SIGTERM, signal.SIG_IGN); print('up', flush=True); time.sleep(600)"],
    start_new_session=True, stdout=subprocess.PIPE, text=True)
grandchild.stdout.readline()
open(pids + ".part", "w").write(f"{os.getpid()} {grandchild.pid}")
os.rename(pids + ".part", pids)
print("ready", flush=True)
time.sleep(600)
"""

HOLDER = """
import sys, time
from pathlib import Path
from llmops.process import Command, start
child = start(Command((sys.executable, "-c", sys.argv[1], sys.argv[2]), Path(sys.argv[3]), grace_s=0.3))
print("started", flush=True)
time.sleep(600)
"""


def until(condition, seconds=20.0):
    """Poll a condition with a deadline; the deadline only matters when the test fails."""
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "condition not met in time"
        time.sleep(0.02)


def ended(pid):
    try:
        return psutil.Process(pid).status() == psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return True


def gone(pids):
    return all(ended(pid) for pid in pids)


def test_stop_ends_grandchildren_that_ignore_term(tmp_path):
    pids = tmp_path / "pids"
    child = start(Command((sys.executable, "-c", STUBBORN, str(pids)), tmp_path / "log", grace_s=0.3))
    until(pids.exists)
    tree = [int(word) for word in pids.read_text().split()]
    assert child.stop() == 128 + signal.SIGTERM
    until(lambda: gone([*tree, child.pid]))


@pytest.mark.parametrize("signum", [signal.SIGKILL, signal.SIGTERM, signal.SIGHUP, signal.SIGINT])
def test_nothing_outlives_its_holder(tmp_path, signum):
    pids = tmp_path / "pids"
    holder = subprocess.Popen(
        [sys.executable, "-c", HOLDER, STUBBORN, str(pids), str(tmp_path / "log")], stdout=subprocess.PIPE, text=True
    )
    assert holder.stdout.readline() == "started\n"
    until(pids.exists)
    tree = [int(word) for word in pids.read_text().split()]
    holder.send_signal(signum)
    holder.wait(20)
    holder.stdout.close()
    until(lambda: gone(tree))


def test_grandchildren_left_by_a_crash_are_ended(tmp_path):
    pids = tmp_path / "pids"
    child = start(Command((sys.executable, "-c", STUBBORN, str(pids)), tmp_path / "log", grace_s=0.3))
    until(pids.exists)
    main, grandchild = (int(word) for word in pids.read_text().split())
    os.kill(main, signal.SIGKILL)
    assert child.wait(20) == 128 + signal.SIGKILL
    until(lambda: gone([grandchild]))
    child.stop()


def test_exit_code_and_log_survive(tmp_path):
    log = tmp_path / "deep" / "log"
    with start(
        Command((sys.executable, "-c", "import sys; print('out'); print('err', file=sys.stderr); sys.exit(7)"), log)
    ) as child:
        assert list(follow(log, child)) in (["out", "err"], ["err", "out"])
        assert child.wait(20) == 7
    assert sorted(tail(log)) == ["err", "out"]


def test_piped_stdout_ends_with_the_child(tmp_path):
    with start(Command((sys.executable, "-c", "print('{}'); print('x')"), tmp_path / "log"), pipe_stdout=True) as child:
        assert list(child.stdout) == ["{}\n", "x\n"]


def test_missing_program_is_the_machines_fault(tmp_path):
    with pytest.raises(MachineError, match="no program 'no-such-program'"):
        start(Command(("no-such-program",), tmp_path / "log"))
    assert not Path(tmp_path / "log").exists()


def test_environment_changes_reach_the_child(tmp_path):
    command = Command(
        (sys.executable, "-c", "import os; print(os.environ.get('LLMOPS_T'), 'HOME' in os.environ)"),
        tmp_path / "log",
        env={"LLMOPS_T": "1", "HOME": None},
    )
    with start(command) as child:
        assert child.wait(20) == 0
    assert tail(tmp_path / "log") == ["1 False"]


INTERRUPTED_WAITER = """
import signal, sys, threading
from pathlib import Path
from llmops.process import Command, start

class Stop(Exception): pass
def stop(*_): raise Stop
signal.signal(signal.SIGALRM, stop)
child = start(Command((sys.executable, "-c", "import time; time.sleep(600)"), Path(sys.argv[1]), grace_s=0.3))
for _ in range(3000):  # a handler that raises, at every point of the wait
    try:
        signal.setitimer(signal.ITIMER_REAL, 0.0002 + (_ % 97) * 1e-6)
        while True:
            child.wait(0)
            child.returncode
    except Stop:
        pass
signal.signal(signal.SIGALRM, signal.SIG_IGN)
print(child.stop(), flush=True)
"""


def test_a_signal_that_raises_within_a_wait_does_not_block_the_stop(tmp_path):
    done = subprocess.run(
        [sys.executable, "-c", INTERRUPTED_WAITER, str(tmp_path / "log")], capture_output=True, text=True, timeout=60
    )
    assert done.stdout == f"{128 + signal.SIGTERM}\n", done.stderr
