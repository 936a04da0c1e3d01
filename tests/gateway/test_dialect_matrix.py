"""The official SDKs, unmodified, over every upstream dialect.

Each fake answers in its own provider's wire format with text of its own, so an answer that was passed on untranslated, or
came from the wrong provider, fails here.
"""

from __future__ import annotations

import json

import anthropic
import openai
import pytest
from gateway_providers import (
    ANTHROPIC_USAGE,
    CITIES,
    CITY,
    DIALECTS,
    HELLO,
    PIXEL,
    SCHEMA,
    TEXT,
    UPSTREAM_KEYS,
    responded,
)
from pydantic import BaseModel


@pytest.fixture(scope="module")
def site(matrix_site):
    return matrix_site


def tools(count: int) -> list[dict]:
    names = ["weather", "weather_again"][:count]
    return [
        {"type": "function", "function": {"name": name, "description": "w", "parameters": SCHEMA}} for name in names
    ]


def anthropic_tools(count: int) -> list[dict]:
    return [{"name": name, "input_schema": SCHEMA} for name in ["weather", "weather_again"][:count]]


# ---- the OpenAI client ----


@pytest.mark.parametrize("dialect", [*DIALECTS, "triton"])
def test_openai_plain(oai, dialect):
    answer = oai.chat.completions.create(model=f"{dialect}-model", messages=HELLO)
    assert answer.choices[0].message.content == TEXT[dialect]
    assert answer.choices[0].finish_reason == "stop"


@pytest.mark.parametrize("dialect", [*DIALECTS, "triton"])
def test_openai_stream(oai, dialect):
    with oai.chat.completions.create(model=f"{dialect}-model", messages=HELLO, stream=True) as stream:
        chunks = list(stream)
    assert "".join(chunk.choices[0].delta.content or "" for chunk in chunks) == TEXT[dialect]
    assert [chunk.choices[0].finish_reason for chunk in chunks][-1] == "stop"
    assert chunks[0].choices[0].delta.role == "assistant"


@pytest.mark.parametrize("dialect", DIALECTS)
@pytest.mark.parametrize("count", [1, 2])
@pytest.mark.parametrize("stream", [False, True])
def test_openai_tools(oai, dialect, count, stream):
    """One and several tools, whole and streamed, and the results sent back."""
    request = {"model": f"{dialect}-model", "messages": HELLO, "tools": tools(count)}
    if stream:
        with oai.chat.completions.stream(**request) as events:
            for _ in events:
                pass
            choice = events.get_final_completion().choices[0]
    else:
        choice = oai.chat.completions.create(**request).choices[0]
    assert choice.finish_reason == "tool_calls"
    calls = choice.message.tool_calls
    assert [json.loads(call.function.arguments) for call in calls] == CITIES[:count]
    assert len({call.id for call in calls}) == count
    results = [{"role": "tool", "tool_call_id": call.id, "content": "21"} for call in calls]
    turn = choice.message.model_dump(exclude_none=True, exclude={"parsed"})
    for call in turn["tool_calls"]:
        call["function"].pop("parsed_arguments", None)
    last = oai.chat.completions.create(**{**request, "messages": [*HELLO, turn, *results]})
    assert last.choices[0].message.content == TEXT[dialect]


def test_gemini_signature_survives_the_tool_loop(oai, site):
    """A Gemini 3 model refuses a call that comes back without its thought signature."""
    request = {"model": "gemini-model", "messages": HELLO, "tools": tools(2)}
    turn = oai.chat.completions.create(**request).choices[0].message.model_dump(exclude_none=True)
    results = [{"role": "tool", "tool_call_id": call["id"], "content": "21"} for call in turn["tool_calls"]]
    oai.chat.completions.create(**{**request, "messages": [*HELLO, turn, *results]})
    sent = site[1]["gemini"].seen[-1].json["contents"]
    assert sent[1]["parts"][0]["thoughtSignature"] == "c2lnLWdlbWluaQ=="
    assert [part["functionResponse"]["name"] for part in sent[2]["parts"]] == ["weather", "weather"]


class City(BaseModel):
    city: str
    unit: str


@pytest.mark.parametrize("dialect", ["anthropic", "gemini"])
def test_openai_structured_output(oai, dialect):
    answer = oai.chat.completions.parse(model=f"{dialect}-model", messages=HELLO, response_format=City)
    assert answer.choices[0].message.parsed == City(**CITY)


@pytest.mark.parametrize("dialect", DIALECTS)
def test_openai_image(oai, site, dialect):
    content = [
        {"type": "text", "text": "what is this?"},
        {"type": "image_url", "image_url": {"url": f"data:image/png;base64,{PIXEL}"}},
    ]
    answer = oai.chat.completions.create(model=f"{dialect}-model", messages=[{"role": "user", "content": content}])
    assert answer.choices[0].message.content == TEXT[dialect]
    sent = site[1][dialect].seen[-1].json
    image = {
        "openai": lambda: sent["messages"][0]["content"][1]["image_url"]["url"].partition(",")[2],
        "anthropic": lambda: sent["messages"][0]["content"][1]["source"]["data"],
        "gemini": lambda: sent["contents"][0]["parts"][1]["inlineData"]["data"],
    }[dialect]()
    assert image == PIXEL


ERRORS = [
    ("fault-400", openai.BadRequestError, anthropic.BadRequestError),
    ("fault-404", openai.NotFoundError, anthropic.NotFoundError),
    ("fault-429", openai.RateLimitError, anthropic.RateLimitError),
    ("fault-500", openai.InternalServerError, anthropic.InternalServerError),
    ("fault-401", openai.InternalServerError, anthropic.InternalServerError),
    ("fault-stall", openai.InternalServerError, anthropic.InternalServerError),
    ("fault-garbage", openai.InternalServerError, anthropic.InternalServerError),
    ("fault-error200", openai.InternalServerError, anthropic.InternalServerError),
]


@pytest.mark.parametrize("dialect", [*DIALECTS, "triton"])
@pytest.mark.parametrize(("name", "kind", "_other"), ERRORS)
@pytest.mark.parametrize("stream", [False, True])
def test_openai_errors(oai, dialect, name, kind, _other, stream):
    variant = f"o{int(stream)}-" if name == "fault-429" else ""
    with pytest.raises(kind) as caught:
        oai.chat.completions.create(model=f"{dialect}-{variant}{name}", messages=HELLO, stream=stream)
    status = {"fault-stall": 504, "fault-garbage": 502, "fault-error200": 500, "fault-401": 502}
    expected = status.get(name) or int(name[-3:])
    assert caught.value.status_code in ({expected, 502} if name in status else {expected})
    assert caught.value.body["message"]
    if name in ("fault-400", "fault-404", "fault-429", "fault-500"):
        assert f"{dialect} says {name[-3:]}" in caught.value.body["message"]
    if name == "fault-429":
        assert caught.value.response.headers["retry-after"] == "7"
        assert caught.value.type == "rate_limit_error"
    if name == "fault-401":
        assert "credentials" in caught.value.body["message"]


# ---- the Anthropic client ----


@pytest.mark.parametrize("dialect", [*DIALECTS, "triton"])
def test_anthropic_plain(ant, dialect):
    answer = ant.messages.create(model=f"{dialect}-model", max_tokens=10, messages=HELLO)
    assert answer.content[0].text == TEXT[dialect]
    assert answer.stop_reason == "end_turn"
    assert answer.type == "message"


@pytest.mark.parametrize("dialect", [*DIALECTS, "triton"])
def test_anthropic_stream(ant, dialect):
    with ant.messages.stream(model=f"{dialect}-model", max_tokens=10, messages=HELLO) as stream:
        names = [event.type for event in stream]
        answer = stream.get_final_message()
    assert answer.content[0].text == TEXT[dialect]
    assert answer.usage.input_tokens > 0
    assert names[0] == "message_start"
    assert names[-1] == "message_stop"


@pytest.mark.parametrize("dialect", DIALECTS)
def test_anthropic_message_start_has_real_usage(ant, dialect):
    with ant.messages.create(model=f"{dialect}-model", max_tokens=10, messages=HELLO, stream=True) as stream:
        first = next(iter(stream))
        for _ in stream:
            pass
    usage = first.message.usage
    assert usage.input_tokens + (usage.cache_creation_input_tokens or 0) > 0


@pytest.mark.parametrize("dialect", DIALECTS)
@pytest.mark.parametrize("count", [1, 2])
@pytest.mark.parametrize("stream", [False, True])
def test_anthropic_tools(ant, site, dialect, count, stream):
    request = {"model": f"{dialect}-model", "max_tokens": 10, "messages": HELLO, "tools": anthropic_tools(count)}
    if stream:
        with ant.messages.stream(**request) as events:
            answer = events.get_final_message()
    else:
        answer = ant.messages.create(**request)
    calls = [block for block in answer.content if block.type == "tool_use"]
    assert answer.stop_reason == "tool_use"
    assert [call.input for call in calls] == CITIES[:count]
    results = [{"type": "tool_result", "tool_use_id": call.id, "content": "21"} for call in calls]
    turn = {"role": "assistant", "content": [block.model_dump(exclude_none=True) for block in answer.content]}
    messages = [*HELLO, turn, {"role": "user", "content": results}]
    last = ant.messages.create(**{**request, "messages": messages})
    assert last.content[0].text == TEXT[dialect]
    if dialect == "gemini":  # the signature went to the client and back in a block that it keeps untouched
        sent = site[1]["gemini"].seen[-1].json["contents"]
        assert sent[1]["parts"][0]["thoughtSignature"] == "c2lnLWdlbWluaQ=="


@pytest.mark.parametrize("dialect", DIALECTS)
def test_anthropic_image_and_system(ant, site, dialect):
    source = {"type": "base64", "media_type": "image/png", "data": PIXEL}
    content = [{"type": "image", "source": source}, {"type": "text", "text": "what?"}]
    answer = ant.messages.create(
        model=f"{dialect}-model", max_tokens=10, system="be brief", messages=[{"role": "user", "content": content}]
    )
    assert answer.content[0].text == TEXT[dialect]
    assert PIXEL in site[1][dialect].seen[-1].raw.decode()
    assert "be brief" in site[1][dialect].seen[-1].raw.decode()


@pytest.mark.parametrize("dialect", [*DIALECTS, "triton"])
@pytest.mark.parametrize(("name", "_other", "kind"), ERRORS)
@pytest.mark.parametrize("stream", [False, True])
def test_anthropic_errors(ant, dialect, name, _other, kind, stream):
    variant = f"a{int(stream)}-" if name == "fault-429" else ""
    with pytest.raises(kind) as caught:
        ant.messages.create(model=f"{dialect}-{variant}{name}", max_tokens=10, messages=HELLO, stream=stream)
    assert caught.value.body["type"] == "error"
    assert caught.value.body["error"]["message"]
    if name == "fault-429":
        assert caught.value.response.headers["retry-after"] == "7"
        assert caught.value.body["error"]["type"] == "rate_limit_error"


def test_native_anthropic_is_passed_unchanged(ant, site):
    """cache_control, thinking and unknown fields arrive byte for byte; only model and key change."""
    ant.messages.create(
        model="anthropic-model",
        max_tokens=2000,
        system=[{"type": "text", "text": "long", "cache_control": {"type": "ephemeral", "ttl": "1h"}}],
        messages=HELLO,
        thinking={"type": "enabled", "budget_tokens": 1024},
        extra_body={"brand_new": [1, {"x": None}]},
        extra_headers={"anthropic-beta": "some-beta-2026"},
    )
    seen = site[1]["anthropic"].seen[-1]
    assert seen.json["model"] == "claude-sonnet-4-5"
    assert seen.json["system"][0]["cache_control"] == {"type": "ephemeral", "ttl": "1h"}
    assert seen.json["brand_new"] == [1, {"x": None}]
    assert seen.headers["x-api-key"] == UPSTREAM_KEYS["K_ANTHROPIC"]
    assert seen.headers["anthropic-beta"] == "some-beta-2026"
    assert "authorization" not in seen.headers


def test_cache_control_goes_through_from_openai(oai, site):
    content = [{"type": "text", "text": "long", "cache_control": {"type": "ephemeral"}}]
    oai.chat.completions.create(
        model="anthropic-model",
        messages=[{"role": "system", "content": content}, {"role": "user", "content": content}],
        tools=tools(1),
        tool_choice="auto",
    )
    sent = site[1]["anthropic"].seen[-1].json
    assert sent["system"][0]["cache_control"] == {"type": "ephemeral"}
    assert sent["messages"][0]["content"][0]["cache_control"] == {"type": "ephemeral"}


@pytest.mark.parametrize("stream", [False, True])
def test_thinking_blocks_come_and_go_with_their_signature(oai, site, stream):
    request = {
        "model": "anthropic-model",
        "messages": HELLO,
        "max_tokens": 2000,
        "extra_body": {"thinking": {"type": "enabled", "budget_tokens": 1024}},
    }
    if stream:
        with oai.chat.completions.create(**request, stream=True) as chunks:
            deltas = [chunk.choices[0].delta.model_dump() for chunk in chunks]
        blocks = [block for delta in deltas for block in delta.get("thinking_blocks") or ()]
        reasoning = "".join(delta.get("reasoning_content") or "" for delta in deltas)
    else:
        message = oai.chat.completions.create(**request).choices[0].message.model_dump()
        blocks, reasoning = message["thinking_blocks"], message["reasoning_content"]
    assert reasoning == "hm, well"
    assert blocks == [{"type": "thinking", "thinking": "hm, well", "signature": "sig-anthropic-1"}]
    turn = {"role": "assistant", "content": "x", "thinking_blocks": blocks}
    oai.chat.completions.create(**{**request, "messages": [*HELLO, turn, *HELLO]})
    assert site[1]["anthropic"].seen[-1].json["messages"][1]["content"][0] == blocks[0]


# ---- what cannot be said ----


def test_the_untranslatable_is_refused_by_name(oai):
    with pytest.raises(openai.BadRequestError) as caught:
        oai.chat.completions.create(model="anthropic-model", messages=HELLO, logit_bias={"50256": -100})
    assert caught.value.param == "logit_bias"
    with pytest.raises(openai.BadRequestError) as caught:
        oai.chat.completions.create(model="gemini-model", messages=HELLO, n=3)
    assert caught.value.param == "n"


def test_the_untranslatable_is_dropped_and_said_where_config_says_so(oai):
    raw = oai.chat.completions.with_raw_response.create(
        model="dropping", messages=HELLO, logit_bias={"50256": -100}, seed=7
    )
    dropped = raw.headers["x-llmops-dropped"]
    assert "logit_bias" in dropped
    assert "seed" in dropped
    assert "max_tokens (set to 4096)" in dropped


def test_harmless_fields_are_dropped_and_said(oai):
    raw = oai.chat.completions.with_raw_response.create(
        model="gemini-model", messages=HELLO, metadata={"a": "b"}, store=False
    )
    assert raw.headers["x-llmops-dropped"] == "metadata"


# ---- the rest of the surfaces ----


@pytest.mark.parametrize("dialect", DIALECTS)
@pytest.mark.parametrize("stream", [False, True])
def test_responses(oai, dialect, stream):
    request = {"model": f"{dialect}-model", "input": "hi", "instructions": "be brief"}
    answer = responded(oai, stream, **request)
    assert answer.output_text == TEXT[dialect]
    assert answer.status == "completed"
    assert answer.usage.output_tokens > 0


@pytest.mark.parametrize("dialect", DIALECTS)
@pytest.mark.parametrize("stream", [False, True])
def test_responses_tools(oai, dialect, stream):
    functions = [{"type": "function", "name": "weather", "parameters": SCHEMA, "strict": True}]
    request = {"model": f"{dialect}-model", "input": "hi", "tools": functions}
    answer = responded(oai, stream, **request)
    (call,) = [item for item in answer.output if item.type == "function_call"]
    assert json.loads(call.arguments) == CITY
    again = [
        {"role": "user", "content": "hi"},
        {"type": "function_call", "call_id": call.call_id, "name": call.name, "arguments": call.arguments},
        {"type": "function_call_output", "call_id": call.call_id, "output": "21"},
    ]
    assert oai.responses.create(**{**request, "input": again}).output_text == TEXT[dialect]


def test_responses_with_state_is_refused(oai):
    with pytest.raises(openai.BadRequestError) as caught:
        oai.responses.create(model="gemini-model", input="hi", previous_response_id="resp_1")
    assert caught.value.param == "previous_response_id"


@pytest.mark.parametrize("dialect", ["anthropic", "gemini", "triton"])
def test_completions(oai, dialect):
    assert oai.completions.create(model=f"{dialect}-model", prompt="x").choices[0].text == TEXT[dialect]
    with oai.completions.create(model=f"{dialect}-model", prompt="x", stream=True) as stream:
        assert "".join(chunk.choices[0].text for chunk in stream) == TEXT[dialect]


def test_embeddings(oai):
    rows = oai.embeddings.create(model="triton-model", input=["a", "bcd"]).data
    assert [row.embedding for row in rows] == [[1.0, 0.125], [3.0, 0.125]]
    assert oai.embeddings.create(model="gemini-model", input="a").data[0].embedding == [9.0, 0.25]
    with pytest.raises(openai.BadRequestError):
        oai.embeddings.create(model="anthropic-model", input="a")


def test_token_counting(ant):
    assert ant.messages.count_tokens(model="anthropic-model", messages=HELLO).input_tokens == 4321
    raw = ant.messages.with_raw_response.count_tokens(model="openai-model", messages=HELLO)
    assert raw.parse().input_tokens > 0
    assert "estimate" in raw.headers["x-llmops-dropped"]


@pytest.mark.parametrize(
    ("model", "usd"), [("anthropic-model", "0.054399"), ("gemini-model", "0.540"), ("openai-model", "0.0017")]
)
@pytest.mark.parametrize("client", ["openai", "anthropic"])
def test_the_known_bills_in_every_dialect(site, oai, ant, model, usd, client):
    """What the notes say providers billed, whoever asks."""
    from decimal import Decimal

    if client == "openai":
        raw = oai.chat.completions.with_raw_response.create(model=model, messages=HELLO)
    else:
        raw = ant.messages.with_raw_response.create(model=model, max_tokens=10, messages=HELLO)
    assert Decimal(raw.headers["x-llmops-cost-usd"]) == Decimal(usd)


def test_streamed_bills_are_the_same(site, oai, ant):
    from decimal import Decimal

    from gateway_fakes import metric

    def cost(label):
        return Decimal(str(metric(site[0].metrics(), f'llm_cost_total_dollars{{model="{label}"}}')))

    for label, usd in (("anthropic-model", "0.054399"), ("gemini-model", "0.54"), ("openai-model", "0.0017")):
        for stream in (
            lambda label=label: oai.chat.completions.create(model=label, messages=HELLO, stream=True),
            lambda label=label: ant.messages.create(model=label, max_tokens=9, messages=HELLO, stream=True),
        ):
            before = cost(label)
            with stream() as events:
                for _ in events:
                    pass
            assert cost(label) - before == Decimal(usd), label


def test_keys_travel_in_headers_only(site, oai):
    oai.chat.completions.create(model="gemini-model", messages=HELLO)
    seen = site[1]["gemini"].seen[-1]
    assert seen.headers["x-goog-api-key"] == UPSTREAM_KEYS["K_GEMINI"]
    assert "key=" not in seen.path
    for server in site[1].values():
        for each in server.seen:
            assert not any(key in each.path for key in UPSTREAM_KEYS.values())
    assert not any(key in site[0].log.read_text() for key in UPSTREAM_KEYS.values())


def test_anthropic_usage_shape(ant):
    usage = ant.messages.create(model="anthropic-model", max_tokens=5, messages=HELLO).usage
    assert usage.cache_creation_input_tokens == ANTHROPIC_USAGE["cache_creation_input_tokens"]
    assert usage.input_tokens == 3
