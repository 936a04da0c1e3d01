"""Several workers: one port, one set of counters and limits; draining, reloading, dying."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import httpx
import psutil
import pytest
from gateway_fakes import fake, free_port, gateway, metric, wait_until
from gateway_fakes import openai as openai_server

CONFIG = """
listen: {{workers: {workers}, metrics_port: {metrics}}}
keys: [{{name: k, env: GW_KEY, limits: {{requests_per_minute: 40, concurrent: 30}}}}]
providers: {{up: {{base_url: "{url}/v1"}}}}
routes: [{{match: m, targets: [{{provider: up}}]}}]
"""
ENV = {"GW_KEY": "sk-gateway-0123456789"}


def ask(url, model="m", **more):
    body = {"model": model, "messages": [{"role": "user", "content": "hi"}], **more}
    headers = {"authorization": f"Bearer {ENV['GW_KEY']}"}
    return httpx.post(f"{url}/v1/chat/completions", json=body, headers=headers, timeout=20)


def workers_of(running) -> list[psutil.Process]:
    found = []
    for each in psutil.Process(running.process.pid).children(recursive=True):
        with contextlib.suppress(psutil.Error):  # it may just have ended
            line = each.cmdline()
            if "llmops.gateway.worker" in line and "-I" not in line:
                found.append(each)
    return found


def test_workers_share_limits_and_counters_and_survive_a_kill(tmp_path):
    metrics_port = free_port()
    with fake(openai_server) as up:
        config = CONFIG.format(workers=3, metrics=metrics_port, url=up.url)
        with gateway(tmp_path, config, env=ENV) as running:

            def text() -> str:
                try:
                    return httpx.get(f"http://127.0.0.1:{metrics_port}/metrics", timeout=10).text
                except httpx.TransportError:  # the worker that answers there was the one that was killed
                    return ""

            # Each request on a connection of its own, so that the kernel spreads them over the workers.
            began = time.monotonic()
            with ThreadPoolExecutor(8) as pool:
                statuses = list(pool.map(lambda _: ask(running.url).status_code, range(60)))
            refilled = (time.monotonic() - began) * 40 / 60
            assert 40 <= statuses.count(200) <= 40 + refilled + 1  # 40 a minute over all workers, not each
            assert set(statuses) == {200, 429}
            wait_until(lambda: metric(text(), 'llm_requests_total{model="m",status="200"}') == statuses.count(200))
            wait_until(lambda: metric(text(), 'llm_requests_total{model="m",status="429"}') == statuses.count(429))
            wait_until(lambda: metric(text(), "llm_workers") == 3)
            assert httpx.get(f"{running.url}/metrics").status_code == 404
            before = workers_of(running)
            assert len(before) == 3
            os.kill(before[-1].pid, signal.SIGKILL)
            wait_until(lambda: len(set(workers_of(running)) - set(before)) == 1, 20, "a new worker")
            wait_until(
                lambda: metric(text(), "llm_workers") == 4, 20, "the new worker reports"
            )  # the dead one's counts stay
            assert metric(text(), 'llm_requests_total{model="m",status="200"}') == statuses.count(200)
            assert ask(running.url, "nope").status_code == 404
            running.process.send_signal(signal.SIGTERM)
            assert running.process.wait(20) == 0
            assert json.loads(running.process.stdout.read())["data"]["requests"] >= 60
        wait_until(lambda: not any(each.is_running() for each in before), what="all workers end")


LET_GO = repr(httpx.RemoteProtocolError("Server disconnected without sending a response."))


@pytest.mark.parametrize("workers", [1, 2])
def test_sigterm_under_load_loses_no_accepted_request(tmp_path, workers):
    """Clients ask without a break while the gateway is told to end: every request that it took is answered.

    A kept connection may close in the moment in which its caller asks again, as HTTP allows; then nothing was taken, and
    so nothing may have reached the upstream.
    """
    args = ("--workers", str(workers))
    with fake(openai_server) as up, gateway(tmp_path, None, "--upstream", up.url + "/v1", *args) as running:
        outcomes: list[str] = []
        stop = threading.Event()

        def client() -> None:
            with httpx.Client(timeout=20) as http:
                while not stop.is_set():
                    try:
                        answer = http.post(
                            f"{running.url}/v1/chat/completions",
                            json={"model": "m", "messages": [{"role": "user", "content": "hi"}]},
                        )
                        outcomes.append(str(answer.status_code))
                    except httpx.ConnectError:
                        return  # it does not listen any more: nothing was accepted
                    except httpx.TransportError as error:
                        outcomes.append(repr(error))
                        return

        threads = [threading.Thread(target=client) for _ in range(8)]
        for thread in threads:
            thread.start()
        wait_until(lambda: len(outcomes) > 100)
        running.process.send_signal(signal.SIGTERM)
        code = running.process.wait(20)
        stop.set()
        for thread in threads:
            thread.join()
        assert code == 0
        assert len(up.seen) == outcomes.count("200")
        assert {each for each in outcomes if each != "200"} <= {LET_GO}


def test_a_stream_under_way_is_finished_after_sigterm(tmp_path):
    go = threading.Event()

    def slow(server, body, answer):
        from gateway_fakes import openai_chunk

        answer.stream_head()
        answer.event(openai_chunk({"content": "first"}))
        go.wait(20)
        answer.event(openai_chunk({"content": "last"}))
        answer.event(openai_chunk({}, "stop"))
        answer.event(b"[DONE]")
        answer.stream_end()

    with fake(slow) as up, gateway(tmp_path, None, "--upstream", up.url + "/v1") as running:
        body = {"model": "m", "messages": [{"role": "user", "content": "hi"}], "stream": True}
        with httpx.stream("POST", f"{running.url}/v1/chat/completions", json=body, timeout=20) as answer:
            lines = answer.iter_lines()
            assert "first" in next(lines)
            running.process.send_signal(signal.SIGTERM)
            wait_until(lambda: not _listens(running.url), what="it stops listening")
            go.set()
            rest = "\n".join(lines)
        assert "last" in rest
        assert "[DONE]" in rest
        assert running.process.wait(20) == 0


def _listens(url: str) -> bool:
    try:
        httpx.get(f"{url}/health/ready", timeout=2)
    except httpx.TransportError:
        return False
    return True


def test_sighup_reloads_without_dropping_a_stream(tmp_path):
    go = threading.Event()

    def slow(server, body, answer):
        from gateway_fakes import openai_chunk

        if not body.get("stream"):
            openai_server(server, body, answer)
            return
        answer.stream_head()
        answer.event(openai_chunk({"content": "first"}))
        go.wait(20)
        answer.event(openai_chunk({}, "stop"))
        answer.event(b"[DONE]")
        answer.stream_end()

    config = "providers: {{up: {{base_url: '{url}/v1'}}}}\nroutes: [{{match: {name}, targets: [{{provider: up}}]}}]\n"
    with fake(slow) as up, gateway(tmp_path, config.format(url=up.url, name="old")) as running:
        body = {"model": "old", "messages": [{"role": "user", "content": "hi"}], "stream": True}
        with httpx.stream("POST", f"{running.url}/v1/chat/completions", json=body, timeout=20) as answer:
            lines = answer.iter_lines()
            assert "first" in next(lines)
            (tmp_path / "gateway.yaml").write_text(config.format(url=up.url, name="new"))
            running.process.send_signal(signal.SIGHUP)
            wait_until(lambda: ask(running.url, "new").status_code == 200, what="the new config holds")
            assert ask(running.url, "old").status_code == 404
            (tmp_path / "gateway.yaml").write_text("providers: {}\n")
            running.process.send_signal(signal.SIGHUP)
            wait_until(lambda: "was not reloaded" in running.log.read_text(), what="a wrong config is refused")
            assert ask(running.url, "new").status_code == 200
            go.set()
            assert "[DONE]" in "\n".join(lines)
