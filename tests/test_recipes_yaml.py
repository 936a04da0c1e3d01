"""YAML with line numbers: every mistake is named with file:line and the nearest right word."""

import contextlib

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st
from pydantic import BaseModel, ConfigDict

from llmops.errors import UsageError
from llmops.recipes import YamlError, load_yaml, parse_yaml, validate


class Inner(BaseModel):
    model_config = ConfigDict(extra="forbid")
    method: str = "gptq"
    bits: int = 4


class Outer(BaseModel):
    model_config = ConfigDict(extra="forbid")
    name: str
    steps: list[Inner | None] = []
    table: dict[str, Inner] = {}


def parse(text):
    return parse_yaml(text, "r.yaml")


def problem(text):
    with pytest.raises(YamlError) as caught:
        validate(Outer, parse(text))
    return caught.value


def test_unknown_key_names_line_and_nearest():
    error = problem("name: x\nsteps:\n  - bits: 4\n  - metod: gptq\n")
    assert error.message == "r.yaml:4: unknown key 'metod' in steps[1]"
    assert error.hint == "did you mean 'method'?"


def test_unknown_key_inside_a_mapping_of_models():
    assert problem("name: x\ntable:\n  a:\n    bit: 3\n").hint == "did you mean 'bits'?"


def test_wrong_value_shows_the_value():
    assert problem("name: x\nsteps: [{bits: four}]\n").message == (
        "r.yaml:2: steps[0].bits: input should be a valid integer, unable to parse string as an integer, not 'four'"
    )


def test_missing_key():
    assert problem("steps: []\n").message == "r.yaml:1: the file lacks the key 'name'"


def test_all_problems_are_kept_in_order_of_lines():
    error = problem("name: x\nsteps:\n  - bits: a\nnme: y\n")
    assert [finding.line for finding in error.findings] == [3, 4]
    assert "(and 1 more problem: line 4)" in error.message


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("a: 1\na: 2\n", "r.yaml:2: the key 'a' stands twice"),
        ("a: [1\nb: 2\n", "r.yaml:2: not valid YAML"),
        ("a: !!python/object/apply:os.system [id]\n", "r.yaml:1: the YAML tag"),
        ("a: !!python/name:os.system\n", "could not determine a constructor"),
        ("a: 2026-13-45\n", "r.yaml:1: cannot read this value"),
        ("a: \t1\n b: 2", "not valid YAML"),
        ("a:\n" + "".join("  " * depth + "- \n" for depth in range(1, 3)) + "[" * 60 + "]" * 60, "r.yaml"),
    ],
)
def test_bad_yaml_is_one_usage_error(text, expected):
    with pytest.raises(UsageError) as caught:
        parse(text)
    assert expected in caught.value.message
    assert "\n" not in caught.value.message


def test_missing_file_and_directory(tmp_path):
    with pytest.raises(UsageError, match="there is no file"):
        load_yaml(tmp_path / "none.yaml")
    with pytest.raises(UsageError, match="is a directory"):
        load_yaml(tmp_path)
    (tmp_path / "latin.yaml").write_bytes(b"a: \xff\n")
    with pytest.raises(UsageError, match="not UTF-8"):
        load_yaml(tmp_path / "latin.yaml")
    (tmp_path / "big.yaml").write_bytes(b"#" * (1 << 21))
    with pytest.raises(UsageError, match="larger than 1 MiB"):
        load_yaml(tmp_path / "big.yaml")


def test_anchors_and_merge_keys_work():
    assert parse("base: &b {x: 1}\nuse:\n  <<: *b\n  y: 2\n").data["use"] == {"x": 1, "y": 2}


plain = st.recursive(
    st.none() | st.booleans() | st.integers(-1000, 1000) | st.text(max_size=8),
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.text("abcdef", min_size=1, max_size=4), inner, max_size=3)
    ),
    max_leaves=12,
)


@given(plain)
def test_reads_what_yaml_writes_and_locates_every_key(value):
    document = parse(yaml.safe_dump(value, allow_unicode=True))
    assert document.data == value
    if isinstance(value, dict):
        assert all((key,) in document.lines for key in value)


@given(st.text(max_size=200))
def test_any_text_is_data_or_a_usage_error(text):
    with contextlib.suppress(UsageError):
        parse(text)
