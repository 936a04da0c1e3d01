"""Settings: one value, its origin, and every mistake named."""

import pytest


def settings_of(result):
    return {row["name"]: row for row in result.json["data"]["settings"]}


def test_environment_beats_project_beats_user_beats_built_in(llmops, tmp_path):
    user = tmp_path / "xdg" / "llmops"
    user.mkdir(parents=True)
    (user / "config.yaml").write_text("threads: 1\nhub_timeout_s: 1\noffline: true\n")
    (tmp_path / "llmops.yaml").write_text("# site\nthreads: 2\nhub_timeout_s: 2\n")
    env = {"XDG_CONFIG_HOME": str(tmp_path / "xdg"), "LLMOPS_THREADS": "3"}
    rows = settings_of(llmops("config", "show", "--json", cwd=tmp_path, env=env))
    assert (rows["threads"]["value"], rows["threads"]["origin"]) == (3, "LLMOPS_THREADS")
    assert (rows["hub_timeout_s"]["value"], rows["hub_timeout_s"]["origin"]) == (2.0, "llmops.yaml:3")
    assert (rows["offline"]["value"], rows["offline"]["origin"]) == (True, f"{user}/config.yaml:3")
    assert rows["runs_dir"]["origin"] == "built-in"


def test_engine_interpreters_merge_by_engine(llmops, tmp_path):
    (tmp_path / "llmops.yaml").write_text("engine_python: {vllm: /a/python, triton: /b/python}\n")
    rows = settings_of(llmops("config", "show", "--json", cwd=tmp_path, env={"LLMOPS_ENGINE_PYTHON_VLLM": "/c/python"}))
    assert rows["engine_python"]["value"] == {"vllm": "/c/python", "triton": "/b/python"}
    assert rows["engine_python"]["origin"] == "llmops.yaml:1, LLMOPS_ENGINE_PYTHON_VLLM"


@pytest.mark.parametrize(
    ("text", "line"),
    [
        ("thread: 2\n", "error: llmops.yaml:1: unknown key 'thread'"),
        ("# c\nthreads: many\n", "error: llmops.yaml:2: threads: input should be a valid integer"),
        ("- a\n", "error: llmops.yaml:1: the file: input should be a valid dictionary"),
    ],
)
def test_mistakes_name_file_and_line(llmops, tmp_path, text, line):
    (tmp_path / "llmops.yaml").write_text(text)
    result = llmops("config", "show", cwd=tmp_path)
    assert result.code == 2
    assert result.error_lines[0].startswith(line)


def test_a_wrong_variable_is_named(llmops, tmp_path):
    result = llmops("config", "show", cwd=tmp_path, env={"LLMOPS_THREADS": "0"})
    assert result.code == 2
    assert result.error_lines[0].startswith("error: the environment variable LLMOPS_THREADS")
