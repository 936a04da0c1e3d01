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


def test_awake_for_the_longest_time_after_a_request_that_came_out_of_the_blue():
    vigil = Vigil(0.5)
    assert not vigil.stays(0, 10.0)
    assert vigil.stays(1, 10.0)
    assert vigil.stays(1, 10.4)
    assert not vigil.stays(1, 10.6)  # a long generation is no reason to stay awake
    assert not vigil.stays(0, 10.7)  # nor is a caller who gives up


def test_awake_from_one_request_to_the_next_where_they_come_often():
    vigil = Vigil(0.1)
    for number in range(1, 100):
        now = number * 0.05
        assert vigil.stays(number, now)
        assert vigil.stays(number, now + 0.049)


def test_a_burst_is_waited_for_no_longer_than_a_burst_takes():
    vigil = Vigil(0.1)
    for number in range(1, 33):
        vigil.stays(number, number * 0.001)
    assert vigil.stays(32, 0.034)
    assert not vigil.stays(32, 0.04)


@given(st.lists(st.tuples(st.integers(-2, 40), st.floats(0, 2))))
def test_awake_is_never_longer_than_the_most_and_never_without_requests(turns):
    vigil, now, came_at, begun = Vigil(1.0), 0.0, None, 0
    for came, passed in turns:
        now += passed
        begun += came
        if came > 0:
            came_at = now
        if vigil.stays(begun, now):
            assert came_at is not None
            assert now < came_at + 1.0


@given(st.floats(0.001, 0.2), st.integers(2, 60))
def test_awake_all_the_time_where_requests_come_evenly(gap, count):
    vigil, steps = Vigil(1.0), 20
    for number in range(count):
        for step in range(steps):
            assert vigil.stays(number + 1, (number + step / steps) * gap)


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
