"""Logs of healthy engines, recorded here from the first line to the stop: nothing may be found in them."""

from __future__ import annotations

from pathlib import Path

import pytest

from llmops.diagnosis import diagnose_files

HEALTHY = sorted((Path(__file__).parent / "healthy").glob("*.log"))


@pytest.mark.parametrize("log", HEALTHY, ids=lambda path: path.stem)
def test_nothing_is_found(log):
    diagnosis = diagnose_files([log])
    assert diagnosis.status == "healthy", ([(c.cause, c.evidence) for c in diagnosis.causes], diagnosis.unexplained)


def test_a_long_log_of_the_same_server_is_as_healthy(tmp_path):
    """A debug log of several megabytes, in which every warning of a healthy start is repeated."""
    log = tmp_path / "long.log"
    text = (Path(__file__).parent / "healthy" / "vllm-healthy-debug.log").read_text("utf-8")
    log.write_text(text * 80)
    assert diagnose_files([log]).status == "healthy"


def test_there_are_enough_of_them():
    assert len(HEALTHY) >= 10
