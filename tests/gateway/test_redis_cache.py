"""The answer cache in a real Redis, also one that dies: a shared cache, never a failed request."""

from __future__ import annotations

import contextlib
import shutil
import socket
import subprocess
import time

import httpx
import pytest
from gateway_fakes import OPENAI_TEXT, fake, free_port, gateway, wait_until
from gateway_fakes import openai as openai_server

redis = pytest.importorskip("redis", reason="pip install 'llmops[redis]'")
pytestmark = pytest.mark.skipif(shutil.which("redis-server") is None, reason="needs redis-server on the path")

CONFIG = """
keys:
  - {{name: a, env: KEY_A, tenant: first}}
  - {{name: b, env: KEY_B, tenant: second}}
providers: {{up: {{base_url: "{url}/v1", key_env: UPK}}}}
cache: {{enabled: true, redis: "redis://127.0.0.1:{port}/0"}}
routes:
  - {{match: m, targets: [{{provider: up}}]}}
  - {{match: brief, targets: [{{provider: up}}], cache: {{always: true, ttl_s: 0.3}}}}
"""
ENV = {"KEY_A": "sk-aaaa-0123456789", "KEY_B": "sk-bbbb-0123456789", "UPK": "sk-up-0123456789"}


def start(port: int, directory) -> subprocess.Popen:
    argv = ["redis-server", "--port", str(port), "--dir", str(directory), "--save", "", "--loglevel", "warning"]
    process = subprocess.Popen(argv, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)

    def answers() -> bool:
        with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), 0.5) as link:
            link.sendall(b"PING\r\n")
            return link.recv(10).startswith(b"+PONG")
        return False

    wait_until(answers, what="redis answers")
    return process


def ask(running, content, key="KEY_A", model="m", **more):
    body = {"model": model, "messages": [{"role": "user", "content": content}], "temperature": 0, **more}
    headers = {"authorization": f"Bearer {ENV[key]}"}
    return httpx.post(f"{running.url}/v1/chat/completions", json=body, headers=headers, timeout=20)


def test_gateways_share_answers_and_live_without_redis(tmp_path):
    port = free_port()
    server = start(port, tmp_path)
    try:
        with fake(openai_server) as up:
            config = CONFIG.format(url=up.url, port=port)
            (tmp_path / "two").mkdir()
            with gateway(tmp_path, config, env=ENV) as one, gateway(tmp_path / "two", config, env=ENV) as two:
                shared_by_two(one, two, up)
                kept_as_it_should_be(one, port)
                server.kill()
                server.wait()
                without(one, two)
    finally:
        server.kill()
        server.wait()


@pytest.mark.slow
def test_redis_that_comes_back_is_used_again(tmp_path):
    port = free_port()
    with fake(openai_server) as up, gateway(tmp_path, CONFIG.format(url=up.url, port=port), env=ENV) as running:
        assert ask(running, "before").headers["x-llmops-cache"] == "miss"
        server = start(port, tmp_path)
        try:
            wait_until(lambda: ask(running, "back").headers["x-llmops-cache"] == "hit", 15, "Redis is used again")
        finally:
            server.kill()
            server.wait()


def shared_by_two(one, two, up):
    first = ask(one, "shared")
    before = len(up.seen)
    second = ask(two, "shared")
    assert (first.headers["x-llmops-cache"], second.headers["x-llmops-cache"]) == ("miss", "hit")
    assert second.json() == first.json()
    assert len(up.seen) == before
    assert ask(two, "shared", "KEY_B").headers["x-llmops-cache"] == "miss"  # another tenant
    streamed = ask(one, "streamed", stream=True)
    again = ask(two, "streamed", stream=True)
    assert again.headers["x-llmops-cache"] == "hit"
    assert again.text == streamed.text


def kept_as_it_should_be(one, port):
    client = redis.Redis(port=port)
    keys = client.keys("*")
    assert keys
    assert all(key.startswith(b"llmops:answer:") and b"shared" not in key for key in keys)
    assert all(0 < client.pttl(key) <= 3_600_000 for key in keys)
    assert ask(one, "gone soon", model="brief").headers["x-llmops-cache"] == "miss"
    assert ask(one, "gone soon", model="brief").headers["x-llmops-cache"] == "hit"
    wait_until(lambda: ask(one, "gone soon", model="brief").headers["x-llmops-cache"] == "miss", what="it expires")
    for key in client.keys("*"):
        client.set(key, b"\xc1 not an answer", px=60_000)
    broken = ask(one, "shared")
    assert (broken.status_code, broken.headers["x-llmops-cache"]) == (200, "miss")
    client.close()


def without(one, two):
    for running in (one, two):
        began = time.monotonic()
        for _ in range(3):
            answer = ask(running, "shared")
            assert answer.json()["choices"][0]["message"]["content"] == OPENAI_TEXT
            assert answer.headers["x-llmops-cache"] == "miss"
        assert time.monotonic() - began < 5  # nobody waits for it each time
        assert "goes on without it" in running.log.read_text() or "going on without it" in running.log.read_text()
