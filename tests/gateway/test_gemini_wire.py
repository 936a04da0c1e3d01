"""The Gemini side against Google's own SDK: its requests are ours, byte for byte in meaning, and it reads what our fake says.

A fake that answers in a form of our own making would prove nothing; ``google-genai`` refuses unknown fields, so both the
requests that the gateway writes and the answers that the tests are fed with are held to Google's types.
"""

from __future__ import annotations

import base64
import json
import warnings

import pytest
from gateway_fakes import fake
from gateway_providers import CITIES, GEMINI_TEXT, GEMINI_USAGE, HANDLERS, PIXEL, SCHEMA
from pydantic.alias_generators import to_camel

genai = pytest.importorskip("google.genai", reason="Google's SDK: pip install google-genai")
types = genai.types

MODEL = "gemini-2.5-pro"
USER = [types.Content(role="user", parts=[types.Part(text="hi")])]
FUNCTION = types.FunctionDeclaration(name="weather", description="w", parameters_json_schema=SCHEMA)
TOOL = {"type": "function", "function": {"name": "weather", "description": "w", "parameters": SCHEMA}}
FORMAT = {"type": "json_schema", "json_schema": {"name": "city", "schema": SCHEMA}}
URL = f"data:image/png;base64,{PIXEL}"


def no_calls(**more):
    return types.GenerateContentConfig(automatic_function_calling={"disable": True}, **more)


def choice(mode, *names):
    calling = types.FunctionCallingConfig(mode=mode, allowed_function_names=list(names) or None)
    return types.ToolConfig(function_calling_config=calling)


def turns():
    """A tool loop with a signed call, in both dialects."""
    call = {"id": "c1", "type": "function", "function": {"name": "weather", "arguments": json.dumps(CITIES[0])}}
    call["extra_content"] = {"google": {"thought_signature": "c2ln"}}
    ours = [
        {"role": "user", "content": "hi"},
        {"role": "assistant", "content": None, "tool_calls": [call]},
        {"role": "tool", "tool_call_id": "c1", "content": "21"},
    ]
    part = types.Part(
        function_call=types.FunctionCall(id="c1", name="weather", args=CITIES[0]), thought_signature=b"sig"
    )
    answer = types.FunctionResponse(id="c1", name="weather", response={"result": "21"})
    theirs = [
        *USER,
        types.Content(role="model", parts=[part]),
        types.Content(role="user", parts=[types.Part(function_response=answer)]),
    ]
    return ours, theirs


HELLO = [{"role": "user", "content": "hi"}]
CASES = {
    "plain": (HELLO, {}, USER, no_calls()),
    "system": (
        [{"role": "system", "content": "be brief"}, *HELLO],
        {},
        USER,
        no_calls(system_instruction=types.Content(parts=[types.Part(text="be brief")])),
    ),
    "sampling": (
        HELLO,
        {"max_tokens": 7, "temperature": 0.5, "top_p": 0.9, "stop": ["END"], "seed": 3, "presence_penalty": 0.25},
        USER,
        no_calls(
            max_output_tokens=7, temperature=0.5, top_p=0.9, stop_sequences=["END"], seed=3, presence_penalty=0.25
        ),
    ),
    "image": (
        [
            {
                "role": "user",
                "content": [{"type": "text", "text": "hi"}, {"type": "image_url", "image_url": {"url": URL}}],
            }
        ],
        {},
        [
            types.Content(
                role="user",
                parts=[
                    types.Part(text="hi"),
                    types.Part(inline_data=types.Blob(mime_type="image/png", data=base64.b64decode(PIXEL))),
                ],
            )
        ],
        no_calls(),
    ),
    "structured": (
        HELLO,
        {"response_format": FORMAT},
        USER,
        no_calls(response_mime_type="application/json", response_json_schema=SCHEMA),
    ),
    "any tool": (
        HELLO,
        {"tools": [TOOL], "tool_choice": "required"},
        USER,
        no_calls(tools=[types.Tool(function_declarations=[FUNCTION])], tool_config=choice("ANY")),
    ),
    "one tool": (
        HELLO,
        {"tools": [TOOL], "tool_choice": {"type": "function", "function": {"name": "weather"}}},
        USER,
        no_calls(tools=[types.Tool(function_declarations=[FUNCTION])], tool_config=choice("ANY", "weather")),
    ),
    "tool loop": (
        turns()[0],
        {"tools": [TOOL]},
        turns()[1],
        no_calls(tools=[types.Tool(function_declarations=[FUNCTION])]),
    ),
    "effort": (
        HELLO,
        {"reasoning_effort": "low"},
        USER,
        no_calls(thinking_config=types.ThinkingConfig(thinking_budget=1024)),
    ),
    "logprobs": (
        HELLO,
        {"logprobs": True, "top_logprobs": 2},
        USER,
        no_calls(response_logprobs=True, logprobs=2),
    ),
}


@pytest.fixture(scope="module")
def google():
    """Google's client before a fake of its own, so that both sides' requests can be laid side by side."""
    with warnings.catch_warnings(), fake(HANDLERS["gemini"]) as server:
        warnings.simplefilter("ignore")
        options = types.HttpOptions(base_url=server.url, api_version="v1beta")
        client = genai.Client(api_key="AIzaUp01234567890", http_options=options)
        yield client, server
        client.close()


@pytest.mark.parametrize("name", CASES)
@pytest.mark.parametrize("stream", [False, True])
def test_our_requests_are_the_sdks_requests(google, oai, matrix_site, name, stream):
    client, server = google
    messages, more, contents, config = CASES[name]
    if stream:
        with oai.chat.completions.create(model="gemini-model", messages=messages, stream=True, **more) as events:
            for _ in events:
                pass
        for _ in client.models.generate_content_stream(model=MODEL, contents=contents, config=config):
            pass
    else:
        oai.chat.completions.create(model="gemini-model", messages=messages, **more)
        client.models.generate_content(model=MODEL, contents=contents, config=config)
    ours, theirs = matrix_site[1]["gemini"].seen[-1], server.seen[-1]
    assert ours.path == theirs.path
    assert ours.headers["x-goog-api-key"] == theirs.headers["x-goog-api-key"]
    wanted = theirs.json
    wanted.pop("automaticFunctionCalling", None)
    assert ours.json == plain(wanted)


def plain(value):
    """Forms that mean the same to Google: names in either case, base64 in either alphabet, an empty part or none."""
    if isinstance(value, dict):
        made = {to_camel(key): plain(each) for key, each in value.items() if each != {}}
        if "inlineData" in made:
            made["inlineData"]["data"] = made["inlineData"]["data"].replace("-", "+").replace("_", "/")
        if "systemInstruction" in made:
            made["systemInstruction"].pop("role", None)
        return made
    return [plain(each) for each in value] if isinstance(value, list) else value


def test_the_sdk_reads_what_our_fake_says(google):
    client, _ = google
    answer = client.models.generate_content(model=MODEL, contents="hi")
    assert answer.text == GEMINI_TEXT
    assert answer.usage_metadata.prompt_token_count == GEMINI_USAGE["promptTokenCount"]
    assert answer.usage_metadata.thoughts_token_count == GEMINI_USAGE["thoughtsTokenCount"]
    assert (
        "".join(each.text for each in client.models.generate_content_stream(model=MODEL, contents="hi")) == GEMINI_TEXT
    )
    config = no_calls(tools=[types.Tool(function_declarations=[FUNCTION, FUNCTION])])
    calls = client.models.generate_content(model=MODEL, contents="hi", config=config)
    assert [call.args for call in calls.function_calls] == CITIES
    assert calls.candidates[0].content.parts[0].thought_signature == b"sig-gemini"
    assert client.models.count_tokens(model=MODEL, contents="hi").total_tokens == 777
    assert client.models.embed_content(model=MODEL, contents=["a"]).embeddings[0].values == [9.0, 0.25]
    with pytest.raises(genai.errors.ClientError) as caught:
        client.models.generate_content(model="fault-400", contents="hi")
    assert caught.value.message == "gemini says 400"


def test_the_finish_words_are_googles():
    from llmops.gateway.dialects.gemini import STOP

    assert set(STOP) <= {each.value for each in types.FinishReason}
