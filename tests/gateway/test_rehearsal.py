"""A config before stand-ins: the shipped hybrid site, a site that is wrong, and one that goes on serving."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys

import httpx
from gateway_fakes import free_port, wait_until

from llmops.recipes import shipped

SITE = shipped("configs") / "gateway.yaml"
WITHOUT_KEYS = {
    name: value for name, value in os.environ.items() if not name.endswith("_API_KEY") and name != "LLMOPS_GATEWAY_KEY"
}


def test_a_route_without_a_way_out_is_named(llmops, tmp_path):
    (tmp_path / "g.yaml").write_text(
        """
providers:
  near: {base_url: "http://127.0.0.1:1/v1"}
  far: {base_url: "http://127.0.0.1:2/v1"}
routes:
  - match: m
    targets: [{provider: near, model: a}, {provider: far, model: b, when: {min_input_tokens: 100000}}]
  - {match: tools-only, targets: [{provider: far, when: {tools: true}}]}
"""
    )
    done = llmops("gateway", "rehearse", "-c", "g.yaml", cwd=tmp_path)
    assert done.code == 1
    assert "while near/a is down nobody" in done.stdout
    assert "'tools-only' does not answer" in done.stdout


def test_the_hybrid_site_answers_on_every_route_without_keys_and_goes_on_until_told_to_stop(tmp_path):
    port = free_port()
    argv = [sys.executable, "-m", "llmops", "gateway", "rehearse", "-c", str(SITE), "--port", str(port), "--json"]
    log = tmp_path / "stderr"
    with (
        log.open("w") as stderr,
        subprocess.Popen(
            argv, stdout=subprocess.PIPE, stderr=stderr, text=True, env=WITHOUT_KEYS, cwd=tmp_path
        ) as process,
    ):
        wait_until(lambda: "goes on at" in log.read_text(), 30, "it goes on")
        body = {"model": "gpt-4o", "messages": [{"role": "user", "content": "hi"}]}
        answer = httpx.post(f"http://127.0.0.1:{port}/v1/chat/completions", json=body, timeout=5)
        assert "stand-in for openai" in answer.text
        process.send_signal(signal.SIGTERM)
        out, _ = process.communicate(timeout=30)
    assert process.returncode == 0, log.read_text()
    data = json.loads(out)["data"]
    routes = {route["route"]: route for route in data["routes"]}
    assert {"llama-3.1-8b", "llama-3.1-70b", "mistral-7b", "bert-base-japanese", "claude*", "gpt*", "gemini*"} <= set(
        routes
    )
    for route in routes.values():
        good = {each["ask"] for each in route["asked"] if each["status"] == 200}
        assert {"chat", "stream", "messages"} <= good
    assert routes["llama-3.1-70b"]["stands_in"] == "anthropic/claude-sonnet-4-5"
    # The cheapest of its tier, and the next cheapest while that is down.
    assert routes["assistant"]["asked"][0]["target"] == "vllm-70b/llama-3.1-70b"
    assert routes["assistant"]["stands_in"] == "google/gemini-2.5-flash"
    assert data["unpriced"] == 0
    assert not any(tmp_path.rglob("ledger.sqlite"))  # its books are gone with it
