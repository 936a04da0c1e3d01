"""The text format: reading, writing, and every mistake with its place."""

import json
import subprocess
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llmops.serve.triton.pbtxt import PbtxtError, parse, schema
from llmops.serve.triton.pbtxt_write import Word, write

GUIDE = """
# the operations guide's ensemble
name: "llama_8b_ensemble"
platform: "ensemble"
max_batch_size: 16
input [ { name: "text" data_type: TYPE_STRING dims: [1] } ]
output [
  { name: "output", data_type: TYPE_STRING; dims: 1 }
]
ensemble_scheduling {
  step [
    { model_name: "tokenizer" model_version: -1
      input_map { key: "text" value: "text" }
      output_map < key: 'input_ids' value: "input" "_ids" > },
    { model_name: "llama_8b_tensorrt" model_version: -1 }
  ]
}
"""


def test_the_guides_ensemble_is_read_with_its_lines():
    config = parse(GUIDE)
    assert (config.get("name"), config.get("max_batch_size")) == ("llama_8b_ensemble", 16)
    assert config.line_of("platform") == 4
    steps = config.get("ensemble_scheduling").get("step")
    assert [step.get("model_name") for step in steps] == ["tokenizer", "llama_8b_tensorrt"]
    assert steps[0].map("output_map") == {"input_ids": "input_ids"}
    assert steps[0].line == 12
    assert config.get("output")[0].get("dims") == [1]
    assert config.get("dynamic_batching").get("preferred_batch_size") == []  # defaults of what is not set


@pytest.mark.parametrize(
    ("text", "line", "column", "said", "hint"),
    [
        ('name: "a"\nmax_batchsize: 4', 2, 1, "no field 'max_batchsize'", "max_batch_size"),
        ("input { data_type: TYPE_STRNG }", 1, 20, "no value TYPE_STRNG", "TYPE_STRING"),
        ('max_batch_size: "8"', 1, 17, "a whole number", None),
        ("max_batch_size: 99999999999", 1, 17, "does not fit into int32", None),
        ("name: hello", 1, 7, "in quotes", None),
        ('input { name: "x"', 1, 18, "expected", None),
        ('name: "a" name: "b"', 1, 11, "stands twice", None),
        ("dynamic_batching { } sequence_batching { }", 1, 22, "exclude each other", None),
        ("model_transaction_policy { decoupled: maybe }", 1, 39, "true or false", None),
        ('name: "a', 1, 7, "does not end", None),
        ("name = 3", 1, 6, "unexpected '='", None),
        ('name "a"', 1, 6, "':' is expected after name", None),
        ("input: 5", 1, 8, "'{' is expected", None),
    ],
)  # fmt: skip
def test_each_mistake_has_its_place(text, line, column, said, hint):
    with pytest.raises(PbtxtError) as caught:
        parse(text)
    mistake = caught.value.mistake
    assert (mistake.line, mistake.column) == (line, column)
    assert said in mistake.message
    if hint:
        assert hint in mistake.hint


@given(st.text(max_size=200))
def test_any_text_is_read_or_refused_with_a_place(text):
    try:
        parse(text)
    except PbtxtError as error:
        assert error.mistake.line >= 1  # noqa: PT017 - either way is right


names = st.text(st.characters(codec="utf-8", exclude_characters="\r", exclude_categories=["Cc", "Cs"]), max_size=20)


@given(names, st.integers(0, 2**31 - 1), st.lists(st.integers(-1, 99), min_size=1, max_size=4), st.booleans())
def test_what_is_written_is_read_back(name, batch, dims, decoupled):
    values = {
        "name": name,
        "max_batch_size": batch,
        "input": [{"name": name, "data_type": Word("TYPE_INT64"), "dims": dims}] * 2,
        "model_transaction_policy": {"decoupled": decoupled},
        "parameters": [{"key": name, "value": {"string_value": name}}],
    }
    config = parse(write(values))
    assert config.get("name") == name
    assert config.get("max_batch_size") == batch
    assert [t.get("dims") for t in config.get("input")] == [dims, dims]
    assert config.get("model_transaction_policy").get("decoupled") == decoupled
    assert config.map("parameters")[name].get("string_value") == name


@pytest.mark.slow
def test_the_schema_is_that_of_tritons_own_client(triton_python):
    """Every field and type as the protobuf descriptor of NVIDIA's client says it."""
    program = Path(__file__).with_name("dump_schema.py")
    done = subprocess.run([triton_python, program], capture_output=True, text=True, check=True)
    theirs = json.loads(done.stdout)
    assert schema()["messages"] == theirs["messages"]
    assert schema()["enums"] == theirs["enums"]


@pytest.mark.slow
def test_protobuf_reads_what_is_written_here(triton_python, tmp_path):
    from test_repository import served

    from llmops.serve.triton.repository import make_repository
    from llmops.serve.triton.spec import TritonSpec

    files = make_repository(TritonSpec(), served("causal-lm"), "tensorrt", "llama").texts
    for number, text in enumerate(files.values()):
        (tmp_path / f"{number}.pbtxt").write_text(text)
    code = (
        "import pathlib, sys; from google.protobuf import text_format; from tritonclient.grpc import model_config_pb2 as m;"
        "print(len([text_format.Parse(p.read_text(), m.ModelConfig()) for p in pathlib.Path(sys.argv[1]).glob('*.pbtxt')]))"
    )
    done = subprocess.run([triton_python, "-c", code, tmp_path], capture_output=True, text=True, check=True)
    assert int(done.stdout) == len(files)
