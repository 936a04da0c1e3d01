"""The scores on labelled logs: wordings of many versions kept here, and a set of real cases where it lies beside the project."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from llmops.diagnosis import diagnose_text

REPO = Path(__file__).parents[2]
WORDINGS = REPO / "benchmarks" / "diagnosis" / "wordings.jsonl"
REAL = REPO.parent / "shared" / "diagnosis"


def _cases(path):
    return [json.loads(line) for line in path.read_text("utf-8").splitlines()]


def _wrong(cases):
    said = {c["id"]: (d.top.cause if (d := diagnose_text("log", c["log"])).top else "none") for c in cases}
    return {c["id"]: said[c["id"]] for c in cases if said[c["id"]] != c["cause"]}


def test_every_cause_is_known_by_its_wordings():
    cases = _cases(WORDINGS)
    assert len(cases) > 400
    assert _wrong(cases) == {}


def test_the_score_command_prints_the_table():
    done = subprocess.run(
        [sys.executable, str(REPO / "benchmarks/diagnosis/score.py"), str(WORDINGS)],
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 0, done.stdout
    assert "exact" in done.stdout
    assert "false alarms 0/" in done.stdout
    assert "evidence not in the log 0" in done.stdout


@pytest.mark.skipif(not (REAL / "cases.jsonl").is_file(), reason="the set of real cases is not beside the project")
def test_real_cases():
    cases = _cases(REAL / "cases.jsonl")
    wrong = _wrong(cases)
    assert len(wrong) <= 0.03 * len(cases), wrong
    assert not [c["id"] for c in cases if c["id"] in wrong and (c["tricky"] or c["cause"] == "none")]
    for case in cases:
        lines = case["log"].split("\n")
        for cause in diagnose_text("log", case["log"]).causes:
            assert cause.evidence
            assert all(e.text in lines[e.line - 1] for e in cause.evidence)
