"""The transformers engine over HTTP, as clients see it; a real tiny model behind it."""

import concurrent.futures
import json
import re
import socket
import urllib.request
from urllib.parse import urlsplit

import openai
import pytest
from serve_process import until

KEY = {"Authorization": "Bearer key-of-the-tests", "Content-Type": "application/json"}
HELLO = [{"role": "user", "content": "What is the capital of France?"}]


def chat(client, **more):
    return client.chat.completions.create(**{"model": "tiny", "messages": HELLO, "max_tokens": 8} | more)


def complete(client, **more):
    return client.completions.create(**{"model": "tiny", "prompt": "def main", "max_tokens": 8} | more)


def text_of(answer):
    return answer.choices[0].text


def metrics(server) -> dict[str, float]:
    with urllib.request.urlopen(server.url + "/metrics") as answer:
        lines = answer.read().decode().splitlines()
    return {line.rpartition(" ")[0]: float(line.rpartition(" ")[2]) for line in lines if not line.startswith("#")}


def test_a_chat_answer_is_whole(client):
    answer = chat(client, temperature=0, extra_body={"ignore_eos": True})
    assert answer.model == "tiny"
    assert answer.object == "chat.completion"
    assert answer.choices[0].message.role == "assistant"
    assert answer.choices[0].finish_reason == "length"
    assert answer.usage.completion_tokens == 8
    assert answer.usage.total_tokens == answer.usage.prompt_tokens + 8


def test_a_stream_says_the_same_as_the_whole(client):
    whole = chat(client, temperature=0, max_tokens=24)
    chunks = list(chat(client, temperature=0, max_tokens=24, stream=True, stream_options={"include_usage": True}))
    assert chunks[0].choices[0].delta.role == "assistant"
    assert "".join(c.choices[0].delta.content or "" for c in chunks if c.choices) == whole.choices[0].message.content
    assert [c.choices[0].finish_reason for c in chunks if c.choices][-1] == whole.choices[0].finish_reason
    assert chunks[-1].choices == []
    assert chunks[-1].usage == whole.usage


def test_a_stream_without_usage_option_has_none(client):
    assert all(chunk.choices and chunk.usage is None for chunk in chat(client, stream=True))


def test_the_model_list_names_the_model_alone(client):
    assert [model.id for model in client.models.list()] == ["tiny"]


def test_greedy_does_not_depend_on_the_rest_of_the_batch(client):
    alone = text_of(complete(client, temperature=0, max_tokens=32, extra_body={"ignore_eos": True}))
    with concurrent.futures.ThreadPoolExecutor(12) as pool:
        jobs = [
            pool.submit(
                complete, client, prompt="def main" if i % 2 else f"import os {i} " * (i + 1), max_tokens=32,
                temperature=0 if i % 2 else 1.5, extra_body={"ignore_eos": True},
            )
            for i in range(12)
        ]  # fmt: skip
        texts = [text_of(job.result()) for job in jobs]
    assert set(texts[1::2]) == {alone}
    assert len(set(texts[0::2])) > 1


def test_a_seed_repeats_and_another_differs(client):
    def sampled(seed):
        return text_of(complete(client, temperature=1, seed=seed, max_tokens=24, extra_body={"ignore_eos": True}))

    assert sampled(1) == sampled(1)
    assert len({sampled(seed) for seed in range(4)}) > 1


def test_top_k_1_and_a_tiny_top_p_are_greedy(client):
    greedy = text_of(complete(client, temperature=0))
    assert text_of(complete(client, temperature=2, extra_body={"top_k": 1})) == greedy
    assert text_of(complete(client, temperature=2, top_p=1e-9)) == greedy


def test_a_bias_forces_a_token_until_a_penalty_outweighs_it(client):
    def repeated(**more):
        bias = {"500": 30}
        return text_of(complete(client, temperature=0, logit_bias=bias, max_tokens=30, **more))

    forced = repeated()
    word = forced[: len(forced) // 30]
    assert word
    assert forced == word * 30
    penalised = repeated(frequency_penalty=2)
    assert penalised.startswith(word * 10)
    assert penalised != forced


def test_several_choices_and_several_prompts(client):
    answer = complete(client, prompt=["def a", "def b"], n=2, temperature=1, seed=3, max_tokens=6)
    assert [choice.index for choice in answer.choices] == [0, 1, 2, 3]
    streamed = {}
    for chunk in complete(client, prompt=["def a", "def b"], n=2, temperature=1, seed=3, max_tokens=6, stream=True):
        choice = chunk.choices[0]
        streamed[choice.index] = streamed.get(choice.index, "") + choice.text
    assert [streamed[index] for index in range(4)] == [choice.text for choice in answer.choices]


def test_token_ids_are_a_prompt(client):
    assert complete(client, prompt=[1, 100, 200]).usage.prompt_tokens == 3


def test_a_stop_string_ends_the_text_before_itself(client):
    full = text_of(complete(client, temperature=0, max_tokens=24, extra_body={"ignore_eos": True}))
    stop = full[9:12]
    answer = complete(client, temperature=0, max_tokens=24, stop=[stop, "never"], extra_body={"ignore_eos": True})
    assert text_of(answer) == full[: full.find(stop)]
    assert answer.choices[0].finish_reason == "stop"
    streamed = complete(client, temperature=0, max_tokens=24, stop=stop, stream=True, extra_body={"ignore_eos": True})
    assert "".join(chunk.choices[0].text for chunk in streamed) == full[: full.find(stop)]


def test_unknown_fields_are_accepted(client):
    assert chat(client, extra_body={"foo": 1, "min_p": 0.1}, user="someone").choices


@pytest.mark.parametrize(
    ("change", "kind", "code"),
    [
        ({"model": "other"}, openai.NotFoundError, "model_not_found"),
        ({"max_tokens": 100_000}, openai.BadRequestError, "context_length_exceeded"),
        ({"messages": [{"role": "user", "content": "word " * 5000}]}, openai.BadRequestError, "context_length_exceeded"),
        ({"messages": []}, openai.BadRequestError, "missing_field"),
        ({"temperature": -1}, openai.BadRequestError, "invalid_value"),
        ({"max_tokens": 0}, openai.BadRequestError, "invalid_value"),
        ({"temperature": "warm"}, openai.BadRequestError, "invalid_value"),
        ({"logprobs": True}, openai.BadRequestError, "unsupported_parameter"),
        ({"response_format": {"type": "json_object"}}, openai.BadRequestError, "unsupported_parameter"),
        ({"messages": [{"role": "user", "content": [{"type": "image_url"}]}]}, openai.BadRequestError,
         "unsupported_parameter"),
    ],
)  # fmt: skip
def test_what_is_wrong_is_said_in_openais_form(client, change, kind, code):
    with pytest.raises(kind) as caught:
        chat(client, **change)
    assert caught.value.code == code
    assert caught.value.body["message"]


def test_content_in_parts_is_joined(client):
    parts = [{"role": "user", "content": [{"type": "text", "text": "What is the capital "},
                                          {"type": "text", "text": "of France?"}]}]  # fmt: skip
    assert chat(client, messages=parts, temperature=0).choices == chat(client, temperature=0).choices


def test_without_the_key_nothing_is_answered(tiny_server):
    with openai.OpenAI(base_url=tiny_server.url + "/v1", api_key="wrong", max_retries=0) as stranger:
        with pytest.raises(openai.AuthenticationError):
            chat(stranger)
        with pytest.raises(openai.AuthenticationError):
            stranger.models.list()


def test_the_key_is_in_no_argv_and_no_log(tiny_server):
    words = [word for process in tiny_server.children for word in process.cmdline()]
    assert not any("key-of-the-tests" in word for word in words)
    assert "key-of-the-tests" not in tiny_server.log.read_text()


@pytest.mark.parametrize(("body", "status"), [(b"{", 400), (b"[]", 400), (b'{"model": "tiny"}', 400)])
def test_broken_bodies_are_json_errors(tiny_server, body, status):
    request = urllib.request.Request(tiny_server.url + "/v1/chat/completions", body, KEY)
    with pytest.raises(urllib.error.HTTPError) as caught:
        urllib.request.urlopen(request)
    with caught.value as answer:
        assert answer.code == status
        assert json.load(answer)["error"]["type"] == "invalid_request_error"


def test_unknown_paths_and_methods_are_json_errors(tiny_server):
    for method, path, status in (("GET", "/v1/nothing", 404), ("GET", "/v1/chat/completions", 405)):
        request = urllib.request.Request(tiny_server.url + path, headers=KEY, method=method)
        with pytest.raises(urllib.error.HTTPError) as caught:
            urllib.request.urlopen(request)
        with caught.value as answer:
            assert answer.code == status
            assert "error" in json.load(answer)


@pytest.mark.parametrize("stream", [True, False])
def test_a_client_that_leaves_frees_its_place(tiny_server, client, stream):
    before = metrics(tiny_server)
    address = urlsplit(tiny_server.url)
    body = json.dumps({"model": "tiny", "prompt": "def main", "max_tokens": 1900, "stream": stream, "ignore_eos": True})
    head = f"POST /v1/completions HTTP/1.1\r\nHost: x\r\nAuthorization: {KEY['Authorization']}\r\nContent-Length: {len(body)}\r\n\r\n"
    with socket.create_connection((address.hostname, address.port)) as connection:
        connection.sendall((head + body).encode())
        until(lambda: metrics(tiny_server)['llmops_engine_requests_running{model_name="tiny"}'] == 1)
    aborted = 'llmops_engine_requests_finished_total{model_name="tiny",reason="abort"}'
    until(lambda: metrics(tiny_server)[aborted] == before[aborted] + 1)
    until(lambda: metrics(tiny_server)['llmops_engine_requests_running{model_name="tiny"}'] == 0)
    generated = 'llmops_engine_generation_tokens_total{model_name="tiny"}'
    assert metrics(tiny_server)[generated] - before[generated] < 1900


def test_more_requests_than_places_all_finish(client):
    with concurrent.futures.ThreadPoolExecutor(24) as pool:
        jobs = [pool.submit(complete, client, max_tokens=4, extra_body={"ignore_eos": True}) for _ in range(24)]
        assert all(job.result().usage.completion_tokens == 4 for job in jobs)


def test_metrics_count_what_was_asked(tiny_server, client):
    before = metrics(tiny_server)
    answer = complete(client, max_tokens=5, extra_body={"ignore_eos": True})
    after = metrics(tiny_server)

    def grew(name):
        return after[name] - before[name]

    labels = '{model_name="tiny"}'
    assert grew(f"llmops_engine_prompt_tokens_total{labels}") == answer.usage.prompt_tokens
    assert grew(f"llmops_engine_generation_tokens_total{labels}") == 5
    assert grew(f"llmops_engine_time_to_first_token_seconds_count{labels}") == 1
    assert grew(f"llmops_engine_inter_token_latency_seconds_count{labels}") == 4
    assert grew('llmops_engine_requests_finished_total{model_name="tiny",reason="length"}') == 1


def test_metrics_are_well_formed(tiny_server):
    with urllib.request.urlopen(tiny_server.url + "/metrics") as answer:
        assert answer.headers["content-type"].startswith("text/plain; version=0.0.4")
        lines = answer.read().decode().splitlines()
    kinds = dict(re.fullmatch(r"# TYPE (\S+) (\S+)", line).groups() for line in lines if line.startswith("# TYPE"))
    for line in lines:
        if not line.startswith("#"):
            name = re.sub(r"_(bucket|sum|count)$", "", line.partition("{")[0])
            assert name in kinds
            assert kinds[name] != "counter" or name.endswith("_total")
