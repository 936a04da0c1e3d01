"""Long runs, and the published comparison: what memory, connections and tasks are after a hundred thousand requests."""

from __future__ import annotations

import json
import os
import re
import shutil
import socket
import subprocess
import sys
from pathlib import Path

import httpx
import psutil
import pytest
from gateway_fakes import Close, fake, gateway, metric, openai_chunk, wait_until

pytestmark = pytest.mark.slow
BENCHMARKS = Path(__file__).parents[2] / "benchmarks" / "gateway"
NGINX = """
daemon off; pid {dir}/pid; error_log {dir}/error.log; worker_processes 1;
events {{ worker_connections 1024; }}
http {{
  access_log off; client_body_temp_path {dir}/b; proxy_temp_path {dir}/p; fastcgi_temp_path {dir}/f;
  uwsgi_temp_path {dir}/u; scgi_temp_path {dir}/s; keepalive_requests 100000000;
  server {{ listen 127.0.0.1:{port}; location / {{ default_type application/json; return 200 '{answer}'; }} }}
}}
"""
ANSWER = {
    "id": "c", "object": "chat.completion", "created": 1, "model": "m",
    "choices": [{"index": 0, "message": {"role": "assistant", "content": "word " * 40}, "finish_reason": "stop"}],
    "usage": {"prompt_tokens": 9, "completion_tokens": 40, "total_tokens": 49},
}  # fmt: skip
CONFIG = """
keys: [{{name: k, env: SOAK_KEY, admin: true, limits: {{requests_per_minute: 100000000, tokens_per_minute: 100000000000}}}}]
providers: {{up: {{base_url: "{url}/v1", prices_as: openai}}}}
cache: {{enabled: true, max_mib: 1}}
routes: [{{match: "*", targets: [{{provider: up, model: gpt-4o}}]}}]
access_log: access.jsonl
"""
KEY = "sk-soak-0123456789abcdef"
# Another model, prompt and, half of the time, a cachable request each time: nothing that is kept for each of them may stay.
LUA = """
local n = 0
request = function()
  n = n + 1
  local body = string.format('{"model":"junk-%d-%d","temperature":%d,"messages":[{"role":"user","content":"hi %d"}]}', SEED, n, n % 2, n)
  return wrk.format("POST", "/v1/chat/completions", {["authorization"]="Bearer KEY", ["content-type"]="application/json"}, body)
end
"""


def tool(name: str) -> str:
    found = shutil.which(name, path="/usr/sbin:/usr/bin:/usr/local/bin:/bin")
    if found is None:
        pytest.skip(f"needs {name}")
    return found


def pss_mib(pid: int) -> float:
    return psutil.Process(pid).memory_info().rss / 2**20


def test_memory_is_flat_over_many_requests(tmp_path):
    wrk, nginx = tool("wrk"), tool("nginx")
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    conf = tmp_path / "nginx.conf"
    conf.write_text(NGINX.format(dir=tmp_path, port=port, answer=json.dumps(ANSWER)))
    upstream = subprocess.Popen([nginx, "-c", conf, "-p", tmp_path, "-e", tmp_path / "error.log"])
    try:
        config = CONFIG.format(url=f"http://127.0.0.1:{port}")
        with gateway(tmp_path, config, env={"SOAK_KEY": KEY}) as running:
            sizes, done = [], 0
            headers = {"authorization": f"Bearer {KEY}"}
            while done < 100_000 or len(sizes) < 9:  # three thirds are compared
                script = tmp_path / "load.lua"
                script.write_text(LUA.replace("SEED", str(len(sizes))).replace("KEY", KEY))
                argv = [wrk, "-t1", "-c32", "-d1s", "-s", str(script), running.url]
                said = subprocess.run(argv, capture_output=True, text=True, check=True).stdout
                assert "Non-2xx" not in said, said
                done += int(re.search(r"(\d+) requests in", said)[1])
                sizes.append(pss_mib(running.process.pid))
            series = httpx.get(f"{running.url}/metrics", headers=headers).text
            served = re.findall(r'^llm_requests_total\{.*status="200"\} (\d+)', series, re.MULTILINE)
            assert sum(map(int, served)) >= done
            assert len(series.splitlines()) < 20_000  # bounded by the two hundred names that are let in
            third = len(sizes) // 3
            assert sizes[-1] <= 70, sizes
            # What is kept by design (names, the cache's one MiB, latency slots) is full after the first third.
            assert max(sizes[-third:]) - max(sizes[third : 2 * third]) <= 1.0, sizes
    finally:
        upstream.terminate()
        upstream.wait(10)


def endless(server, body, answer):
    answer.stream_head()
    while not answer.gone():
        answer.event(openai_chunk({"content": "more"}))
        server.state["go"].wait(0.02)
    server.state["aborted"] = server.state.get("aborted", 0) + 1
    raise Close


def test_a_thousand_abandoned_streams_leave_nothing(tmp_path):
    """Connections, tasks and memory are what they were, after rounds that must not differ from each other."""
    import threading

    with fake(endless) as up:
        up.state["go"] = threading.Event()
        with gateway(tmp_path, None, "--upstream", up.url + "/v1") as running:
            process = psutil.Process(running.process.pid)
            files, sizes = process.num_fds(), []
            for number in range(11):
                clients = [begin(running.url) for _ in range(100)]
                for client in clients:
                    assert b"more" in client.recv(65536)
                if number % 2:
                    for client in clients:
                        client.close()
                else:
                    for client in clients:  # half closed first, as some callers leave
                        client.shutdown(socket.SHUT_WR)
                        client.close()
                wait_until(lambda n=number: up.state.get("aborted", 0) == 100 * (n + 1), 30, "all are aborted upstream")
                wait_until(lambda: metric(running.metrics(), "llm_requests_in_flight") == 0, 20, "no request is left")
                sizes.append(pss_mib(running.process.pid))
            assert metric(running.metrics(), 'llm_target_in_flight{target="upstream"}') == 0
            wait_until(lambda: process.num_fds() <= files + 3, 20, "every descriptor is closed")
            wait_until(lambda: metric(running.metrics(), 'llm_pool_connections{provider="upstream"}') <= 1)
            assert sizes[-1] - sizes[1] <= 2.0, sizes
            assert "Traceback" not in running.log.read_text()


def begin(url: str) -> socket.socket:
    host, port = url.removeprefix("http://").split(":")
    body = json.dumps({"model": "m", "stream": True, "messages": [{"role": "user", "content": "hi"}]}).encode()
    made = socket.create_connection((host, int(port)), timeout=20)
    made.sendall(b"POST /v1/chat/completions HTTP/1.1\r\nhost: x\r\ncontent-length: %d\r\n\r\n%b" % (len(body), body))
    return made


def test_the_published_comparison_runs():
    tool("wrk")
    tool("nginx")
    argv = [sys.executable, BENCHMARKS / "compare.py", "--rounds", "1", "--seconds", "1", "--only", "nginx,llmops"]
    env = {**os.environ, "LLMOPS_INTERPRETED": "1"}  # as it is in the path, without a build first
    done = subprocess.run(argv, capture_output=True, text=True, timeout=300, check=False, env=env)
    assert done.returncode == 0, done.stderr
    assert re.search(r"llmops .* x nginx", done.stdout), done.stdout


def test_the_published_latencies_are_measured():
    tool("gcc")
    tool("nginx")
    argv = [sys.executable, BENCHMARKS / "pace.py", "--rounds", "1", "--seconds", "1", "--streams", "10"]
    env = {**os.environ, "LLMOPS_INTERPRETED": "1"}
    done = subprocess.run(argv, capture_output=True, text=True, timeout=300, check=False, env=env)
    assert done.returncode == 0, done.stderr
    table = {name: [float(row.split()[2]) for row in re.findall(rf"  {name} .*", done.stdout) if "p50" in row]
             for name in ("direct", "nginx", "llmops", "busy")}  # fmt: skip
    assert {len(values) for values in table.values()} == {3}, done.stdout
    assert all(value > 0 for values in table.values() for value in values), done.stdout
