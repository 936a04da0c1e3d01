"""The output directory: whole or absent, whatever happens in between."""

import pytest

from llmops.errors import MachineError, UsageError
from llmops.quantize.workspace import Workspace, existing_parent


def checkpoint(path, content):
    path.mkdir()
    (path / "config.json").write_text(content)


def fill(work, content):
    (work.model / "config.json").write_text(content)


def test_published_at_once_and_nothing_else_is_left(tmp_path):
    checkpoint(tmp_path / "out.rejected", "an older result that failed its gate")
    with Workspace(tmp_path / "out") as work:
        fill(work, "new")
        (work.job / "log").write_text("noise")
        assert not (tmp_path / "out").exists()
        work.publish()
    assert (tmp_path / "out" / "config.json").read_text() == "new"
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


def test_an_existing_checkpoint_stays_until_its_replacement_is_whole(tmp_path):
    checkpoint(tmp_path / "out", "old")
    with Workspace(tmp_path / "out", force=True) as work:
        fill(work, "half")  # and then the engine fails: nothing is published
    assert (tmp_path / "out" / "config.json").read_text() == "old"
    with Workspace(tmp_path / "out", force=True) as work:
        fill(work, "new")
        work.publish()
    assert (tmp_path / "out" / "config.json").read_text() == "new"
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


def test_a_rejected_result_replaces_an_older_one_and_leaves_the_output_alone(tmp_path):
    checkpoint(tmp_path / "out", "good")
    checkpoint(tmp_path / "out.rejected", "older")
    with Workspace(tmp_path / "out", force=True) as work:
        fill(work, "bad")
        assert work.reject() == tmp_path / "out.rejected"
    assert (tmp_path / "out.rejected" / "config.json").read_text() == "bad"
    assert (tmp_path / "out" / "config.json").read_text() == "good"


def test_what_a_killed_run_left_is_replaced(tmp_path):
    stale = tmp_path / "out.partial" / "abc" / "model"
    stale.mkdir(parents=True)
    (stale / "model.safetensors").write_text("half")
    with Workspace(tmp_path / "out") as work:
        assert not stale.exists()
        fill(work, "new")
        work.publish()
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


def test_only_one_run_writes_an_output(tmp_path):
    with Workspace(tmp_path / "out") as first:
        with pytest.raises(MachineError), Workspace(tmp_path / "out"):
            pass
        assert first.model.is_dir()


@pytest.mark.parametrize("force", [False, True])
def test_a_directory_that_is_no_checkpoint_is_never_replaced(tmp_path, force):
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "thesis.tex").write_text("years of work")
    with pytest.raises(UsageError), Workspace(tmp_path / "out", force=force):
        pass
    assert (tmp_path / "out" / "thesis.tex").is_file()


def test_the_file_system_of_an_output_that_does_not_exist_yet(tmp_path):
    assert existing_parent(tmp_path / "a" / "b" / "c") == tmp_path
