"""The gateway's `triton` dialect in front of a real Triton: OpenAI's own client for text, chat, streams and embeddings."""

import json
import os
import subprocess
import sys
import time
from contextlib import contextmanager

import httpx
import openai
import pytest
from triton_process import running

pytestmark = pytest.mark.slow


@contextmanager
def gateway(directory, text, server):
    """A gateway with one provider a real Triton; ready when it answers."""
    config, log, ready = directory / "gateway.yaml", directory / "gateway.log", time.monotonic() + 60
    config.write_text(f"""
providers:
  triton: {{dialect: triton, base_url: "{server.ready["url"]}"{text}}}
routes:
  - {{match: "*", targets: [{{provider: triton}}]}}
""")
    with httpx.Client() as client, log.open("w") as stream:
        argv = [sys.executable, "-m", "llmops", "gateway", "run", "-c", str(config), "--port", "0", "--json"]
        process = subprocess.Popen(
            argv, stdout=subprocess.PIPE, stderr=stream, text=True, env={**os.environ, "NO_COLOR": "1"}
        )
        try:
            url = None
            while url is None or client.get(f"{url}/health/live").status_code != 200:
                assert process.poll() is None, log.read_text()
                assert time.monotonic() < ready, log.read_text()
                found = [word for word in log.read_text().split() if word.startswith("http://127.0.0.1:")]
                url = found[0].rstrip(",.;") if found else None
                time.sleep(0.05)
            yield url
        finally:
            process.terminate()
            process.communicate(timeout=30)


@pytest.fixture(scope="module")
def front(triton_python, exported, tmp_path_factory):
    """OpenAI's client before the gateway before Triton, and Triton itself."""
    work = tmp_path_factory.mktemp("front")
    with (
        running(work, exported / "causal-lm-cache", "--name", "tiny", "--repository", work / "repo") as server,
        gateway(work, ", triton_messages: messages", server) as url,
        openai.OpenAI(base_url=f"{url}/v1", api_key="none", max_retries=0, timeout=60) as client,
    ):
        yield client, server


def test_text_completions(front):
    client, server = front
    alone = server.post("/v2/models/tiny/generate", text_input="Hello world", max_tokens=6).json()
    answer = client.completions.create(model="tiny", prompt="Hello world", max_tokens=6, temperature=0)
    assert answer.choices[0].text == alone["text_output"]
    assert answer.choices[0].finish_reason == "length"
    assert (answer.usage.prompt_tokens, answer.usage.completion_tokens) == (alone["num_input_tokens"], 6)
    stop = alone["text_output"][3:6]
    cut = client.completions.create(model="tiny", prompt="Hello world", max_tokens=6, temperature=0, stop=[stop])
    assert cut.choices[0].text == alone["text_output"][: alone["text_output"].index(stop)]
    assert cut.choices[0].finish_reason == "stop"


def test_streams_are_the_same_text(front):
    client, _ = front
    whole = client.completions.create(model="tiny", prompt="Hello", max_tokens=8, temperature=0)
    pieces = list(client.completions.create(model="tiny", prompt="Hello", max_tokens=8, temperature=0, stream=True,
                                            stream_options={"include_usage": True}))  # fmt: skip
    texts = [piece.choices[0].text for piece in pieces if piece.choices]
    assert "".join(texts) == whole.choices[0].text
    assert sum(bool(text) for text in texts) >= 3  # a token at a time
    assert [piece.choices[0].finish_reason for piece in pieces if piece.choices][-1] == "length"
    assert pieces[-1].usage.completion_tokens == 8


def test_chat_uses_the_models_own_template(front):
    client, server = front
    turns = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "Hello"}]
    whole = client.chat.completions.create(model="tiny", messages=turns, max_tokens=6, temperature=0)
    alone = server.post("/v2/models/tiny/generate", messages=json.dumps(turns), max_tokens=6).json()
    assert whole.choices[0].message.content == alone["text_output"]
    assert whole.usage.prompt_tokens == alone["num_input_tokens"]
    plain = server.post("/v2/models/tiny/generate", text_input="Hello", max_tokens=6).json()
    assert alone["num_input_tokens"] > plain["num_input_tokens"] + 4  # roles and marks of the template
    with client.chat.completions.create(
        model="tiny", messages=turns, max_tokens=6, temperature=0, stream=True
    ) as stream:
        pieces = [chunk.choices[0].delta.content or "" for chunk in stream if chunk.choices]
    assert "".join(pieces) == whole.choices[0].message.content


def test_mistakes_reach_the_client_as_400(front):
    client, _ = front
    with pytest.raises(openai.BadRequestError, match="temperature must lie"):
        client.completions.create(model="tiny", prompt="Hello", temperature=-1)
    with pytest.raises((openai.NotFoundError, openai.BadRequestError)):
        client.completions.create(model="no-such-model", prompt="Hello")


def test_embeddings(triton_python, minilm_onnx, tmp_path):
    texts = ["a cat sits on the mat", "interest rates rose"]
    with (
        running(tmp_path, minilm_onnx, "--name", "minilm", "--repository", tmp_path / "repo") as server,
        gateway(tmp_path, ", triton_output: embedding", server) as url,
        openai.OpenAI(base_url=f"{url}/v1", api_key="none", max_retries=0, timeout=60) as client,
    ):
        body = {"inputs": [{"name": "text_input", "shape": [2, 1], "datatype": "BYTES", "data": texts}]}
        want = server.post("/v2/models/minilm/infer", **body).json()["outputs"][0]["data"]
        for asked in ({"encoding_format": "float"}, {}):  # by itself the client asks for base64, and decodes it
            answer = client.embeddings.create(model="minilm", input=texts, **asked)
            got = [value for row in answer.data for value in row.embedding]
            assert len(got) == 768
            assert max(abs(one - other) for one, other in zip(got, want, strict=True)) < 1e-6
