"""The semantic cache through the port with a real encoder, as ``llmops export onnx`` makes it."""

from __future__ import annotations

import json
from pathlib import Path

import httpx
import pytest
from gateway_fakes import OPENAI_USAGE, fake, gateway, wait_until

from llmops.gateway import cache_semantic

pytestmark = pytest.mark.slow
PAIRS = [
    json.loads(line)
    for line in (Path(cache_semantic.__file__).with_name("data") / "pairs.jsonl").read_text("utf-8").splitlines()
]
CONFIG = """
keys: [{{name: a, env: KA}}]
cache: {{enabled: false}}
providers:
  own: {{base_url: "{url}/v1", local: true}}
routes:
  - match: faq
    semantic_cache: {{mode: serve, model: {model}, check_share: 0}}
    targets: [{{provider: own, model: tiny}}]
"""


def echo(server, body, answer):
    """Says what it was asked."""
    message = {"role": "assistant", "content": body["messages"][-1]["content"]}
    choices = [{"index": 0, "finish_reason": "stop", "message": message}]
    answer.whole(200, {"id": "c", "object": "x", "created": 1, "model": "m", "choices": choices, "usage": OPENAI_USAGE})


def test_near_questions_are_answered_again_and_none_wrongly(minilm_onnx, tmp_path):
    with (
        fake(echo) as up,
        gateway(tmp_path, CONFIG.format(url=up.url, model=minilm_onnx), env={"KA": "sk-a-0123456789"}) as running,
        httpx.Client(base_url=running.url, headers={"authorization": "Bearer sk-a-0123456789"}, timeout=20) as client,
    ):

        def ask(text):
            turns = [{"role": "user", "content": text}]
            answer = client.post("/v1/chat/completions", json={"model": "faq", "temperature": 0, "messages": turns})
            assert answer.status_code == 200, answer.text
            hit = answer.headers.get("x-llmops-cache") == "semantic"
            return hit, answer.json()["choices"][0]["message"]["content"]

        again = 0
        for pair in PAIRS:
            wait_until(lambda text=pair["a"]: ask(text)[0], what="its own answer is kept")
            hit, said = ask(pair["b"])
            assert said == pair["b"] or (pair["same"] and hit and said == pair["a"])
            again += said == pair["a"]
        assert again >= sum(pair["same"] for pair in PAIRS) // 4
