"""The composite action: its script run by bash as a runner would, and no input that reaches a shell as code."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

REPO = Path(__file__).parent.parent
ACTION = yaml.safe_load((REPO / "action.yml").read_text())
STEPS = {step.get("id", index): step for index, step in enumerate(ACTION["runs"]["steps"])}


def run_step(tmp_path, command, report=""):
    """The step ``run`` with ``llmops`` on PATH, as the runner calls it."""
    bin_dir = tmp_path / "bin"
    bin_dir.mkdir()
    launcher = bin_dir / "llmops"
    launcher.write_text(f'#!/bin/sh\nexec {sys.executable} -m llmops "$@"\n')
    launcher.chmod(0o755)
    outputs = tmp_path / "outputs"
    env = {
        **os.environ,
        "PATH": f"{bin_dir}:{os.environ['PATH']}",
        "COMMAND": command,
        "REPORT": report,
        "GITHUB_OUTPUT": str(outputs),
    }
    done = subprocess.run(
        ["bash", "--noprofile", "--norc", "-eo", "pipefail", "-c", STEPS["run"]["run"]],
        cwd=tmp_path, env=env, capture_output=True, text=True, timeout=60,
    )  # fmt: skip
    return done, outputs.read_text()


def test_the_exit_code_is_an_output_and_reports_are_written(tmp_path):
    done, outputs = run_step(tmp_path, "config show", "out")
    assert done.returncode == 0, done.stderr
    assert outputs == "exit-code=0\n"
    assert {path.name for path in (tmp_path / "out").iterdir()} == {
        "report.json", "report.xml", "report.sarif", "report.html",
    }  # fmt: skip


def test_a_no_fails_the_step_with_its_code(tmp_path):
    done, outputs = run_step(tmp_path, "run no-such-recipe.yaml")
    assert done.returncode == 2
    assert outputs == "exit-code=2\n"


@pytest.mark.parametrize(
    "command", ["config show; touch pwned", "$(touch pwned)", "`touch pwned`", "config show && touch pwned"]
)
def test_a_command_is_words_and_never_code(tmp_path, command):
    run_step(tmp_path, command)
    assert not (tmp_path / "pwned").exists()


def test_inputs_reach_scripts_through_the_environment_only():
    for step in ACTION["runs"]["steps"]:
        assert "${{" not in step.get("run", "")


def test_workflows_run_the_projects_own_command_with_least_rights():
    workflow = yaml.safe_load((REPO / ".github" / "workflows" / "ci.yml").read_text())
    assert workflow["permissions"] == {"contents": "read"}
    assert any("./dev test" in step.get("run", "") for step in workflow["jobs"]["test"]["steps"])
