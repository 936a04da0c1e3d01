"""Recipes: the shipped ones are valid, and every mistake in one is named before anything runs."""

import json

import jsonschema
import pytest
import yaml

from llmops.pipeline.spec import STEPS, load_recipe, recipe_schema, step_model
from llmops.recipes import shipped_recipes

RECIPE = """\
recipe: 1
name: mine
summary: For a test
steps:
  - model: {sources: [{path: m}]}
  - quantize: {bits: 4}
  - serve: {}
"""


def write(tmp_path, text):
    path = tmp_path / "mine.yaml"
    path.write_text(text)
    return path


@pytest.mark.parametrize("verb", STEPS)
def test_every_step_resolves_and_its_flows_are_fields(verb):
    assert set(STEPS[verb].flows) <= set(step_model(verb).model_fields)


@pytest.mark.parametrize("name", shipped_recipes())
def test_shipped_recipes_are_valid_and_named_after_their_file(name):
    path = shipped_recipes()[name]
    recipe, _ = load_recipe(path)
    assert recipe.name in (name.rpartition("/")[2], name.replace("/", "-"))
    jsonschema.validate(yaml.safe_load(path.read_text()), recipe_schema())


def test_the_schema_is_a_schema_and_refuses_unknown_steps():
    schema = recipe_schema()
    jsonschema.Draft202012Validator.check_schema(schema)
    wrong = {"recipe": 1, "name": "a", "summary": "b", "steps": [{"quantise": {}}]}
    assert not jsonschema.Draft202012Validator(schema).is_valid(wrong)


@pytest.mark.parametrize(
    ("old", "new", "error", "hint"),
    [
        ("quantize:", "quantise:", "mine.yaml:6: unknown step 'quantise'", "did you mean 'quantize'?"),
        ("bits: 4", "bitz: 4", "mine.yaml:6: unknown key 'bitz' in steps[1].quantize", "did you mean 'bits'?"),
        ("bits: 4", "bits: four", "mine.yaml:6: steps[1].quantize.bits: input should be a valid integer", None),
        (
            "{path: m}",
            "{pth: m}",
            "mine.yaml:5: unknown key 'pth' in steps[0].model.sources[0]",
            "did you mean 'path'?",
        ),
        ("recipe: 1", "recipe: 2", "mine.yaml:1: recipe: input should be 1, not 2", None),
        ("name: mine", "name: ../mine", "mine.yaml:2: name: string should match pattern", None),
        ("summary: For a test\n", "", "mine.yaml:1: the file lacks the key 'summary'", None),
        ("quantize: {bits: 4}", "{quantize: {}, serve: {}}", "mine.yaml:6: a step names one verb, not 2", None),
        ("quantize: {bits: 4}", "quantize: 4", "mine.yaml:6: the options of quantize are a mapping, not 4", None),
    ],
)
def test_each_mistake_is_one_line_with_its_place(llmops, tmp_path, old, new, error, hint):
    write(tmp_path, RECIPE.replace(old, new))
    for command in (("run", "mine.yaml"), ("run", "mine.yaml", "--dry-run")):
        result = llmops(*command, cwd=tmp_path)
        assert result.code == 2
        assert result.error_lines[0].startswith(f"error: {error}"), result.stderr
        if hint:
            assert result.error_lines[1] == f"hint: {hint}"
    assert not (tmp_path / "runs").exists()
    assert llmops("recipes", "validate", "mine.yaml", cwd=tmp_path).code == 1


@pytest.mark.parametrize(
    ("change", "error"),
    [
        ("bits=8", "--set 'bits=8' is not STEP.KEY=VALUE"),
        ("quantise.bits=8", "--set quantise.bits: the recipe has no step 'quantise'"),
        ("quantize.bitz=8", "--set:1: unknown key 'bitz'"),
        ("quantize.bits=many", "--set:1: bits: input should be a valid integer"),
    ],
)
def test_a_wrong_change_is_refused(llmops, tmp_path, change, error):
    write(tmp_path, RECIPE)
    result = llmops("run", "mine.yaml", "--set", change, cwd=tmp_path)
    assert result.code == 2
    assert result.error_lines[0].startswith(f"error: {error}")


def test_dry_run_shows_the_steps_and_changes_nothing(llmops, tmp_path):
    write(tmp_path, RECIPE)
    result = llmops("run", "mine.yaml", "--dry-run", "--set", "quantize.bits=8", "--json", cwd=tmp_path)
    assert result.code == 0
    planned = result.json["data"]["planned"]
    assert [step["verb"] for step in planned] == ["model", "quantize", "serve"]
    assert planned[1]["options"] == {"bits": 8}
    assert [path.name for path in tmp_path.iterdir()] == ["mine.yaml"]


def test_list_show_copy_validate(llmops, tmp_path):
    rows = llmops("recipes", "list", "--json").json["data"]["recipes"]
    assert "quickstart" in [row["name"] for row in rows]
    assert "recipe: 1" in llmops("recipes", "show", "recipes/quickstart.yaml").stdout
    assert llmops("recipes", "copy", "quickstart", "mine.yaml", cwd=tmp_path).code == 0
    assert llmops("recipes", "validate", "mine.yaml", cwd=tmp_path).code == 0
    again = llmops("recipes", "copy", "quickstart", "mine.yaml", cwd=tmp_path)
    assert (again.code, again.error_lines[0]) == (2, "error: mine.yaml exists")
    assert llmops("recipes", "show", "quickstrat").error_lines[1] == "hint: did you mean 'quickstart'?"


def test_validate_reports_every_problem_with_its_line(llmops, tmp_path):
    write(tmp_path, RECIPE.replace("bits: 4", "bitz: 4").replace("sources", "source"))
    result = llmops("recipes", "validate", "mine.yaml", "--report", "out.sarif", "--json", cwd=tmp_path)
    assert result.code == 1
    assert len(result.json["findings"]) >= 1
    sarif = json.loads((tmp_path / "out.sarif").read_text())
    assert sarif["runs"][0]["results"][0]["locations"][0]["physicalLocation"]["artifactLocation"]["uri"] == "mine.yaml"
