"""The pure parts: statistics, thresholds, calibration rows, size estimates, targets."""

import math
import random
from dataclasses import replace
from types import SimpleNamespace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llmops.checkpoint.facts import Linear
from llmops.hardware.host import Cpu, Gpu, Host, Limits, Memory
from llmops.quantize import child, estimates, methods
from llmops.quantize.adapters import statistics, texts
from llmops.quantize.child import Relay, environment
from llmops.quantize.gate import DEFAULTS, Quality, judge, thresholds
from llmops.quantize.groups import first_misfit, largest_group
from llmops.quantize.material import calibration_text, evaluation_text
from llmops.quantize.plan import serving_engine
from llmops.quantize.spec import GateSpec


class Words:
    """A tokenizer of words, with or without a begin-of-text token."""

    chat_template = None

    def __init__(self, bos=None):
        self.bos_token_id = bos

    def __call__(self, text):
        return {"input_ids": [len(word) + 10 for word in text.split()]}


finite = st.floats(0.01, 12, allow_nan=False)


@given(st.lists(st.tuples(finite, finite, st.floats(0, 5), st.booleans()), min_size=2, max_size=60))
def test_metrics_are_those_of_the_definition(rows):
    base, model, kl, same = map(list, zip(*rows, strict=True))
    result = statistics.summarise([statistics.Scores("en", base, model, kl, same)])
    n = len(rows)
    assert result["tokens"] == n
    assert result["ppl_ratio"] == pytest.approx(result["ppl"] / result["ppl_base"], rel=1e-6)
    assert result["kl_mean"] == pytest.approx(sum(kl) / n, abs=1e-9)
    assert result["top1_agreement"] == pytest.approx(sum(same) / n)
    assert min(kl) <= result["kl_median"] <= result["kl_p99"] <= result["kl_max"] == max(kl)


def test_equal_models_measure_as_equal():
    scores = statistics.Scores("", [1.0, 2.0], [1.0, 2.0], [-1e-9, 0.0], [True, True])
    result = statistics.summarise([scores])
    assert (result["ppl_ratio"], result["kl_mean"], result["top1_agreement"]) == (1.0, 0.0, 1.0)


def test_a_broken_model_measures_as_not_a_number_and_fails():
    scores = statistics.Scores("", [1.0, 2.0], [math.nan, 2.0], [math.nan, 0.0], [False, True])
    quality = Quality(**statistics.summarise([scores]))
    gate, findings = judge(quality, DEFAULTS[4])
    assert gate.passed is False
    assert {f.rule for f in findings if f.severity == "error"} >= {"quality-kl", "quality-perplexity"}


GOOD = Quality(10, 10.1, 1.01, 0.001, 0.01, 0.001, 0.005, 0.1, 0.2, 0.97, 0.004, 2048)


@pytest.mark.parametrize(
    ("change", "rule"),
    [
        ({"kl_mean": 0.07}, "quality-kl"),
        ({"ppl_ratio": 1.07}, "quality-perplexity"),
        ({"top1_agreement": 0.5}, "quality-agreement"),
    ],
)
def test_each_criterion_fails_alone(change, rule):
    assert judge(GOOD, DEFAULTS[8])[0].passed is True
    gate, findings = judge(replace(GOOD, **change), DEFAULTS[8])
    assert gate.passed is False
    assert [f.rule for f in findings if f.severity == "error"] == [rule]


def test_thresholds_follow_bits_and_the_user():
    assert thresholds(GateSpec(), 8).max_kl < thresholds(GateSpec(), 4).max_kl
    own = thresholds(GateSpec(max_kl=0.01, min_agreement=0.99), 4)
    assert (own.max_kl, own.min_agreement, own.max_ppl_ratio) == (0.01, 0.99, DEFAULTS[4].max_ppl_ratio)
    assert own.warn_kl <= own.max_kl


@given(st.integers(1, 9), st.integers(2, 40), st.integers(0, 3), st.sampled_from([None, 1]))
def test_rows_are_whole_seeded_and_start_as_the_model_expects(count, length, seed, bos):
    rng = random.Random(5)
    documents = [{"text": " ".join("x" * rng.randint(1, 9) for _ in range(30))} for _ in range(12)]
    tokenizer = Words(bos)
    rows, tokens = texts.rows(documents, tokenizer, count=count, length=length, seed=seed)
    assert all(len(row) == length for row in rows)
    assert tokens == len(rows) * length
    assert len(rows) <= count
    if bos is not None:
        assert all(row[0] == bos for row in rows)
    assert (rows, tokens) == texts.rows(documents, tokenizer, count=count, length=length, seed=seed)


def test_builtin_texts_are_separate_bilingual_and_big_enough():
    """A token of a common tokenizer is at most six bytes of English and of Japanese text on average."""
    calibration, held_out = calibration_text("builtin:ja-en"), evaluation_text(None)
    documents = texts.read_documents(calibration.path)
    assert calibration.documents >= 500
    assert {d["lang"] for d in documents} == {"ja", "en"}
    assert calibration.size_bytes / 4 > 128 * 512
    plain = "\n".join(map(texts.plain_text, documents))
    for document in texts.read_documents(held_out.path):
        assert document["text"][:60] not in plain


@pytest.mark.parametrize(
    ("method", "bits", "group", "stored"),
    # Stored bytes of a 640 x 2048 matrix in checkpoints written by the engines.
    [
        ("gptq", 4, 128, 640 * 2048 // 2 + 2 * 5 * 2048 + 5 * 2048 // 2 + 4 * 640),
        ("gptq", 8, -1, 640 * 2048 + 2 * 2048 + 2048 + 4 * 640),
    ],
)
def test_size_of_a_quantised_layer(method, bits, group, stored):
    layer = Linear("model.layers.0.mlp.up_proj", 640, 2048, "mlp", "BF16", 640 * 2048 * 2)
    assert estimates.quantised_bytes(layer, method, bits, group) == stored


def host(*capabilities) -> Host:
    gpus = tuple(Gpu(i, f"GPU {c}", f"u{i}", 80 << 30, 80 << 30, c) for i, c in enumerate(capabilities))
    return Host("h", "paper", "linux", Cpu("c", 8, 8, 8, None, 0.0, 8), Memory(1 << 36, 1 << 36, None), Limits(), gpus)


@pytest.mark.parametrize(
    ("capabilities", "method"),
    [((), "gptq"), (((8, 0),), "gptq"), (((9, 0),), "fp8"), (((9, 0), (8, 0)), "gptq"), (((12, 0),), "fp8")],
)
def test_default_method_follows_the_gpu(capabilities, method):
    name, why = methods.default_method(host(*capabilities))
    assert name == method
    assert why


@pytest.mark.parametrize(
    ("method", "bits", "target", "capabilities", "refused"),
    [
        ("fp8", 8, "vllm", (), False),
        ("bnb-int8", 8, "vllm", (), True),
        ("gptq", 4, "vllm", (), False),
        ("gptq", 8, "vllm", (), True),
        ("gptq", 8, "transformers", (), False),
        ("gptq", 8, "triton", ((8, 0),), False),
        ("gptq", 4, "vllm", ((7, 0),), True),
        ("bnb-nf4", 4, "triton", (), True),
        ("bnb-nf4", 4, "transformers", (), False),
        ("w8a8", 8, "vllm", (), False),
        ("w8a8", 8, "vllm", ((10, 0),), True),
        ("w8a8", 8, "vllm", ((9, 0),), False),
        ("awq", 4, "vllm", (), False),
        ("awq", 4, "vllm", ((7, 0),), True),
    ],
)
def test_targets(method, bits, target, capabilities, refused):
    made = methods.Format(methods.METHODS[method], bits)
    assert (methods.target_refusal(made, target, host(*capabilities)) is not None) is refused


def test_activation_order_is_for_transformers_only():
    made = methods.Format(methods.METHODS["gptq"], 4, ordered=True)
    assert [t for t in methods.TARGETS if methods.target_refusal(made, t, host((9, 0))) is None] == ["transformers"]


@pytest.mark.parametrize(
    ("method", "bits", "engine", "capabilities", "serves"),
    [
        ("gptq", 4, "gptqmodel", (), "transformers"),
        ("gptq", 4, "llmcompressor", (), "vllm"),
        ("gptq", 8, "gptqmodel", ((8, 0),), "vllm"),
        ("w8a8", 8, "llmcompressor", (), "vllm"),
        ("bnb-nf4", 4, "bitsandbytes", (), "transformers"),
        ("bnb-nf4", 4, "bitsandbytes", ((8, 0),), "vllm"),
    ],
)
def test_the_engine_that_serves_the_result(method, bits, engine, capabilities, serves):
    made = methods.Format(methods.METHODS[method], bits)
    assert serving_engine(made, methods.ENGINES[engine], host(*capabilities)) == serves


def model_of(*widths) -> SimpleNamespace:
    """Facts of a model with one layer of each kind."""
    names = ("q_proj", "o_proj", "up_proj", "down_proj")
    linears = [
        Linear(f"model.layers.0.x.{name}", width, 512, "attention", "BF16", width * 1024)
        for name, width in zip(names, widths, strict=True)
    ]
    return SimpleNamespace(linears=tuple(linears))


@pytest.mark.parametrize(
    ("widths", "degrees", "group"),
    [
        ((4096, 4096, 4096, 14336), (1,), 128),
        ((576, 576, 576, 1536), (1,), 64),  # SmolLM2-135M
        ((576, 576, 576, 1536), (1, 3), 64),
        ((640, 1024, 640, 2048), (1,), 128),
        ((640, 1024, 640, 2048), (1, 16), 64),
        ((50, 50, 50, 50), (1,), -1),
    ],
)
def test_the_largest_group_that_fits(widths, degrees, group):
    assert largest_group(model_of(*widths), degrees) == group


@given(st.lists(st.integers(1, 300).map(lambda n: 16 * n), min_size=4, max_size=4), st.sampled_from([1, 2, 4, 8]))
def test_a_group_that_is_offered_has_no_misfit(widths, degree):
    facts = model_of(*widths)
    group = largest_group(facts, (degree,))
    if group != -1:
        assert first_misfit(facts, group, degree) is None
        assert all(width % group == 0 for width in widths)
        assert widths[1] % (group * degree) == widths[3] % (group * degree) == 0


def test_only_divided_layers_must_fit_on_each_rank():
    facts = model_of(128, 256, 128, 256)
    assert first_misfit(facts, 128, 2) is None
    assert first_misfit(facts, 128, 4).name.endswith("o_proj")


def test_the_relay_turns_events_into_progress_and_ignores_noise():
    seen = []
    progress = SimpleNamespace(
        phase=lambda text: seen.append(("phase", text)),
        update=lambda done, total, note: seen.append((done, total, note)),
        note=lambda text: seen.append(("note", text)),
    )
    relay = Relay(progress)
    for line in (
        "not json",
        "[1, 2]",
        '{"event": "phase", "text": "Quantising"}',
        '{"event": "progress", "done": 18, "total": 18, "note": "loss 0.01"}',
        '{"event": "result", "data": {"seconds": 1}}',
    ):
        relay.take(line)
    assert seen == [("phase", "Quantising"), (18, 18, "loss 0.01")]
    assert relay.result == {"seconds": 1}


def test_two_cores_get_the_workers_that_gptqmodel_needs(tmp_path):
    for threads, cores in ((2, 16), (8, 2), (1, 1)):
        assert environment(threads, tmp_path / "python", local=True, cores=cores)["GPTQMODEL_CPU_WORKERS"] == "2"
    many = environment(16, tmp_path / "python", local=False, cores=16)
    assert "GPTQMODEL_CPU_WORKERS" not in many
    assert "HF_HUB_OFFLINE" not in many
    assert many["PYTHONPATH"] is None
    assert many["OMP_NUM_THREADS"] == "16"


@pytest.mark.parametrize(
    ("kind", "message"),
    [
        ("MemoryError", ""),
        ("OutOfMemoryError", "CUDA out of memory. Tried to allocate 2.00 GiB."),
        ("RuntimeError", "[enforce fail at alloc_cpu.cpp:131] . DefaultCPUAllocator: can't allocate memory: you tried"),
        ("OSError", "[Errno 12] Cannot allocate memory"),
        ("ImportError", "libtorch_cpu.so: failed to map segment from shared object"),
    ],
)
def test_every_way_to_say_that_memory_is_short_exits_with_3(monkeypatch, tmp_path, kind, message):
    monkeypatch.setenv("LLMOPS_STATE_DIR", str(tmp_path / "state"))
    (tmp_path / "log").write_text("")
    error = child._failure("with_gptqmodel", 1, {"type": kind, "message": message}, tmp_path / "log")
    assert error.exit_code == 3
    assert "ran out of memory" in error.message
