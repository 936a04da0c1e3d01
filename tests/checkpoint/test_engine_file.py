"""The record beside an engine: which machine may load it, and whether the file still is the one that was built."""

import hashlib
import json

import pytest

from llmops.checkpoint.engine_file import Loader, mismatches, read_record, require_loadable
from llmops.errors import MachineError, UsageError

L4 = (8, 9)
RECORD = {
    "schema": "llmops.build.tensorrt/1",
    "tensorrt": {"module": "tensorrt", "version": "10.13.2.6"},
    "compute_capabilities": [[8, 9]],
}


@pytest.mark.parametrize(
    ("changes", "loader", "said"),
    [
        ({}, Loader("tensorrt", "10.13.2.6", L4), None),
        ({}, Loader("tensorrt", "10.13.2", L4), None),  # a library's file name has fewer numbers
        ({}, Loader("tensorrt", None, L4), None),  # not known before the start
        ({}, Loader("tensorrt", "10.14.0", L4), "10.14.0"),
        ({"version_compatible": True}, Loader("tensorrt", "10.14", L4), None),
        ({}, Loader("tensorrt", "10.13", (9, 0)), "this GPU has 9.0"),
        ({"hardware_compatible": True}, Loader("tensorrt", "10.13", (9, 0)), None),
        ({"hardware_compatible": True}, Loader("tensorrt", "10.13", (7, 5)), "this GPU has 7.5"),
        ({}, Loader("tensorrt", "10.13", None), "no GPU"),
        ({}, Loader("tensorrt_rtx", "10.13", L4), "this is tensorrt_rtx"),
    ],
)
def test_which_machine_may_load_it(changes, loader, said):
    found = mismatches(RECORD | changes, loader)
    assert (found == []) if said is None else (said in found[0])


@pytest.fixture
def engine(tmp_path):
    """An engine file, the graph it was built from, and its record."""
    path = tmp_path / "model.plan"
    path.write_bytes(b"engine" * 100)
    (tmp_path / "model.onnx").write_bytes(b"graph")
    record = RECORD | {
        "engine": {"file": "model.plan", "sha256": hashlib.sha256(path.read_bytes()).hexdigest(), "size_bytes": 600},
        "onnx": {"file": "model.onnx", "sha256": hashlib.sha256(b"graph").hexdigest()},
    }
    (tmp_path / "model.plan.json").write_text(json.dumps(record))
    return path


HERE = Loader("tensorrt", "10.13", L4)


def test_the_file_that_was_built_is_let_through(engine):
    require_loadable(engine, HERE)
    (engine.parent / "model.plan.json").unlink()
    require_loadable(engine, HERE)  # without a record the library has the last word
    assert read_record(engine) is None


@pytest.mark.parametrize(
    ("spoil", "said"),
    [
        (lambda e: e.write_bytes(e.read_bytes()[:-1]), "599 bytes, 600 were built"),
        (lambda e: e.write_bytes(b"x" + e.read_bytes()[1:]), "damaged, or another engine"),
        (lambda e: (e.parent / "model.onnx").write_bytes(b"newer"), "another model.onnx than the one beside it"),
        (lambda e: (e.parent / "model.plan.json").write_text("{}"), "no record of an engine"),
        (lambda e: (e.parent / "model.plan.json").write_text("[1"), "no record of an engine"),
    ],
)
def test_another_file_is_refused_before_any_gpu_is_asked_for(engine, spoil, said):
    spoil(engine)
    with pytest.raises(UsageError, match=said) as caught:
        require_loadable(engine, Loader("tensorrt", None, None))
    assert "llmops build tensorrt" in caught.value.hint


def test_without_a_gpu_and_with_another_one(engine):
    with pytest.raises(MachineError, match="no GPU here"):
        require_loadable(engine, Loader("tensorrt", None, None))
    with pytest.raises(UsageError, match=r"compute capability 8\.9, this GPU has 9\.0"):
        require_loadable(engine, Loader("tensorrt", "10.13", (9, 0)))


def test_inspect_shows_the_record_and_whether_the_file_is_whole(engine, llmops):
    whole = llmops("inspect", engine)
    assert whole.code == 0, whole.stderr
    assert "engine of tensorrt 10.13.2.6" in whole.stdout
    assert "8.9" in whole.stdout
    engine.write_bytes(b"short")
    broken = llmops("inspect", engine, "--json")
    assert broken.code == 1
    assert broken.json["findings"][0]["rule"] == "engine-damaged"
    (engine.parent / "model.plan.json").unlink()
    assert llmops("inspect", engine).code == 2
