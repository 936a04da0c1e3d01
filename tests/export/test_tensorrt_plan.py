"""Profiles, pre-flight and causes of an engine build: nothing here needs TensorRT."""

import re
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llmops.checkpoint.onnx_facts import OnnxFacts, OnnxTensor
from llmops.errors import UsageError
from llmops.export.tensorrt.causes import CAUSES, explain
from llmops.export.tensorrt.plan import BuildMachine, Exported, make_plan, parse_capability, refusal
from llmops.export.tensorrt.profiles import Bounds, parse_shape, parse_triple, resolve
from llmops.export.tensorrt.run import exported, graph_file
from llmops.export.tensorrt.spec import EngineBuildSpec
from llmops.units import GIB

IDS = OnnxTensor("input_ids", "INT64", ("batch", "sequence"))
MASK = OnnxTensor("attention_mask", "INT64", ("batch", "sequence"))
PAST = OnnxTensor("past_key_values.0.key", "FLOAT", ("batch", 2, "past_sequence", 64))
TOTAL = OnnxTensor("attention_mask", "INT64", ("batch", "total_sequence"))
LOGITS = OnnxTensor("logits", "FLOAT", ("batch", "sequence", 2048))


def spec(**values):
    return EngineBuildSpec(onnx=Path("m.onnx"), out=Path("m.plan"), **values)


def graph(inputs=(IDS, MASK), outputs=(LOGITS,), **values):
    base = {
        "path": Path("m.onnx"), "size_bytes": 1, "ir_version": 10, "producer": "", "opsets": {"": 20}, "inputs": inputs,
        "outputs": outputs, "operators": {"MatMul": 3}, "parameters": 10, "inline_bytes": 0, "external": {}, "missing": (),
        "weight_dtypes": {"FLOAT": 4 * GIB}, "initializers": 1,
    }  # fmt: skip
    return OnnxFacts(**{**base, **values})


RTX_ONLY = BuildMachine(frozenset({"tensorrt_rtx"}), 64 * GIB, 64 * GIB)
GPU = BuildMachine(frozenset({"tensorrt"}), 64 * GIB, 64 * GIB, "580.1", "NVIDIA L4", (8, 9), 24 * GIB)


def test_the_guides_profile_is_the_default():
    (profile,) = resolve((IDS, MASK), spec())
    assert profile["input_ids"] == Bounds((1, 1), (8, 512), (16, 2048))
    assert profile["attention_mask"] == profile["input_ids"]


def test_a_cache_is_consistent_at_min_opt_and_max():
    (profile,) = resolve((IDS, TOTAL, PAST), spec(seq="1:1:1", past="0:512:2047"))
    for word in ("min", "opt", "max"):
        total = getattr(profile["attention_mask"], word)[1]
        assert total == getattr(profile["input_ids"], word)[1] + getattr(profile[PAST.name], word)[2]
    assert profile[PAST.name].opt == (8, 2, 512, 64)


def test_explicit_shapes_go_before_the_rest():
    (profile,) = resolve((IDS, MASK), spec(min=("input_ids:1x4",), opt=("input_ids:2x8",), max=("input_ids:4x16",)))
    assert profile["input_ids"] == Bounds((1, 4), (2, 8), (4, 16))
    assert profile["attention_mask"].max == (16, 2048)


def test_several_profiles():
    first, second = resolve(
        (IDS, MASK), spec(profiles=("1x1/8x512/16x2048", "input_ids:1x1/1x1/1x8,attention_mask:1x1/1x1/1x8"))
    )
    assert first["attention_mask"].opt == (8, 512)
    assert second["input_ids"].max == (1, 8)


def test_a_static_graph_needs_no_profile():
    assert resolve((OnnxTensor("x", "FLOAT", (1, 3)),), spec()) == ()


@pytest.mark.parametrize(
    ("values", "said"),
    [
        ({"min": ("input_idz:1x1",)}, "no input 'input_idz'"),
        ({"min": ("input_ids:1x1",)}, "no opt and no max"),
        ({"min": ("1x1",)}, "no input is named"),
        ({"min": ("input_ids:axb",)}, "not a shape"),
        ({"batch": "1:8"}, "not three numbers"),
        ({"batch": "8:4:2"}, "does not hold"),
        ({"profiles": ("1x1/8x512",)}, "not three shapes"),
        ({"profiles": ("1x1x1/1x1x1/1x1x1",)}, "2 dimensions"),
        ({"profiles": ("input_ids:1x1/8x512/16x2048",)}, "no shapes for the dynamic input attention_mask"),
        ({"profiles": ("1x9/1x8/1x10",)}, "ascending order"),
    ],
)
def test_profiles_that_cannot_be_meant(values, said):
    with pytest.raises(UsageError, match=said) as caught:
        resolve((IDS, MASK), spec(**values))
    assert caught.value.hint


def test_a_fixed_dimension_stays_fixed():
    with pytest.raises(UsageError, match="is 2 in the graph"):
        resolve((PAST,), spec(profiles=("1x3x1x64/1x3x1x64/1x3x1x64",)))


def test_a_dimension_without_a_known_name_must_be_given():
    odd = OnnxTensor("x", "FLOAT", ("s70", 3, "s84", 5))
    with pytest.raises(UsageError, match="'s70' of x"):
        resolve((odd,), spec())


def test_no_more_tokens_than_the_graph_was_exported_for():
    (profile,) = resolve((IDS, MASK), spec(), 256)
    assert profile["input_ids"] == Bounds((1, 1), (8, 256), (16, 256))
    for values in ({"seq": "1:128:512"}, {"profiles": ("1x1/8x128/16x512",)}):
        with pytest.raises(UsageError, match="up to 512 tokens, and the graph was exported for at most 256") as caught:
            resolve((IDS, MASK), spec(**values), 256)
        assert caught.value.hint == "--seq 1:128:256"
    (profile,) = resolve((IDS, TOTAL, PAST), spec(seq="1:1:64", past="0:512:2047"), 256)
    assert profile["attention_mask"].max == (16, 2111)  # past and present


def test_a_past_needs_a_cache():
    with pytest.raises(UsageError, match="no KV cache"):
        resolve((IDS, MASK), spec(past="0:1:2"))


def test_a_checkpoint_is_not_a_graph(tmp_path):
    (tmp_path / "config.json").write_text("{}")
    with pytest.raises(UsageError, match="is a checkpoint") as caught:
        graph_file(tmp_path)
    assert caught.value.hint.startswith(f"llmops export onnx {tmp_path}")
    (tmp_path / "model.onnx").touch()
    (tmp_path / "export.json").write_text('{"task": "embedding", "dimensions": {"sequence": [1, 512]}}')
    assert exported(graph_file(tmp_path)) == Exported("embedding", 512)


@given(st.lists(st.integers(0, 9999), min_size=1, max_size=5))
def test_shapes_are_read_in_both_ways_of_writing(values):
    assert parse_shape("x".join(map(str, values))) == tuple(values)
    assert parse_shape(f"({','.join(map(str, values))})") == tuple(values)


@given(st.tuples(*[st.integers(1, 9999)] * 3))
def test_triples_ascend_or_are_refused(values):
    text = ":".join(map(str, values))
    if list(values) == sorted(values):
        assert parse_triple(text, "--seq") == values
    else:
        with pytest.raises(UsageError):
            parse_triple(text, "--seq")


def test_without_a_gpu_the_plan_is_rtx_and_warns_of_text_generators():
    plan = make_plan(spec(), graph(), RTX_ONLY)
    assert (plan.module, plan.missing, plan.workspace_bytes) == ("tensorrt_rtx", (), 16 * GIB)
    warning = next(f for f in plan.findings if f.rule == "causal-lm-engine")
    assert "without a KV cache" in warning.message
    assert "trtllm-serve" in warning.remedy
    assert make_plan(spec(), graph(), GPU).module == "tensorrt"


def test_all_that_is_missing_is_said_at_once():
    plan = make_plan(spec(backend="tensorrt"), graph(), RTX_ONLY)
    assert [f.rule for f in plan.missing] == ["no-driver", "no-gpu", "no-package"]
    assert "own package index" in plan.missing[2].remedy
    error = refusal(plan)
    assert error.exit_code == 3
    assert "--backend rtx" in error.hint
    assert "\n" not in error.message


def test_memory_is_checked_before_the_build():
    small = BuildMachine(frozenset({"tensorrt_rtx"}), 2 * GIB, 64 * GIB)
    assert [f.rule for f in make_plan(spec(), graph(), small).missing] == ["no-memory"]


def test_workspace_against_the_gpus_memory():
    small = BuildMachine(frozenset({"tensorrt"}), 64 * GIB, 64 * GIB, "580", "T4", (7, 5), 15 * GIB)
    assert any(f.rule == "workspace" for f in make_plan(spec(), graph(), small).findings)


@pytest.mark.parametrize(
    ("values", "facts", "said"),
    [
        ({"precision": "fp8"}, {}, "quantise and dequantise"),
        ({"opt_level": 6}, {}, "between 0 and 5"),
        ({"refit": True, "strip": True}, {}, "exclude each other"),
        ({"compute_capabilities": ("9.0",)}, {}, "7.5, 8.0, 8.6, 8.9, 12.0, 12.1"),
        ({"workspace": "lots"}, {}, "not a size"),
        ({}, {"inputs": ()}, "no inputs"),
        ({}, {"inputs": (OnnxTensor("x", "FLOAT", None),)}, "no known rank"),
    ],
)
def test_what_no_builder_could_do(values, facts, said):
    with pytest.raises(UsageError, match=said):
        make_plan(spec(**values), graph(**facts), RTX_ONLY)


def test_capabilities_are_read_in_each_way_of_writing():
    assert {parse_capability(text) for text in ("8.9", "89", "sm89", "SM_89")} == {(8, 9)}
    assert parse_capability("12.0") == (12, 0)


@pytest.mark.parametrize("cause", CAUSES, ids=lambda cause: cause.rule)
def test_each_cause_matches_its_own_line_first(cause):
    assert re.search(cause.pattern, cause.example)
    first = next(each for each in CAUSES if re.search(each.pattern, cause.example))
    assert first.rule == cause.rule
    error = explain([cause.example], "x", backend="tensorrt")
    assert error.exit_code == cause.code
    assert "{" not in error.message.replace("{ForeignNode", "")
    assert error.hint


def test_an_unknown_failure_keeps_its_first_real_line():
    error = explain(["[foo.cpp::bar::12] Something odd", "then more"], "it failed", backend="tensorrt")
    assert error.message == "tensorrt: Something odd"
    assert (
        explain([], "the engine could not be built", backend="tensorrt").message
        == "tensorrt: the engine could not be built"
    )
