"""The directory of a run: one run at a time, records whole or absent."""

import subprocess
import sys

import pytest

from llmops.errors import MachineError, UsageError
from llmops.pipeline.rundir import fingerprint, locked, model_fingerprint, recall, remember


def test_a_second_run_is_refused_and_a_killed_one_leaves_no_lock(tmp_path):
    program = (
        "import sys, time\nfrom pathlib import Path\nfrom llmops.pipeline.rundir import locked\n"
        "with locked(Path(sys.argv[1])):\n    print('held', flush=True)\n    time.sleep(600)\n"
    )
    holder = subprocess.Popen([sys.executable, "-c", program, str(tmp_path / "run")], stdout=subprocess.PIPE, text=True)
    assert holder.stdout.readline() == "held\n"
    with pytest.raises(MachineError, match="another run is at work"), locked(tmp_path / "run"):
        pass
    holder.kill()
    holder.wait()
    holder.stdout.close()
    with locked(tmp_path / "run"):
        pass


def test_a_file_in_the_way_is_named(tmp_path):
    (tmp_path / "run").write_text("")
    with pytest.raises(UsageError, match="is not a directory"), locked(tmp_path / "run"):
        pass


def test_records_answer_only_for_the_same_inputs(tmp_path):
    record = tmp_path / "step.json"
    assert recall(record, "k") is None
    remember(record, "k", {"path": tmp_path})
    assert recall(record, "k") == {"path": str(tmp_path)}
    assert recall(record, "other") is None
    record.write_text('{"key": "k", "resu')
    assert recall(record, "k") is None


def test_fingerprints_follow_what_they_are_made_from(tmp_path):
    (tmp_path / "a.safetensors").write_bytes(b"1")
    first = model_fingerprint(tmp_path)
    assert first == model_fingerprint(tmp_path)
    (tmp_path / "a.safetensors").write_bytes(b"22")
    assert model_fingerprint(tmp_path) != first
    assert fingerprint({"a": 1, "b": 2}) == fingerprint({"b": 2, "a": 1}) != fingerprint({"a": 1, "b": 3})
