"""The gateway before real engines: vLLM with the real small model, and a real Triton server. Slow: each loads a model."""

from __future__ import annotations

import re
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import anthropic
import httpx
import openai
import pytest
from gateway_fakes import gateway, metric, wait_until

sys.path.insert(0, str(Path(__file__).parents[1] / "serve"))
pytestmark = pytest.mark.slow

HELLO = [{"role": "user", "content": "Name three colours."}]
FRANCE = "Question: What is the capital of France?\nAnswer:"


# ---- vLLM ----


@pytest.fixture(scope="module")
def vllm(vllm_environment, small_model, tmp_path_factory):
    from serve_process import serving

    options = ("--engine", "vllm", "--name", "real", "--max-model-len", "2048", "--kv-cache-gib", "1")
    tmp = tmp_path_factory.mktemp("vllm")
    with serving(tmp, small_model, *options, env=vllm_environment, seconds=580) as served:
        yield served


@pytest.fixture(scope="module")
def before_vllm(vllm, tmp_path_factory):
    """Found by asking the running server: no model's name is in the config."""
    config = f"providers: {{vllm: {{base_url: '{vllm.url}/v1', local: true, discover: true}}}}\n"
    with gateway(tmp_path_factory.mktemp("gateway"), config) as running:
        wait_until(lambda: "real" in httpx.get(f"{running.url}/v1/models").text, what="the served model is found")
        yield running


@pytest.fixture(scope="module")
def clients(before_vllm):
    url = before_vllm.url
    with (
        openai.OpenAI(base_url=url + "/v1", api_key="none", max_retries=0, timeout=120) as one,
        anthropic.Anthropic(base_url=url, api_key="none", max_retries=0, timeout=120) as two,
    ):
        yield one, two


def of_vllm(vllm, name: str, **labels: str) -> float:
    """The sum of a metric of vLLM's over its series with these labels."""
    total = 0.0
    for line in httpx.get(vllm.url + "/metrics", timeout=30).text.splitlines():
        if line.startswith(name + "{") and all(f'{key}="{value}"' in line for key, value in labels.items()):
            total += float(line.rpartition(" ")[2])
    return total


def test_a_real_vllm_answers_both_clients_whole_and_streamed(vllm, before_vllm, clients):
    one, two = clients
    direct = openai.OpenAI(base_url=vllm.url + "/v1", api_key="none", max_retries=0, timeout=120)
    with direct:
        known = direct.completions.create(model="real", prompt=FRANCE, max_tokens=8, temperature=0)
    through = one.completions.create(model="real", prompt=FRANCE, max_tokens=8, temperature=0)
    assert through.choices[0].text == known.choices[0].text
    assert through.usage == known.usage

    request = {"model": "real", "messages": HELLO, "max_tokens": 24, "temperature": 0}
    whole = one.chat.completions.create(**request)
    with one.chat.completions.create(**request, stream=True) as stream:
        chunks = list(stream)
    text = "".join(chunk.choices[0].delta.content or "" for chunk in chunks)
    assert text == whole.choices[0].message.content
    assert len(chunks) > 10  # a token at a time, not all at once
    assert all(chunk.usage is None for chunk in chunks)  # nobody asked for it

    said = {"model": "real", "messages": HELLO, "max_tokens": 24, "extra_body": {"temperature": 0}}
    message = two.messages.create(**said)
    with two.messages.stream(**said) as events:
        streamed = events.get_final_message()
    assert message.content[0].text == streamed.content[0].text == text
    assert message.usage.output_tokens == streamed.usage.output_tokens == whole.usage.completion_tokens
    assert one.responses.create(model="real", input=HELLO, max_output_tokens=24, temperature=0).output_text == text

    counted = metric(before_vllm.metrics(), 'llm_token_usage_total{model="real",type="output"}')
    # The streams that did not ask for usage are counted too.
    assert counted == through.usage.completion_tokens + 5 * whole.usage.completion_tokens


def test_a_mistake_is_told_in_the_callers_words_and_not_repeated(vllm, clients):
    one, two = clients
    before = of_vllm(vllm, "http_requests_total")
    with pytest.raises(openai.BadRequestError) as caught:
        one.chat.completions.create(model="real", messages=HELLO, max_tokens=10**6)
    assert "2048" in caught.value.body["message"]
    with pytest.raises(anthropic.BadRequestError):
        two.messages.create(model="real", messages=HELLO, max_tokens=10**6)
    assert of_vllm(vllm, "http_requests_total") <= before + 4  # our own look at the metrics among them


@pytest.mark.parametrize("surface", ["chat", "messages", "whole"])
def test_a_caller_that_leaves_aborts_the_generation_in_vllm(vllm, before_vllm, surface):
    """vLLM itself says so: nothing runs any more, nothing ended by itself, and no token is generated for nobody."""
    path = "/v1/messages" if surface == "messages" else "/v1/chat/completions"
    body = {"model": "real", "messages": HELLO, "max_tokens": 1900, "temperature": 0, "stream": surface != "whole"}
    if surface != "messages":
        body["ignore_eos"] = True
    else:
        body["messages"] = [{"role": "user", "content": "Count from one to one thousand: 1 2 3 4 5 6 7 8"}]
    tokens, finished = (of_vllm(vllm, name) for name in ("vllm:generation_tokens_total", "vllm:request_success_total"))
    with httpx.Client(timeout=60) as client:
        if surface == "whole":
            with pytest.raises(httpx.ReadTimeout):
                client.post(before_vllm.url + path, json=body, timeout=1.0)
        else:
            with client.stream("POST", before_vllm.url + path, json=body) as answer:
                lines = answer.iter_lines()
                assert answer.status_code == 200
                for _ in range(8):
                    next(lines)
                assert of_vllm(vllm, "vllm:num_requests_running") == 1
    wait_until(lambda: of_vllm(vllm, "vllm:num_requests_running") == 0, 15, "vLLM runs nothing")
    generated = of_vllm(vllm, "vllm:generation_tokens_total") - tokens
    assert 0 < generated < 1500  # of the 1,900 that were asked for
    assert of_vllm(vllm, "vllm:request_success_total") == finished  # it ended neither at a stop nor at its length
    wait_until(lambda: metric(before_vllm.metrics(), "llm_requests_in_flight") == 0)
    assert of_vllm(vllm, "vllm:generation_tokens_total") - tokens == generated  # not one token more for nobody


def test_many_at_once_reach_vllm_together(vllm, clients):
    """No request waits for another one in the gateway: vLLM sees them at the same time and batches them."""
    one, _ = clients

    def ask(number: int) -> str:
        messages = [{"role": "user", "content": f"Say the number {number}."}]
        answer = one.chat.completions.create(
            model="real", messages=messages, max_tokens=160, temperature=0, extra_body={"ignore_eos": True}
        )
        return answer.choices[0].finish_reason

    with ThreadPoolExecutor(8) as pool:
        futures = [pool.submit(ask, number) for number in range(8)]
        wait_until(lambda: of_vllm(vllm, "vllm:num_requests_running") == 8, 60, "all eight run at the same time")
        assert [future.result() for future in futures] == ["length"] * 8


# ---- Triton ----


@pytest.fixture(scope="module")
def triton(llmops, triton_environment, tiny_llama, tmp_path_factory):
    """A Llama with random weights behind a real Triton, served by the command."""
    from serve_process import serving

    out = tmp_path_factory.mktemp("triton")
    exported = llmops(
        "export", "onnx", tiny_llama, "-o", out / "onnx", "--task", "causal-lm-cache", "--exporter", "torchscript",
        "--no-check",
    )  # fmt: skip
    assert exported.code == 0, exported.stderr
    options = ("--engine", "triton", "--name", "tiny", "--grpc-port", "0", "--metrics-port", "0")
    with serving(
        out, out / "onnx", *options, "--repository", out / "repo", env=triton_environment, seconds=300
    ) as served:
        yield served


def test_a_real_triton_answers_both_clients_whole_and_streamed(triton, tmp_path):
    config = (
        f"providers: {{triton: {{dialect: triton, base_url: '{triton.url}', local: true}}}}\n"
        "routes: [{match: tiny, targets: [{provider: triton}]}, {match: nobody, targets: [{provider: triton}]}]\n"
    )
    text = "The operations guide says"
    direct = httpx.post(
        f"{triton.url}/v2/models/tiny/generate", json={"text_input": text, "max_tokens": 6}, timeout=120
    )
    known = direct.json()["text_output"]
    with (
        gateway(tmp_path, config) as running,
        openai.OpenAI(base_url=running.url + "/v1", api_key="none", max_retries=0, timeout=120) as one,
        anthropic.Anthropic(base_url=running.url, api_key="none", max_retries=0, timeout=120) as two,
    ):
        request = {"model": "tiny", "messages": [{"role": "user", "content": text}], "max_tokens": 6}
        assert one.chat.completions.create(**request).choices[0].message.content == known
        with one.chat.completions.create(**request, stream=True) as stream:
            pieces = [chunk.choices[0].delta.content for chunk in stream if chunk.choices[0].delta.content]
        assert "".join(pieces) == known
        assert len(pieces) >= 3  # a token at a time
        assert two.messages.create(**request).content[0].text == known
        with two.messages.stream(**request) as events:
            assert events.get_final_message().content[0].text == known
        assert one.completions.create(model="tiny", prompt=text, max_tokens=6).choices[0].text == known
        with pytest.raises((openai.BadRequestError, openai.NotFoundError)) as caught:
            one.chat.completions.create(**{**request, "model": "nobody"})
        assert re.search("nobody", caught.value.body["message"])
