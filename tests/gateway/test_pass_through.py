"""A gateway before one OpenAI-compatible server: the official client through the port."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from decimal import Decimal

import httpx
import openai
import pytest
from gateway_fakes import OPENAI_TEXT, OPENAI_USAGE, fake, gateway, metric
from gateway_fakes import openai as openai_server

# 200 plain input at $2.50, 800 cached at $1.25, 20 output at $10, a million
PRICE = Decimal("0.0017")

CONFIG = """
providers:
  cloud: {{base_url: "{url}/v1", prices_as: openai, key_env: CLOUD_KEY}}
routes:
  - match: gpt-4o
    alias: [fast]
    targets: [{{provider: cloud, model: gpt-4o}}]
  - match: text-embedding-3-small
    targets: [{{provider: cloud}}]
"""


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    with fake(openai_server) as upstream:
        env = {"CLOUD_KEY": "sk-cloud-0123456789abcdef"}
        with gateway(tmp_path_factory.mktemp("gw"), CONFIG.format(url=upstream.url), env=env) as running:
            yield running, upstream


@pytest.fixture
def client(site):
    with openai.OpenAI(base_url=site[0].url + "/v1", api_key="sk-anything", max_retries=0) as made:
        yield made


def test_chat_answers_with_its_exact_price(site, client):
    answer = client.chat.completions.with_raw_response.create(
        model="gpt-4o", messages=[{"role": "user", "content": "hi"}], extra_body={"unknown_field": {"kept": 1}}
    )
    assert answer.parse().choices[0].message.content == OPENAI_TEXT
    assert Decimal(answer.headers["x-llmops-cost-usd"]) == PRICE
    assert answer.headers["x-llmops-price-source"].startswith("genai-prices")
    assert answer.headers["x-llmops-target"] == "cloud/gpt-4o"
    assert answer.headers["x-llmops-attempts"] == "1"
    seen = site[1].seen[-1]
    assert seen.json["unknown_field"] == {"kept": 1}
    assert seen.headers["authorization"] == "Bearer sk-cloud-0123456789abcdef"
    assert seen.headers["accept-encoding"] == "identity"
    assert [name.lower() for name, _ in seen.header_lines].count("content-length") == 1


def test_an_alias_reaches_the_targets_model(site, client):
    client.chat.completions.create(model="fast", messages=[{"role": "user", "content": "hi"}])
    assert site[1].seen[-1].json["model"] == "gpt-4o"


def test_stream_is_passed_on_and_priced(site, client):
    before = metric(site[0].metrics(), 'llm_token_usage_total{model="gpt-4o",type="cache_read"}')
    with client.chat.completions.create(
        model="gpt-4o", messages=[{"role": "user", "content": "hi"}], stream=True
    ) as stream:
        chunks = list(stream)
    assert "".join(chunk.choices[0].delta.content or "" for chunk in chunks) == OPENAI_TEXT
    # The caller did not ask for usage: the gateway did, and keeps the chunk without choices to itself.
    assert site[1].seen[-1].json["stream_options"] == {"include_usage": True}
    assert all(chunk.choices for chunk in chunks)
    text = site[0].metrics()
    assert metric(text, 'llm_token_usage_total{model="gpt-4o",type="cache_read"}') == before + 800


def test_stream_usage_reaches_the_caller_who_asks(client):
    with client.chat.completions.create(
        model="gpt-4o",
        messages=[{"role": "user", "content": "hi"}],
        stream=True,
        stream_options={"include_usage": True},
    ) as stream:
        chunks = list(stream)
    assert chunks[-1].choices == []
    assert chunks[-1].usage.prompt_tokens == OPENAI_USAGE["prompt_tokens"]


def test_completions_embeddings_and_models(client):
    assert client.completions.create(model="gpt-4o", prompt="x").choices[0].text == OPENAI_TEXT
    vectors = client.embeddings.create(model="text-embedding-3-small", input=["a", "bcd"], encoding_format="float")
    assert [row.embedding[0] for row in vectors.data] == [1, 3]
    assert [model.id for model in client.models.list()] == ["fast", "gpt-4o", "text-embedding-3-small"]
    assert client.models.retrieve("fast").id == "fast"


def test_unknown_model_is_404_in_the_callers_dialect(site, client):
    with pytest.raises(openai.NotFoundError) as caught:
        client.chat.completions.create(model="nope", messages=[])
    assert caught.value.code == "model_not_found"
    text = site[0].metrics()
    assert 'model="nope"' not in text


def test_an_unknown_path_is_404_json(site):
    answer = httpx.get(site[0].url + "/v1/nothing")
    assert answer.status_code == 404
    assert answer.json()["error"]["type"] == "not_found_error"


def test_bad_json_is_400(site):
    answer = httpx.post(site[0].url + "/v1/chat/completions", content=b"{nonsense")
    assert answer.status_code == 400
    assert answer.json()["error"]["code"] == "invalid_json"


def test_requests_on_one_connection_pipelined(site):
    """Two requests sent at once are answered in order, on the short cut and on the ASGI road alike."""
    import socket

    host, port = site[0].url.removeprefix("http://").split(":")
    body = json.dumps({"model": "gpt-4o", "messages": [{"role": "user", "content": "hi"}]}).encode()
    post = b"POST /v1/chat/completions HTTP/1.1\r\nhost: x\r\ncontent-length: %d\r\n\r\n%b" % (len(body), body)
    get = b"GET /health/live HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n"
    with socket.create_connection((host, int(port)), timeout=10) as raw:
        raw.sendall(post + post + get)
        got = b""
        while data := raw.recv(65536):
            got += data
    assert got.count(b"HTTP/1.1 200") == 3
    assert got.count(OPENAI_TEXT.encode()) == 2
    assert got.endswith(b"ok\n")


def test_pass_through_by_url_hands_the_callers_key_on(tmp_path):
    with fake(openai_server) as upstream, gateway(tmp_path, None, "--upstream", upstream.url + "/v1") as running:
        with openai.OpenAI(base_url=running.url + "/v1", api_key="sk-mine-0123456789", max_retries=0) as client:
            answer = client.chat.completions.with_raw_response.create(
                model="any-model", messages=[{"role": "user", "content": "hi"}]
            )
        assert upstream.seen[-1].headers["authorization"] == "Bearer sk-mine-0123456789"
        assert answer.headers["x-llmops-cost-usd"] == "unknown"  # a local server without a price: never 0
        running.process.send_signal(signal.SIGTERM)
        assert running.process.wait(10) == 0
        report = json.loads(running.process.stdout.read())
        assert report["ok"]
        assert report["data"]["requests"] == 1


@pytest.mark.parametrize(
    ("args", "code", "says"),
    [
        (["--upstream", "http://127.0.0.1:1/v1", "--host", "0.0.0.0"], 4, "without keys"),
        (["--upstream", "ftp://nowhere"], 2, "--upstream"),
        ([], 2, "either -c FILE or --upstream URL"),
        (["-c", "missing.yaml"], 2, "missing.yaml"),
    ],
)
def test_a_gateway_that_must_not_start_says_why(tmp_path, args, code, says):
    done = subprocess.run(
        [sys.executable, "-m", "llmops", "gateway", "run", *args],
        capture_output=True,
        text=True,
        timeout=30,
        cwd=tmp_path,
        env={**os.environ, "NO_COLOR": "1"},
    )
    assert done.returncode == code, done.stderr
    assert says in done.stderr.splitlines()[0]


def test_a_taken_port_is_named(tmp_path, site):
    port = site[0].url.rpartition(":")[2]
    done = subprocess.run(
        [sys.executable, "-m", "llmops", "gateway", "run", "--upstream", "http://127.0.0.1:1/v1", "--port", port],
        capture_output=True,
        text=True,
        timeout=30,
    )
    assert done.returncode == 3
    assert port in done.stderr
