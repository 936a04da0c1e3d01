"""Checks of the machine: limits of time, crashes as results, and what they do to a diagnosis."""

from __future__ import annotations

import json
import os
import threading
import time

import pytest

from llmops.diagnosis.api import diagnose_files, diagnose_text
from llmops.diagnosis.machine import examine, read_state, repair
from llmops.diagnosis.machine.state import Check, MachineReport
from llmops.errors import UsageError
from llmops.hardware import detect
from llmops.progress import Silent


def test_a_crashed_check_is_a_result_and_a_hanging_one_too():
    never = threading.Event()

    def crash(_host):
        raise RuntimeError("the driver answered nonsense\nsecond line")

    def hang(_host):
        never.wait(30)
        return Check("hangs", "ok", "")

    began = time.monotonic()
    report = examine(
        None, {"crashes": crash, "hangs": hang, "works": lambda _h: Check("works", "ok", "fine")}, limit_s=0.3
    )
    never.set()
    assert time.monotonic() - began < 20
    outcomes = {check.name: check.outcome for check in report.checks}
    assert outcomes == {"crashes": "crashed", "hangs": "late", "works": "ok"}
    assert "nonsense" in report.checks[0].summary
    assert "second" not in report.checks[0].summary
    assert report.ok


def _machine(**kwargs):
    return MachineReport((Check("x", "warning", "seen", **kwargs),))


def test_the_machine_raises_and_lowers_but_never_invents(tmp_path):
    log = tmp_path / "a.log"
    log.write_text("Bus error (core dumped)\n")
    plain = diagnose_files([log]).top
    surer = diagnose_files([log], None, _machine(causes=("shm-small",))).top
    doubted = diagnose_files([log], None, _machine(clears=("shm-small",))).top
    assert surer.confidence > plain.confidence > doubted.confidence
    log.write_text("INFO:     Application startup complete.\n")
    assert diagnose_files([log], None, _machine(causes=("shm-small", "no-gpu"))).status == "healthy"


def test_a_saved_state_is_read_again(tmp_path):
    path = tmp_path / "state.json"
    path.write_text(
        json.dumps({"data": {"checks": [{"name": "a", "outcome": "ok", "summary": "s", "clears": ["no-gpu"]}]}})
    )
    assert read_state(path).cleared == {"no-gpu"}


@pytest.mark.parametrize(
    "text",
    [
        "",
        "[]",
        "{}",
        '{"data": {"checks": [{"name": 1}]}}',
        '{"data": {"checks": [{"name": "a", "outcome": "fine", "summary": ""}]}}',
    ],
)
def test_what_is_no_state_is_refused(text, tmp_path):
    path = tmp_path / "state.json"
    path.write_text(text)
    with pytest.raises(UsageError, match=r"state\.json"):
        read_state(path)


def test_repairs_are_planned_then_shown_then_applied(tmp_path, monkeypatch):
    blobs = tmp_path / "hub" / "models--a--b" / "blobs"
    blobs.mkdir(parents=True)
    old, new, whole = blobs / "1.incomplete", blobs / "2.incomplete", blobs / "3"
    for path in (old, new, whole):
        path.write_bytes(b"x" * 10)
    os.utime(old, (1, 1))
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path / "hub"))
    planned = [r for r in repair.plan(None) if "unfinished" in r.text]
    assert len(planned) == 1
    assert old.exists()

    shown = []

    class Seen(Silent):
        def note(self, text):
            shown.append((text, old.exists()))

    done = repair.carry_out(tuple(planned), Seen())
    assert shown[0][1], "it is shown before it is done"
    assert len(done) == 1
    assert not old.exists()
    assert new.exists()
    assert whole.exists()


def test_detection_of_this_machine_gives_every_check_an_answer():
    report = examine(host=detect(sample_s=0.0))
    assert len(report.checks) >= 15
    assert all(check.summary for check in report.checks)
    assert {finding.rule for finding in report.findings} == {check.name for check in report.checks}


def test_kernel_faults_are_known_in_journal_form():
    text = (
        "Nov 22 08:00:01 gpu7 kernel: NVRM: Xid (PCI:0000:3b:00): 94, pid=7, name=python, Contained: SM (0x1). RST: No"
    )
    assert diagnose_text("journal", text).top.cause == "gpu-ecc-error"
