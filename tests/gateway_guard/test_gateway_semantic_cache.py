"""The semantic cache: never a wrong answer on the regression set, strict keys, bounds, and its own false-hit rate."""

import asyncio
import json
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import llmops.gateway.cache_semantic as package
from llmops.errors import UsageError
from llmops.gateway.cache_semantic import OnnxMiniLm, SemanticCache, SemanticCacheConfig, ask_of
from llmops.gateway.cache_semantic.cache import same_answer
from llmops.gateway.cache_semantic.lexical import signature

PAIRS = [
    json.loads(line)
    for line in (Path(package.__file__).with_name("data") / "pairs.jsonl").read_text(encoding="utf-8").splitlines()
]
DIFFERENT = [(pair["a"], pair["b"]) for pair in PAIRS if not pair["same"]]
SAME = [(pair["a"], pair["b"]) for pair in PAIRS if pair["same"]]
CONFIG = SemanticCacheConfig(mode="serve", check_share=0)


class Everything:
    """An embedder that holds every two texts to be the same: the words alone must keep them apart."""

    def __init__(self):
        self.count = 0

    def embed(self, text):
        self.count += 1
        return np.array([1, 0, 0], dtype=np.float32)


def body(text, **changes):
    return json.dumps(
        {"model": "m", "temperature": 0, "messages": [{"role": "user", "content": text}]} | changes
    ).encode()


def ask(text, tenant="acme", config=CONFIG, **changes):
    return ask_of(tenant, body(text, **changes), config)


@pytest.fixture
def make():
    made = []

    def build(config=CONFIG, embedder=None, **changes):
        made.append(SemanticCache(config, embedder or Everything(), **changes))
        return made[-1]

    yield build
    for each in made:
        each.close()


def look(cache, question):
    return asyncio.run(cache.lookup(question))


@pytest.mark.parametrize(("one", "other"), DIFFERENT, ids=[one[:30] for one, _ in DIFFERENT])
def test_near_identical_questions_with_different_answers_never_hit(make, one, other):
    """Even with an embedder for which all texts are equal."""
    for first, second in ((one, other), (other, one)):
        cache = make()
        cache.store(ask(first), b"answer", "answer")
        cache.settle()
        assert look(cache, ask(second)) is None
        assert look(cache, ask(first)).answer == b"answer"


def test_the_set_is_large_enough_and_the_words_let_half_of_the_paraphrases_pass():
    assert len(DIFFERENT) >= 50
    assert sum((signature(one) == signature(other)) for one, other in SAME) >= len(SAME) // 2


@pytest.mark.parametrize(
    "changes",
    [
        {"model": "other"},
        {"messages": [{"role": "system", "content": "Be rude"}, {"role": "user", "content": "Who wrote Hamlet?"}]},
        {"messages": [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Hi"},
                      {"role": "user", "content": "Who wrote Hamlet?"}]},
        {"temperature": 0.1},
        {"max_tokens": 5},
        {"system": "Be rude"},
        {"unknown_member": 1},
    ],
)  # fmt: skip
def test_everything_but_the_last_turn_counts_exactly(make, changes):
    cache = make()
    cache.store(ask("Who wrote Hamlet?"), b"Shakespeare", "Shakespeare")
    cache.settle()
    assert look(cache, ask("Do you know who wrote Hamlet?"))
    assert look(cache, ask("Who wrote Hamlet?", **changes)) is None


def test_tenants_never_share(make):
    cache = make()
    cache.store(ask("Who wrote Hamlet?"), b"Shakespeare", "Shakespeare")
    cache.settle()
    assert look(cache, ask("Who wrote Hamlet?", tenant="other")) is None
    assert cache.stats.hits == 0


@pytest.mark.parametrize(
    "changes",
    [
        {"tools": [{"type": "function"}]},
        {"temperature": 1},
        {"n": 2},
        {"response_format": {"type": "json_object"}},
        {"messages": []},
        {"messages": [{"role": "user", "content": [{"type": "image_url"}]}]},
        {"messages": [{"role": "assistant", "content": "x"}]},
        {"messages": [{"role": "tool", "content": "x"}, {"role": "user", "content": "y"}]},
        {"messages": [{"role": "user", "content": "x"}] * 9},
        {"messages": [{"role": "user", "content": "x" * 3000}]},
    ],
)
def test_requests_that_are_never_answered_from_here(changes):
    assert ask("Who?", **changes) is None


@pytest.mark.parametrize("raw", [b"", b"[]", b"{", b'{"messages": 5}', b'{"messages": [5]}'])
def test_bodies_that_are_no_chat(raw):
    assert ask_of("t", raw, CONFIG) is None


def test_whether_it_streams_does_not_matter():
    assert ask("Who?", stream=True).context == ask("Who?").context


def test_temperature_must_be_said():
    raw = json.dumps({"model": "m", "messages": [{"role": "user", "content": "Who?"}]}).encode()
    assert ask_of("t", raw, CONFIG) is None


def test_below_the_threshold_words_do_not_help(make):
    class Far:
        def embed(self, text):
            return np.array([1, 0] if text.startswith("Who") else [0.94, 0.3412], dtype=np.float32)

    cache = make(embedder=Far())
    cache.store(ask("Who wrote Hamlet?"), b"S", "S")
    cache.settle()
    assert look(cache, ask("Do you know who wrote Hamlet?")) is None


def test_nothing_is_embedded_without_a_candidate(make):
    embedder = Everything()
    cache = make(embedder=embedder)
    cache.store(ask("Who wrote Hamlet?"), b"S", "S")
    cache.settle()
    embedder.count = 0
    for n in range(20):
        assert look(cache, ask(f"What is {n}?")) is None
    assert embedder.count == 0
    assert cache.stats.without_candidate == 20


def test_entries_expire_and_are_bounded(make):
    now = [0.0]
    cache = make(SemanticCacheConfig(mode="serve", max_entries=5, ttl_s=10), clock=lambda: now[0])
    for n in range(12):
        cache.store(ask(f"What is {n}?", model=f"m{n % 3}"), b"x", "x")
    cache.settle()
    assert cache._size <= 5
    assert sum(len(each.entries) for each in cache._groups.values()) == cache._size
    assert look(cache, ask("What is 11?", model="m2"))
    now[0] = 11
    assert look(cache, ask("What is 11?", model="m2")) is None


def test_one_context_alone_is_bounded_too(make):
    cache = make(SemanticCacheConfig(mode="serve", max_entries=5))
    for n in range(12):
        cache.store(ask(f"What is {n}?"), b"x", "x")
    cache.settle()
    assert cache._size == 5
    assert look(cache, ask("What is 11?"))
    assert look(cache, ask("What is 1?")) is None


def test_phrasings_of_one_question_are_bounded_and_the_nearest_answers(make):
    class Angles:
        def embed(self, text):
            angle = text.count("?") / 300
            return np.array([np.cos(angle), np.sin(angle)], dtype=np.float32)

    cache = make(embedder=Angles())
    for n in range(1, 100):
        cache.store(ask("Who wrote Hamlet" + "?" * n), b"%d" % n, "S")
        cache.settle()
    assert len(cache._groups) == 1
    assert cache._size == 64
    assert look(cache, ask("Who wrote Hamlet" + "?" * 80)).answer == b"80"
    assert look(cache, ask("Who wrote Hamlet?")).answer == b"36"  # the nearest of those that are left


@pytest.mark.parametrize("most", [1, 3])
def test_phrasings_count_as_entries(make, most):
    cache = make(SemanticCacheConfig(mode="serve", max_entries=most))
    for n in range(1, 8):
        cache.store(ask("Who wrote Hamlet" + "?" * n), b"%d" % n, "S")
        cache.settle()
        assert cache._size == min(n, most)


def test_large_answers_are_not_kept(make):
    cache = make(SemanticCacheConfig(mode="serve", max_answer_kib=1))
    cache.store(ask("Who?"), b"x" * 2000, "x")
    cache.settle()
    assert cache._size == 0


def test_shadow_mode_measures_its_own_false_hits(make):
    cache = make(SemanticCacheConfig(mode="shadow"))
    cache.store(ask("Who wrote Hamlet?"), b"S", "William Shakespeare wrote Hamlet around 1600.")
    cache.settle()
    hit = look(cache, ask("Do you know who wrote Hamlet?"))
    assert not cache.serves(hit)
    assert cache.stats.false_hit_ratio is None
    cache.checked(hit.text, "William Shakespeare wrote Hamlet around 1600.")
    cache.checked(hit.text, "William Shakespeare wrote Hamlet around 1700.")
    assert cache.stats.false_hit_ratio == 0.5
    assert hit.score == 1


def test_a_share_of_served_hits_is_checked(make):
    chances = iter([0.01, 0.5])
    cache = make(SemanticCacheConfig(mode="serve", check_share=0.02), chance=lambda: next(chances))
    cache.store(ask("Who?"), b"x", "x")
    cache.settle()
    hit = look(cache, ask("Who?"))
    assert [cache.serves(hit), cache.serves(hit)] == [False, True]


@pytest.mark.parametrize(
    ("one", "other", "same"),
    [
        ("Paris is the capital.", "The capital is Paris.", True),
        ("It costs 5 dollars.", "It costs 6 dollars.", False),
        ("You can do that.", "You cannot do that.", False),
        ("", "", True),
        ("ok", "", False),
    ],
)
def test_same_answers(one, other, same):
    assert same_answer(one, other) == same


@settings(deadline=None)
@given(st.text(max_size=200))
def test_a_question_agrees_with_itself(text):
    assert signature(text) == signature(text)


@settings(deadline=None)
@given(
    st.integers(0, 10**6), st.integers(0, 10**6), st.sampled_from(["What is {}?", "order {}", "{} kg", "v{}.1", "-{}"])
)
def test_other_numbers_are_other_questions(one, other, frame):
    assert (signature(frame.format(one)) == signature(frame.format(other))) == (one == other)


@settings(deadline=None)
@given(st.permutations(["Alice", "Bob", "Carol"]), st.permutations(["Alice", "Bob", "Carol"]))
def test_other_orders_of_names_are_other_questions(one, other):
    frame = "Does {} know {} and {}?"
    assert (signature(frame.format(*one)) == signature(frame.format(*other))) == (one == other)


# ---- the embedder ----


@pytest.fixture
def tiny_model(tmp_path):
    """A model of three words with the inputs and output of a MiniLM."""
    onnx = pytest.importorskip("onnx")
    tokenizers = pytest.importorskip("tokenizers")
    pytest.importorskip("onnxruntime")
    from onnx import TensorProto, helper

    table = np.array([[0, 0], [1, 0], [0, 1], [3, 4]], dtype=np.float32)
    graph = helper.make_graph(
        [
            helper.make_node("Gather", ["table", "input_ids"], ["rows"]),
            helper.make_node("Cast", ["attention_mask"], ["mask"], to=TensorProto.FLOAT),
            helper.make_node("Unsqueeze", ["mask", "axes"], ["wide"]),
            helper.make_node("Mul", ["rows", "wide"], ["last_hidden_state"]),
        ],
        "tiny",
        [helper.make_tensor_value_info(name, TensorProto.INT64, [1, "n"]) for name in ("input_ids", "attention_mask")],
        [helper.make_tensor_value_info("last_hidden_state", TensorProto.FLOAT, [1, "n", 2])],
        [
            helper.make_tensor("table", TensorProto.FLOAT, table.shape, table.ravel()),
            helper.make_tensor("axes", TensorProto.INT64, [1], [2]),
        ],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)
    onnx.save(model, tmp_path / "model.onnx")
    words = tokenizers.Tokenizer(tokenizers.models.WordLevel({"[UNK]": 0, "a": 1, "b": 2, "c": 3}, "[UNK]"))
    words.pre_tokenizer = tokenizers.pre_tokenizers.Whitespace()
    words.save(str(tmp_path / "tokenizer.json"))
    return tmp_path


def test_the_onnx_embedder_makes_unit_vectors(tiny_model):
    embedder = OnnxMiniLm(tiny_model)
    assert embedder.embed("c").tolist() == pytest.approx([0.6, 0.8])
    assert embedder.embed("a b").tolist() == pytest.approx([0.5**0.5, 0.5**0.5])
    assert embedder.embed("").dtype == np.float32


def test_a_directory_without_a_model(tmp_path):
    with pytest.raises(UsageError, match=r"no model\.onnx"):
        OnnxMiniLm(tmp_path)


@pytest.mark.slow
def test_a_real_minilm_on_the_regression_set(minilm_onnx):
    embedder = OnnxMiniLm(minilm_onnx)

    def near(one, other):
        return float(embedder.embed(one) @ embedder.embed(other)) >= CONFIG.threshold

    alone = sum(near(one, other) for one, other in DIFFERENT)
    guarded = sum(near(one, other) and (signature(one) == signature(other)) for one, other in DIFFERENT)
    true = sum(near(one, other) and (signature(one) == signature(other)) for one, other in SAME)
    assert alone > 0  # the embedding alone would have answered wrongly
    assert guarded == 0
    assert true >= len(SAME) // 4
