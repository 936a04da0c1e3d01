"""The programs that run inside Triton, here with a graph of numpy: batching changes nothing, stop texts and limits hold."""

import json
import sys
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

RUNTIME = Path(__file__).parent.parent.parent / "llmops" / "serve" / "triton" / "runtime"
np = pytest.importorskip("numpy")
sys.path.insert(0, str(RUNTIME))
from llm_decoder import Decoder  # noqa: E402 - the programs import each other by file name
from llm_sampling import BadRequestError, Row, params_from  # noqa: E402

VOCABULARY = 32
WORDS = [f" w{n}" for n in range(VOCABULARY)]
TABLE = np.random.default_rng(5).normal(size=(VOCABULARY, VOCABULARY, 4)).astype(np.float32)


class Words:
    """A tokenizer of whole words."""

    def decode(self, tokens, skip_special_tokens=True):
        return "".join(WORDS[token] for token in tokens)


def next_logits(tokens):
    """Depends on all tokens and their order, so that a mixed-up cache or mask shows."""
    state = np.zeros(VOCABULARY, np.float32)
    for place, token in enumerate(tokens):
        state = 0.7 * state + TABLE[token, :, place % 4]
    return state


class Plain:
    """Without a cache: the mask says what counts."""

    cached = False

    def run(self, feed):
        ids, mask = feed["input_ids"], feed["attention_mask"]
        out = np.zeros((*ids.shape, VOCABULARY), np.float32)
        for row in range(len(ids)):
            out[row, -1] = next_logits(ids[row][mask[row] > 0].tolist())
        return {"logits": out}


class Cached:
    """The past holds the tokens themselves, in the shape of keys: rows, heads, tokens, size."""

    cached = True

    def empty_past(self, rows, head_dim):
        return {"past_key_values.0.key": np.zeros((rows, 1, 0, 1), np.float32)}

    def run(self, feed):
        new = feed["input_ids"][:, None, :, None].astype(np.float32)
        present = np.concatenate([feed["past_key_values.0.key"], new], 2)
        assert present.shape[2] == feed["attention_mask"].shape[1]
        out = np.zeros((*feed["input_ids"].shape, VOCABULARY), np.float32)
        for row, mask in enumerate(feed["attention_mask"]):
            tokens = present[row, 0, :, 0][mask > 0].astype(int).tolist()
            assert feed["position_ids"][row, -1] == len(tokens) - 1
            out[row, -1] = next_logits(tokens)
        return {"logits": out, "present.0.key": present}


def row(prompt, **values):
    return Row(list(prompt), params_from(values, {}), Words(), frozenset({0}), 64)


def alone(prompt, **values):
    decoder, one = Decoder(Plain()), row(prompt, **values)
    decoder.add(one)
    while decoder.busy:
        decoder.step()
    return one


prompts = st.lists(st.lists(st.integers(1, VOCABULARY - 1), min_size=1, max_size=9), min_size=1, max_size=6)


@settings(max_examples=40, deadline=None)
@given(
    prompts,
    st.lists(st.integers(0, 6), min_size=6, max_size=6),
    st.lists(st.integers(1, 12), min_size=6, max_size=6),
    st.data(),
)
def test_batching_changes_no_text(texts, arrivals, lengths, data):
    """Rows join at any step, end at different ones, and some are given up: each of the others reads as it would alone."""
    graph = data.draw(st.sampled_from([Plain, Cached]))()
    decoder = Decoder(graph, 1)
    rows = [row(text, max_tokens=lengths[n]) for n, text in enumerate(texts)]
    given_up = data.draw(st.sampled_from([None, *range(len(rows))]))
    for tick in range(40):
        for n, each in enumerate(rows):
            if arrivals[n] == tick:
                decoder.add(each)
        if tick == 4 and given_up is not None:
            decoder.drop([rows[given_up]])
        if decoder.busy:
            decoder.step()
    for n, each in enumerate(rows):
        if n != given_up:
            assert each.tokens == alone(texts[n], max_tokens=lengths[n]).tokens
            assert each.finish in ("stop", "length")
    assert not decoder.busy


def test_a_text_ends_before_its_stop_text():
    whole = alone([3, 4], max_tokens=8)
    stop = WORDS[whole.tokens[4]]
    cut = alone([3, 4], max_tokens=8, stop=[stop])
    assert cut.finish == "stop"
    assert cut.text == whole.text[: whole.text.index(stop)]


def test_the_beginning_of_a_stop_text_is_held_back():
    decoder = Decoder(Plain())
    whole = alone([3, 4], max_tokens=8)
    stop = WORDS[whole.tokens[3]] + "never"
    one, shown = row([3, 4], max_tokens=8, stop=[stop]), []
    decoder.add(one)
    while decoder.busy:
        decoder.step()
        shown.append(one.fresh())
    assert "".join(shown) == whole.text
    assert not shown[3].endswith(WORDS[whole.tokens[3]])


def test_a_growing_text_is_the_whole_text_and_costs_no_more_than_its_length():
    """With a real byte-level tokenizer, whose tokens end inside characters."""
    tokenizers = pytest.importorskip("tokenizers")
    from tokenizers import decoders, models, pre_tokenizers

    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    real = tokenizers.Tokenizer(models.BPE(vocab={sign: at for at, sign in enumerate(alphabet)}, merges=[]))
    real.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    real.decoder = decoders.ByteLevel()
    said = "Grüße, 世界! \U0001f600 " * 20
    tokens = real.encode(said).ids
    asked = []

    class Counted:
        def decode(self, tokens, skip_special_tokens=True):
            asked.append(len(tokens))
            return real.decode(tokens, skip_special_tokens=skip_special_tokens)

    def grown(live, end):
        asked.clear()
        one = Row([1], params_from({"max_tokens": end}, {}), Counted(), frozenset(), 5000, live=live)
        pieces = []
        for token in tokens[:end]:
            logits = np.zeros(len(alphabet), np.float32)
            logits[token] = 1
            one.take(logits)
            pieces.append(one.fresh())
        return one, pieces

    one, pieces = grown(True, len(tokens))
    assert (one.text, "".join(pieces), one.finish) == (said, said, "length")
    assert not any("\ufffd" in piece for piece in pieces)
    assert max(asked) <= 8  # never the whole text again
    cut, pieces = grown(True, len(tokens) - 2)  # the end falls into a character
    assert "".join(pieces) == cut.text == real.decode(tokens[:-2])
    assert grown(False, len(tokens))[0].text == said
    assert len(asked) == 1  # nobody looks before the end


def test_the_same_seed_draws_the_same_text():
    options = {"temperature": 1.5, "top_p": 0.9, "top_k": 20, "max_tokens": 12}
    assert alone([5], seed=7, **options).tokens == alone([5], seed=7, **options).tokens
    assert any(alone([5], seed=n, **options).tokens != alone([5], seed=7, **options).tokens for n in range(8, 14))


def test_penalties_avoid_repetition():
    plain = alone([5], max_tokens=30, ignore_eos="true")
    varied = alone([5], max_tokens=30, ignore_eos="true", frequency_penalty=2.0)
    assert len(set(varied.tokens)) > len(set(plain.tokens))


@pytest.mark.parametrize(
    "values", [{"max_tokens": 0}, {"temperature": -1}, {"top_p": 0}, {"max_tokens": "many"}, {"stop": ["x"] * 17}]
)
def test_parameters_without_meaning_are_refused(values):
    with pytest.raises(BadRequestError):
        params_from(values, {})


def test_parameters_come_in_each_form():
    assert params_from({"max_tokens": "7", "stop": '["a", "b"]', "random_seed": 3}, {}).stop == ("a", "b")
    assert params_from({"stop": "a"}, {"max_tokens": 5}).max_tokens == 5


def test_a_prompt_must_leave_room():
    with pytest.raises(BadRequestError, match="at most 63"):
        row(range(64))
    with pytest.raises(BadRequestError, match="empty"):
        row([])


# ---- conversations ----

TEMPLATE = (
    "{{ bos_token }}{% for m in messages %}{% if m.role == 'tool' %}{{ raise_exception('no tools') }}{% endif %}"
    "<{{ m.role }}>{{ m.content }}\n{% endfor %}{% if add_generation_prompt %}<assistant>{% endif %}"
)
TURNS = '[{"role": "system", "content": "Be brief."}, {"role": "user", "content": "Hello"}]'


def template(tmp_path, config=None, file=None):
    pytest.importorskip("jinja2", reason="pip install 'llmops[cpu]'")
    from llm_chat import ChatTemplate

    if config is not None:
        (tmp_path / "tokenizer_config.json").write_text(json.dumps(config))
    if file is not None:
        (tmp_path / "chat_template.jinja").write_text(file)
    return ChatTemplate(tmp_path)


@pytest.mark.parametrize(
    ("config", "file"),
    [
        ({"bos_token": "<s>"}, TEMPLATE),
        ({"bos_token": {"content": "<s>"}, "chat_template": TEMPLATE}, None),
        ({"bos_token": "<s>", "chat_template": [{"name": "tools", "template": "no"}, {"name": "default", "template": TEMPLATE}]}, None),
    ],
    ids=["file", "config", "several"],
)  # fmt: skip
def test_a_conversation_becomes_the_models_own_prompt(tmp_path, config, file):
    assert template(tmp_path, config, file).render(TURNS) == "<s><system>Be brief.\n<user>Hello\n<assistant>"


@pytest.mark.parametrize(
    ("file", "turns", "said"),
    [
        (None, TURNS, "no chat template"),
        (TEMPLATE, "[1", "not JSON"),
        (TEMPLATE, "[]", "a list of objects"),
        (TEMPLATE, '["Hello"]', "a list of objects"),
        (TEMPLATE, '[{"role": "tool", "content": "x"}]', "no tools"),
        ("{{ messages[0]['role'] + 1 }}", TURNS, "refuses the messages"),
        ("{{ ''.__class__.__mro__[1].__subclasses__() }}", TURNS, "refuses the messages"),  # a template is a program from outside
        ("{% for %}", TURNS, "is no template"),
    ],
)  # fmt: skip
def test_conversations_that_cannot_be_written_are_refused(tmp_path, file, turns, said):
    with pytest.raises(BadRequestError, match=said):
        template(tmp_path, {}, file).render(turns)
