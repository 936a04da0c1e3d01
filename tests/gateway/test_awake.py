"""``busy_poll_ms``: a worker stays awake for a while after traffic, and then sleeps."""

from __future__ import annotations

import json

import httpx
import psutil
import pytest
from gateway_fakes import fake, gateway, wait_until
from gateway_fakes import openai as openai_server
from hypothesis import given
from hypothesis import strategies as st

from llmops.gateway.awake import Vigil

CONFIG = """
listen: {{busy_poll_ms: {ms}}}
providers: {{up: {{base_url: "{url}/v1"}}}}
routes: [{{match: m, targets: [{{provider: up}}]}}]
"""


def test_awake_for_so_long_after_each_change():
    vigil = Vigil(0.5, (0, 0))
    assert not vigil.stays((0, 0), 10.0)
    assert vigil.stays((0, 1), 10.0)  # a request came
    assert vigil.stays((0, 1), 10.4)
    assert not vigil.stays((0, 1), 10.6)  # a long generation is no reason to stay awake
    assert vigil.stays((1, 0), 11.0)  # it was answered
    assert not vigil.stays((1, 0), 11.5)


@given(st.lists(st.tuples(st.integers(0, 3), st.floats(0, 2))))
def test_awake_is_never_longer_than_that_and_never_shorter(turns):
    vigil, now, changed, before = Vigil(1.0, (0,)), 0.0, None, 0
    for traffic, passed in turns:
        now += passed
        if traffic != before:
            before, changed = traffic, now
        assert vigil.stays((traffic,), now) == (changed is not None and now < changed + 1.0)


def test_a_worker_stays_awake_after_traffic_and_then_sleeps(tmp_path):
    with fake(openai_server) as up, gateway(tmp_path, CONFIG.format(ms=1000, url=up.url)) as running:
        process = psutil.Process(running.process.pid)

        def used() -> float:
            times = process.cpu_times()
            return times.user + times.system

        body = {"model": "m", "messages": [{"role": "user", "content": "hi"}]}
        assert httpx.post(f"{running.url}/v1/chat/completions", json=body).status_code == 200
        before = used()
        wait_until(lambda: used() > before + 0.05)  # without anybody asking for anything
        with httpx.stream("POST", f"{running.url}/v1/chat/completions", json={**body, "stream": True}) as answer:
            assert "[DONE]" in answer.read().decode()
        seen = [-1.0] * 5

        def rests() -> bool:
            seen.append(used())
            return seen[-1] == seen[-5] and process.status() == psutil.STATUS_SLEEPING

        wait_until(rests)
        running.process.terminate()
        assert json.loads(running.process.communicate(timeout=20)[0])["data"]["requests"] == 2
        assert running.process.returncode == 0


@pytest.mark.parametrize("ms", [-1, 1001, "always"])
def test_a_time_that_makes_no_sense_is_refused(tmp_path, ms, llmops):
    path = tmp_path / "gateway.yaml"
    path.write_text(CONFIG.format(ms=ms, url="http://127.0.0.1:9"))
    done = llmops("gateway", "check", "-c", str(path))
    assert done.code == 2
    assert "gateway.yaml:2" in done.stderr
    assert "busy_poll_ms" in done.stderr
