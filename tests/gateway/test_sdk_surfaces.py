"""The official SDKs over every upstream dialect: what ``test_dialect_matrix.py`` leaves out.

Structured output, Responses, embeddings, token counting, how answers end, failures inside streams, wrong keys and names.
"""

from __future__ import annotations

import json

import anthropic
import openai
import pytest
from gateway_providers import CITY, DIALECTS, HELLO, OPENAI_TEXT, PIXEL, SCHEMA, TEXT, responded
from pydantic import BaseModel

ALL = [*DIALECTS, "triton"]


class City(BaseModel):
    city: str
    unit: str


@pytest.fixture(scope="module")
def stranger(matrix_site):
    key = "sk-stranger-012345678901"
    url = matrix_site[0].url
    with (
        openai.OpenAI(base_url=url + "/v1", api_key=key, max_retries=0, timeout=10) as one,
        anthropic.Anthropic(base_url=url, api_key=key, max_retries=0, timeout=10) as two,
    ):
        yield one, two, key


# ---- who asks, and for what ----


@pytest.mark.parametrize(
    "call", ["chat", "stream", "completions", "responses", "embeddings", "models", "messages", "count"]
)
def test_a_wrong_key_is_an_authentication_error_on_every_surface(matrix_site, stranger, call):
    one, two, key = stranger
    m = "openai-model"
    calls = {
        "chat": lambda: one.chat.completions.create(model=m, messages=HELLO),
        "stream": lambda: one.chat.completions.create(model=m, messages=HELLO, stream=True),
        "completions": lambda: one.completions.create(model=m, prompt="x"),
        "responses": lambda: one.responses.create(model=m, input="x"),
        "embeddings": lambda: one.embeddings.create(model=m, input="x"),
        "models": one.models.list,
        "messages": lambda: two.messages.create(model=m, max_tokens=9, messages=HELLO),
        "count": lambda: two.messages.count_tokens(model=m, messages=HELLO),
    }
    with pytest.raises((openai.AuthenticationError, anthropic.AuthenticationError)) as caught:
        calls[call]()
    assert caught.value.status_code == 401
    assert key not in str(caught.value)
    assert key not in matrix_site[0].log.read_text()


def test_an_unknown_model_is_not_found(oai, ant):
    with pytest.raises(openai.NotFoundError) as caught:
        oai.chat.completions.create(model="nobody-has-this", messages=HELLO)
    assert caught.value.code == "model_not_found"
    with pytest.raises(openai.NotFoundError):
        oai.responses.create(model="nobody-has-this", input="x")
    with pytest.raises(openai.NotFoundError):
        oai.models.retrieve("nobody-has-this")
    with pytest.raises(anthropic.NotFoundError) as other:
        ant.messages.create(model="nobody-has-this", max_tokens=9, messages=HELLO)
    assert other.value.body["error"]["type"] == "not_found_error"


def test_models_in_both_forms(oai, ant):
    assert "gemini-model" in [row.id for row in oai.models.list()]
    assert "gemini-model" in [row.id for row in ant.models.list()]
    assert oai.models.retrieve("triton-model").id == ant.models.retrieve("triton-model").id == "triton-model"


@pytest.mark.parametrize("dialect", ["openai", "gemini"])
def test_the_clients_own_time_limit(oai, ant, dialect):
    with pytest.raises(openai.APITimeoutError):
        oai.with_options(timeout=0.1).chat.completions.create(model=f"{dialect}-fault-stall", messages=HELLO)
    with pytest.raises(anthropic.APITimeoutError):
        ant.with_options(timeout=0.1).messages.create(model=f"{dialect}-fault-stall", max_tokens=9, messages=HELLO)


# ---- structured output ----


@pytest.mark.parametrize("dialect", DIALECTS)
def test_structured_output_of_chat(oai, dialect):
    request = {"model": f"{dialect}-model", "messages": HELLO, "response_format": City}
    assert oai.chat.completions.parse(**request).choices[0].message.parsed == City(**CITY)
    with oai.chat.completions.stream(**request) as events:
        for _ in events:
            pass
        assert events.get_final_completion().choices[0].message.parsed == City(**CITY)


@pytest.mark.parametrize("dialect", DIALECTS)
def test_structured_output_of_responses(oai, dialect):
    request = {"model": f"{dialect}-model", "input": "hi", "text_format": City}
    assert oai.responses.parse(**request).output_parsed == City(**CITY)
    with oai.responses.stream(**request) as events:
        for _ in events:
            pass
        assert events.get_final_response().output_parsed == City(**CITY)


@pytest.mark.parametrize("dialect", DIALECTS)
def test_structured_output_of_messages(ant, matrix_site, dialect):
    answer = ant.messages.parse(model=f"{dialect}-model", max_tokens=99, messages=HELLO, output_format=City)
    assert answer.parsed_output == City(**CITY)
    sent = matrix_site[1][dialect].seen[-1].json
    schema = {
        "openai": lambda: sent["response_format"]["json_schema"]["schema"],
        "anthropic": lambda: sent["output_config"]["format"]["schema"],
        "gemini": lambda: sent["generationConfig"]["responseJsonSchema"],
    }[dialect]()
    assert set(schema["properties"]) == {"city", "unit"}


# ---- Triton has text only, and says so ----

FUNCTION = {"type": "function", "function": {"name": "weather", "parameters": SCHEMA}}
PICTURE = [{"type": "image_url", "image_url": {"url": f"data:image/png;base64,{PIXEL}"}}]


@pytest.mark.parametrize(
    ("more", "param"),
    [
        ({"tools": [FUNCTION]}, "tools"),
        ({"messages": [{"role": "user", "content": PICTURE}]}, "image"),
        ({"response_format": {"type": "json_object"}}, "response_format"),
        ({"logprobs": True}, "logprobs"),
    ],
)
def test_what_triton_cannot_do_is_refused_by_name(oai, more, param):
    with pytest.raises(openai.BadRequestError) as caught:
        oai.chat.completions.create(**{"model": "triton-model", "messages": HELLO, **more})
    assert (caught.value.param, caught.value.code) == (param, "untranslatable")


def test_what_triton_cannot_do_is_refused_by_name_for_messages(ant):
    tool = {"name": "weather", "input_schema": SCHEMA}
    with pytest.raises(anthropic.BadRequestError) as caught:
        ant.messages.create(model="triton-model", max_tokens=9, messages=HELLO, tools=[tool])
    assert "'tools'" in caught.value.body["error"]["message"]


# ---- Responses ----


@pytest.mark.parametrize("stream", [False, True])
def test_responses_over_triton(oai, stream):
    answer = responded(oai, stream, model="triton-model", input="hi")
    assert (answer.output_text, answer.status) == (TEXT["triton"], "completed")


@pytest.mark.parametrize("dialect", DIALECTS)
def test_responses_with_an_image(oai, matrix_site, dialect):
    content = [
        {"type": "input_text", "text": "what is this?"},
        {"type": "input_image", "image_url": f"data:image/png;base64,{PIXEL}", "detail": "auto"},
    ]
    answer = oai.responses.create(model=f"{dialect}-model", input=[{"role": "user", "content": content}])
    assert answer.output_text == TEXT[dialect]
    assert PIXEL in matrix_site[1][dialect].seen[-1].raw.decode()


@pytest.mark.parametrize("dialect", DIALECTS)
@pytest.mark.parametrize("stream", [False, True])
def test_responses_with_parallel_tools(oai, dialect, stream):
    functions = [{"type": "function", "name": name, "parameters": SCHEMA} for name in ("weather", "weather_again")]
    request = {"model": f"{dialect}-model", "input": "hi", "tools": functions}
    answer = responded(oai, stream, **request)
    calls = [item for item in answer.output if item.type == "function_call"]
    assert [json.loads(call.arguments)["city"] for call in calls] == ["Kyoto", "Oslo"]
    assert len({call.call_id for call in calls}) == 2


@pytest.mark.parametrize("stream", [False, True])
def test_a_responses_tool_loop_keeps_geminis_signature(oai, matrix_site, stream):
    """The SDK's own pattern: what came as output goes back as input."""
    functions = [{"type": "function", "name": "weather", "parameters": SCHEMA}]
    request = {"model": "gemini-3-model", "input": [{"role": "user", "content": "hi"}], "tools": functions}
    answer = responded(oai, stream, **request)
    (call,) = [item for item in answer.output if item.type == "function_call"]
    history = [*request["input"], *(item.model_dump(exclude_none=True) for item in answer.output)]
    for item in history[1:]:
        item.pop("parsed_arguments", None)
    history.append({"type": "function_call_output", "call_id": call.call_id, "output": "21"})
    assert oai.responses.create(**{**request, "input": history}).output_text == TEXT["gemini"]
    sent = matrix_site[1]["gemini"].seen[-1].json["contents"]
    assert sent[1]["parts"][0]["thoughtSignature"] == "c2lnLWdlbWluaQ=="


def test_reasoning_of_strangers_is_left_out_and_said(oai):
    items = [
        {"type": "reasoning", "id": "rs_1", "summary": [], "encrypted_content": "gAAAA-of-another-provider"},
        {"role": "user", "content": "hi"},
    ]
    raw = oai.responses.with_raw_response.create(model="gemini-model", input=items)
    assert raw.headers["x-llmops-dropped"] == "input[0] (reasoning)"
    items[0]["encrypted_content"] = "llmops.altered"
    with pytest.raises(openai.BadRequestError):
        oai.responses.create(model="gemini-model", input=items)


def test_a_response_repeats_its_request(oai):
    asked = {"temperature": 0.5, "instructions": "be brief", "max_output_tokens": 9, "metadata": {"a": "b"}}
    answer = oai.responses.create(model="gemini-model", input="hi", **asked)
    assert {name: getattr(answer, name) for name in asked} == asked


FAULTS = [
    ("fault-400", 400, openai.BadRequestError),
    ("fault-404", 404, openai.NotFoundError),
    ("fault-429", 429, openai.RateLimitError),
    ("fault-500", 500, openai.InternalServerError),
    ("fault-401", 502, openai.InternalServerError),
    ("fault-stall", 504, openai.InternalServerError),
    ("fault-garbage", 502, openai.InternalServerError),
]


@pytest.mark.parametrize("dialect", ALL)
@pytest.mark.parametrize(("name", "status", "kind"), FAULTS)
def test_errors_of_responses_and_embeddings(oai, dialect, name, status, kind):
    variants = ("r0-", "e0-") if name == "fault-429" else ("", "")
    calls = [lambda: oai.responses.create(model=f"{dialect}-{variants[0]}{name}", input="hi")]
    if dialect != "anthropic":
        calls.append(lambda: oai.embeddings.create(model=f"{dialect}-{variants[1]}{name}", input="hi"))
    for call in calls:
        with pytest.raises(kind) as caught:
            call()
        assert caught.value.status_code == status
        if name == "fault-429":
            assert caught.value.response.headers["retry-after"] == "7"


# ---- embeddings and counting ----


def test_embeddings_of_every_dialect_that_has_them(oai):
    rows = {"openai": [2.0, 0.5], "gemini": [9.0, 0.25], "triton": [2.0, 0.125]}
    for dialect, vector in rows.items():
        for form in ({}, {"encoding_format": "float"}, {"encoding_format": "base64"}):
            answer = oai.embeddings.create(model=f"{dialect}-model", input=["ab", "cd"], **form)
            assert [row.index for row in answer.data] == [0, 1]
            if dialect == "openai" or form.get("encoding_format") != "base64":
                assert answer.data[0].embedding == vector
    assert oai.embeddings.create(model="elsewhere", input="ab").data[0].embedding == [2.0, 0.5]


@pytest.mark.parametrize("dialect", ["openai", "gemini"])
def test_embeddings_are_not_streamed(matrix_site, dialect):
    import httpx

    answer = httpx.post(
        f"{matrix_site[0].url}/v1/embeddings",
        json={"model": f"{dialect}-model", "input": "ab", "stream": True},
        headers={"authorization": "Bearer sk-client-0123456789"},
    )
    assert answer.status_code == 200
    assert len(answer.json()["data"]) == 1


@pytest.mark.parametrize(
    ("dialect", "count"), [("anthropic", 4321), ("gemini", 777), ("openai", None), ("triton", None)]
)
def test_tokens_are_counted_by_who_can_and_estimated_aloud_else(ant, matrix_site, dialect, count):
    raw = ant.messages.with_raw_response.count_tokens(model=f"{dialect}-model", messages=HELLO, system="be brief")
    tokens = raw.parse().input_tokens
    if count is not None:
        assert tokens == count
        assert "be brief" in matrix_site[1][dialect].seen[-1].raw.decode()
    else:
        assert 1 <= tokens < 60
        assert "estimate" in raw.headers["x-llmops-dropped"]
        assert not matrix_site[1][dialect].seen[-1].path.endswith("count_tokens")


@pytest.mark.parametrize("dialect", ["anthropic", "gemini"])
def test_errors_of_counting(ant, dialect):
    kinds = {"fault-400": anthropic.BadRequestError, "fault-500": anthropic.InternalServerError}
    for name, kind in (*kinds.items(), ("c0-fault-429", anthropic.RateLimitError)):
        with pytest.raises(kind):
            ant.messages.count_tokens(model=f"{dialect}-{name}", messages=HELLO)


# ---- how an answer ends ----

ENDS = {
    "end-length": ("length", "max_tokens", ("incomplete", "max_output_tokens")),
    "end-filter": ("content_filter", "refusal", ("incomplete", "content_filter")),
    "end-sequence": ("stop", None, ("completed", None)),
}


@pytest.mark.parametrize("dialect", DIALECTS)
@pytest.mark.parametrize("name", ENDS)
def test_why_an_answer_ended_is_said_in_each_dialect(oai, ant, dialect, name):
    finish, reason, (status, why) = ENDS[name]
    model = f"{dialect}-{name}"
    assert oai.chat.completions.create(model=model, messages=HELLO).choices[0].finish_reason == finish
    with oai.chat.completions.create(model=model, messages=HELLO, stream=True) as stream:
        assert [chunk.choices[0].finish_reason for chunk in stream if chunk.choices][-1] == finish
    whole = ant.messages.create(model=model, max_tokens=9, messages=HELLO)
    with ant.messages.stream(model=model, max_tokens=9, messages=HELLO) as events:
        streamed = events.get_final_message()
    wanted = reason or ("stop_sequence" if dialect == "anthropic" else "end_turn")
    assert whole.stop_reason == streamed.stop_reason == wanted
    if name == "end-sequence" and dialect == "anthropic":
        assert whole.stop_sequence == streamed.stop_sequence == "END"
    answer = oai.responses.create(model=model, input="hi")
    assert answer.status == status
    assert (answer.incomplete_details.reason if answer.incomplete_details else None) == why


@pytest.mark.parametrize("dialect", ALL)
def test_a_failure_inside_a_stream_is_raised_by_every_client(oai, ant, dialect):
    model = f"{dialect}-fault-stream-late-error"
    with pytest.raises(openai.APIError), oai.chat.completions.create(model=model, messages=HELLO, stream=True) as one:
        for _ in one:
            pass
    with pytest.raises(anthropic.APIStatusError), ant.messages.stream(model=model, max_tokens=9, messages=HELLO) as two:
        two.get_final_message()
    with oai.responses.create(model=model, input="hi", stream=True) as three:
        kinds = [event.type for event in three]
    assert kinds[-1] == "error"  # an event of this API, which its SDK hands on
    assert "response.completed" not in kinds


def test_logprobs_where_both_sides_have_them(oai):
    answer = oai.chat.completions.create(model="gemini-model", messages=HELLO, logprobs=True, top_logprobs=2)
    (row,) = answer.choices[0].logprobs.content
    assert (row.token, row.logprob) == ("g", -0.25)
    assert [(top.token, top.logprob) for top in row.top_logprobs] == [("g", -0.25), ("h", -1.5)]
    with pytest.raises(openai.BadRequestError) as caught:
        oai.chat.completions.create(model="anthropic-model", messages=HELLO, logprobs=True)
    assert caught.value.param == "logprobs"


@pytest.mark.parametrize("dialect", DIALECTS)
def test_stop_sequences_arrive_in_the_providers_field(oai, ant, matrix_site, dialect):
    def stops():
        sent = matrix_site[1][dialect].seen[-1].json
        return sent.get("stop") or sent.get("stop_sequences") or sent["generationConfig"]["stopSequences"]

    oai.chat.completions.create(model=f"{dialect}-model", messages=HELLO, stop=["END", "."])
    assert stops() == ["END", "."]
    ant.messages.create(model=f"{dialect}-model", max_tokens=9, messages=HELLO, stop_sequences=["END"])
    assert stops() == ["END"]


def test_servers_that_are_not_openais_own_are_asked_in_words_they_know(ant, matrix_site):
    """They know ``max_tokens`` and ``top_k``; passing over a limit that they do not know would cost the whole context."""
    request = {"max_tokens": 9, "messages": HELLO, "extra_body": {"top_k": 5}}
    with ant.messages.stream(model="own-model", **request) as events:
        assert events.get_final_message().content[0].text == OPENAI_TEXT
    sent = matrix_site[1]["openai"].seen[-1].json
    assert (sent["max_tokens"], sent["top_k"]) == (9, 5)
    assert not {"max_completion_tokens", "stream_options"} & set(sent)
    ant.messages.create(model="openai-model", max_tokens=9, messages=HELLO)
    sent = matrix_site[1]["openai"].seen[-1].json
    assert sent["max_completion_tokens"] == 9
    assert "max_tokens" not in sent
    with pytest.raises(anthropic.BadRequestError):
        ant.messages.create(model="openai-model", **request)


# ---- nothing is lost silently ----


def test_marks_without_a_place_are_named(oai, ant):
    content = [{"type": "text", "text": "long", "cache_control": {"type": "ephemeral"}}]
    picture = [{"type": "image_url", "image_url": {"url": f"data:image/png;base64,{PIXEL}", "detail": "low"}}]
    messages = [
        {"role": "user", "content": content, "name": "kim"},
        {
            "role": "assistant",
            "content": "x",
            "thinking_blocks": [{"type": "thinking", "thinking": "t", "signature": "s"}],
        },
        {"role": "user", "content": picture},
    ]
    tool = {"type": "function", "function": {"name": "weather", "parameters": SCHEMA, "strict": True}}
    raw = oai.chat.completions.with_raw_response.create(model="gemini-model", messages=messages, tools=[tool])
    names = raw.headers["x-llmops-dropped"].split(", ")
    assert {"cache_control", "thinking of earlier turns", "tools.strict", "messages[0].name"} <= set(names)
    assert "messages[2] (image detail)" in names
    other = ant.messages.with_raw_response.create(
        model="openai-model", max_tokens=9, messages=[{"role": "user", "content": content}]
    )
    assert other.headers["x-llmops-dropped"] == "cache_control"
    same = ant.messages.with_raw_response.create(
        model="anthropic-model", max_tokens=9, messages=[{"role": "user", "content": content}]
    )
    assert "x-llmops-dropped" not in same.headers


def test_a_callers_words_cannot_leave_their_header(matrix_site):
    """Names of fields are the caller's, and go into a header: they must not end it."""
    import httpx

    url, key = matrix_site[0].url, {"authorization": "Bearer sk-client-0123456789", "x-api-key": "sk-client-0123456789"}
    evil = "a\r\nx-evil: 1\r\n\r\n{}" + "\u00e9\u4f60" + "x" * 500
    bodies = (
        ("/v1/chat/completions", {"model": "dropping", "messages": HELLO, evil: 1}),
        ("/v1/messages", {"model": "openai-model", "max_tokens": 9, "messages": HELLO, "metadata": {evil: 1}}),
        ("/v1/responses", {"model": "gemini-model", "input": "hi", "text": {evil: 1}}),
    )
    for path, body in bodies:
        answer = httpx.post(url + path, json=body, headers=key, timeout=10)
        assert answer.status_code == 200, answer.text
        assert "x-evil" not in answer.headers
        assert "x-evil: 1" in answer.headers["x-llmops-dropped"]
        assert len(answer.headers["x-llmops-dropped"]) < 200


def test_what_one_target_cannot_say_another_may(oai):
    raw = oai.chat.completions.with_raw_response.create(model="elsewhere", messages=HELLO, logit_bias={"5": -100})
    assert (raw.headers["x-llmops-target"], raw.headers["x-llmops-attempts"]) == ("openai/gpt-4o", "1")
    assert raw.parse().choices[0].message.content == OPENAI_TEXT
