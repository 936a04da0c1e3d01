"""What an export decides before anything heavy starts."""

import dataclasses
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llmops.errors import MachineError, UsageError
from llmops.export.onnx.compare import compare
from llmops.export.onnx.plan import RAM_BASE_BYTES, Machine, Sentence, cases, make_plan
from llmops.export.onnx.providers import provider_name
from llmops.export.onnx.record import read_sentence, verdicts
from llmops.export.onnx.spec import OnnxSpec, parse_range
from llmops.units import GIB

ROOMY = Machine(memory_bytes=64 * GIB, disk_bytes=500 * GIB, cores=4)


@pytest.fixture(scope="module")
def facts(tiny_llama):
    from llmops.checkpoint.reader import read_model

    return read_model(tiny_llama)


def spec(**values):
    return OnnxSpec(model=Path("m"), out=Path("o"), **values)


def test_the_task_follows_the_class(facts):
    assert make_plan(spec(), facts, ROOMY).task == "causal-lm"
    encoder = dataclasses.replace(facts, is_generative=False, architecture="BertModel")
    plan = make_plan(spec(), encoder, ROOMY, Sentence("cls", False))
    assert (plan.task, plan.pooling, plan.normalize) == ("embedding", "cls", False)
    classifier = dataclasses.replace(encoder, architecture="BertForSequenceClassification")
    assert make_plan(spec(), classifier, ROOMY).task == "classification"


def test_sequences_end_at_the_models_own_limit(facts):
    short = dataclasses.replace(facts, context_length=512)
    plan = make_plan(spec(seq="1:2048"), short, ROOMY)
    assert plan.seq == (1, 512)
    assert any(note.rule == "seq-clamped" for note in plan.notes)
    with pytest.raises(UsageError, match="at most 512"):
        make_plan(spec(seq="600:2048"), short, ROOMY)


def test_memory_is_five_times_the_weights_at_least(facts):
    eight_billion = dataclasses.replace(facts, parameters=8_000_000_000)
    with pytest.raises(MachineError, match=r"needs about 150\.1 GiB") as caught:
        make_plan(spec(), eight_billion, ROOMY)
    assert "--dtype float16" in caught.value.hint
    plan = make_plan(spec(dtype="float16"), eight_billion, Machine(100 * GIB, 500 * GIB))
    assert plan.ram_bytes - RAM_BASE_BYTES >= 5 * 8_000_000_000 * 2
    with pytest.raises(MachineError, match="of disk"):
        make_plan(spec(dtype="float16"), eight_billion, Machine(100 * GIB, 5 * GIB))


def test_the_checks_memory_counts_a_large_vocabulary(facts):
    """Logits of all shapes are kept: measured with 262,144 words and a window of 512, 5.7 GB for 1.07 GB of weights."""
    small, large = (
        make_plan(spec(), dataclasses.replace(facts, parameters=268_000_000, vocab=vocab), ROOMY)
        for vocab in (32_000, 262_144)
    )
    assert large.check_bytes - small.check_bytes > 500_000_000
    assert make_plan(spec(check=False), facts, ROOMY).check_bytes == 0


@pytest.mark.parametrize(
    ("values", "changes", "said"),
    [
        ({"task": "classification"}, {}, "no classification head"),
        ({"task": "causal-lm"}, {"is_generative": False}, "does not generate"),
        ({"opset": 12}, {}, "opset 18 to"),
        ({"batch": "4"}, {}, "not a range"),
        ({"seq": "9:3"}, {}, "1 <= MIN <= MAX"),
        ({}, {"multimodal": ("vision",)}, "vision input"),
        ({}, {"complete": False}, "not all there"),
        ({}, {"format": "gguf"}, "not a Hugging Face"),
        ({"format": "genai", "task": "embedding"}, {"is_generative": False}, "text generators"),
        ({"format": "genai", "dtype": "bfloat16"}, {}, "no bfloat16"),
    ],
)
def test_refusals_name_what_is_wrong(facts, values, changes, said):
    with pytest.raises(UsageError, match=said):
        make_plan(spec(**values), dataclasses.replace(facts, **changes), ROOMY)


def test_a_quantised_checkpoint_is_refused_with_the_way_out(facts):
    from llmops.checkpoint.facts import Quantization

    packed = dataclasses.replace(facts, quantization=Quantization("gptq", "gptq", 4))
    with pytest.raises(UsageError, match="quantised already") as caught:
        make_plan(spec(), packed, ROOMY)
    assert "int4" in caught.value.hint


@given(st.integers(1, 5000), st.integers(1, 5000))
def test_ranges(low, high):
    if low <= high:
        assert parse_range(f"{low}:{high}", "--seq") == (low, high)
    else:
        with pytest.raises(UsageError):
            parse_range(f"{low}:{high}", "--seq")


@given(st.integers(1, 20), st.integers(1, 4), st.integers(4, 4096), st.none() | st.integers(8, 1024))
def test_every_case_fits_the_asked_dimensions(rows, low, top, window):
    found = cases((1, rows), (low, top), window)
    assert len(found) >= 4
    for lengths in found:
        assert 1 <= len(lengths) <= rows
        assert all(low <= length <= top for length in lengths)
    assert (max(1, low),) in found  # length 1, or the least that was asked for
    if window and window + 8 <= top:
        assert any(max(lengths) > window for lengths in found)


def test_a_comparison_counts_only_what_is_not_masked():
    import numpy as np

    want = np.eye(4, dtype=np.float32)[None]
    got = want.copy()
    got[0, 0] = 99  # a masked position: what a model computes there means nothing
    mask = np.array([[0, 1, 1, 1]])
    row = compare("causal-lm", want, got, mask)
    assert (row["agreement"], row["max_difference"], row["positions"]) == (1.0, 0.0, 3)
    got[0, 2] = [1, 0, 0, 0]
    assert compare("causal-lm", want, got, mask)["agreement"] == pytest.approx(2 / 3)
    got[0, 3] = float("nan")
    assert compare("causal-lm", want, got, mask)["finite"] is False


def test_verdicts_reject_what_is_not_finite_and_what_disagrees(facts):
    plan = make_plan(spec(), facts, ROOMY)
    row = {"agreement": 0.9, "max_difference": 0.1, "finite": True, "positions": 10}
    parity = {"cases": [row], "agreement": 0.9, "finite": True, "greedy_agrees": None, "greedy": []}
    assert [f.severity for f in verdicts(plan, parity)] == ["error"]
    assert [f.severity for f in verdicts(plan, parity | {"agreement": 0.995})] == ["ok"]
    assert "not finite" in verdicts(plan, parity | {"finite": False})[0].message
    greedy = {"greedy_agrees": False, "greedy": [{"steps": 8}], "agreement": 1.0}
    assert [f.severity for f in verdicts(plan, parity | greedy)] == ["ok", "error"]
    half = make_plan(spec(dtype="float16"), facts, ROOMY)
    assert [f.severity for f in verdicts(half, parity | greedy)] == ["ok", "warning"]


def test_pooling_comes_from_the_models_own_files(tmp_path):
    assert read_sentence(tmp_path) == Sentence(None, None)
    (tmp_path / "1_Pooling").mkdir()
    (tmp_path / "1_Pooling" / "config.json").write_text(
        '{"pooling_mode_cls_token": true, "pooling_mode_mean_tokens": false}'
    )
    (tmp_path / "modules.json").write_text('[{"type": "sentence_transformers.models.Normalize"}]')
    assert read_sentence(tmp_path) == Sentence("cls", True)
    (tmp_path / "1_Pooling" / "config.json").write_text('{"pooling_mode_weightedmean_tokens": true}')
    with pytest.raises(UsageError, match="does not know"):
        read_sentence(tmp_path)


def test_providers_are_named_in_full():
    assert provider_name("cpu") == "CPUExecutionProvider"
    assert provider_name("CUDAExecutionProvider") == "CUDAExecutionProvider"
    assert provider_name("tensorrt") == "TensorrtExecutionProvider"
