"""``gateway check``, ``gateway top`` and ``cost price``, and routes found by asking a server."""

from __future__ import annotations

import json
import os
import subprocess
import sys

import httpx
import pytest
from gateway_fakes import fake, free_port, gateway, wait_until
from gateway_fakes import openai as openai_server

CONFIG = """
providers:
  up: {{base_url: "{url}/v1", key_env: UPK}}
routes:
  - {{match: m, targets: [{{provider: up, model: unheard-of}}]}}
"""


def llmops(*args, cwd=None, **env):
    return subprocess.run(
        [sys.executable, "-m", "llmops", *args],
        capture_output=True,
        text=True,
        timeout=60,
        cwd=cwd,
        env={**os.environ, **env},
    )


def only_good_key(server, body, answer):
    if server.seen[-1].headers.get("authorization") != "Bearer good-key-0123456789":
        answer.whole(401, {"error": {"message": "no"}})
    else:
        openai_server(server, body, answer)


def test_check_finds_a_refused_key_and_a_missing_price(tmp_path):
    path = tmp_path / "gateway.yaml"
    with fake(only_good_key) as up:
        path.write_text(CONFIG.format(url=up.url))
        good = llmops("gateway", "check", "-c", str(path), "--live", "--json", UPK="good-key-0123456789")
        assert good.returncode == 0, good.stderr
        document = json.loads(good.stdout)
        assert document["data"]["providers"][0]["state"] == "ok"
        assert {finding["rule"] for finding in document["findings"]} == {"price-unknown"}
        bad = llmops("gateway", "check", "-c", str(path), "--live", UPK="bad-key-0123456789")
        assert bad.returncode == 1
        assert "refuses the key" in bad.stdout
        assert "bad-key" not in bad.stdout + bad.stderr
    gone = llmops("gateway", "check", "-c", str(path), "--live", UPK="good-key-0123456789")
    assert gone.returncode == 1


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ("providers: {up: {base_url: 'http://x', dialekt: openai}}", "unknown key 'dialekt'"),
        ("providers: {up: {base_url: 'ftp://x'}}", "is no http"),
        ("providers: {up: {base_url: 'http://x'}}\nroutes: [{match: a, targets: [{provider: nope}]}]", "nope"),
        ("providers: {up: {base_url: 'http://x'}}\nlisten: {host: 0.0.0.0}", "without keys"),
        ("providers: {up: {base_url: 'http://me:secret@x'}}", "user name"),
    ],
)
def test_a_wrong_config_is_named_with_its_line(tmp_path, change, says):
    (tmp_path / "g.yaml").write_text(change)
    done = llmops("gateway", "check", "-c", "g.yaml", cwd=tmp_path)
    assert done.returncode in (2, 4)
    assert says in done.stderr
    assert "g.yaml:" in done.stderr


def test_the_shipped_config_is_right(tmp_path):
    from llmops.recipes import shipped

    done = llmops("gateway", "check", "-c", str(shipped("configs") / "gateway.yaml"), cwd=tmp_path)
    assert done.returncode == 0, done.stderr


def test_cost_price(tmp_path):
    tokens = ("--input-tokens", "12307", "--cache-write-tokens", "12304", "--output-tokens", "550")
    done = llmops("cost", "price", "claude-sonnet-4-5", *tokens, "--json")
    assert done.returncode == 0, done.stderr
    data = json.loads(done.stdout)["data"]
    assert data["amount_usd"] == "0.054399"
    assert [part["name"] for part in data["parts"]] == ["cache write", "input", "output"]
    assert data["source"].startswith("genai-prices")
    unknown = llmops("cost", "price", "nobody-has-this", "--input-tokens", "5")
    assert unknown.returncode == 6
    assert "unknown" in unknown.stdout
    assert llmops("cost", "price", "gpt-4o").returncode == 2


def test_top_and_metrics_port(tmp_path):
    port = free_port()
    with fake(openai_server) as up:
        text = CONFIG.format(url=up.url) + f"listen: {{metrics_port: {port}}}\n"
        with gateway(tmp_path, text, env={"UPK": "good-key-0123456789"}) as running:
            body = {"model": "m", "messages": [{"role": "user", "content": "hi"}]}
            for _ in range(3):
                assert httpx.post(f"{running.url}/v1/chat/completions", json=body).status_code == 200
            done = llmops("gateway", "top", f"http://127.0.0.1:{port}", "--once", "--json")
            assert done.returncode == 0, done.stderr
            (row,) = json.loads(done.stdout)["data"]["rows"]
            assert (row["model"], row["requests"], row["requests_per_s"]) == ("m", 3, None)
            assert row["p50_s"] is not None
    assert llmops("gateway", "top", f"http://127.0.0.1:{port}", "--once").returncode == 5


def test_metrics_are_valid_prometheus_text(tmp_path):
    promtool = subprocess.run(["which", "promtool"], capture_output=True, text=True).stdout.strip()
    if not promtool:
        pytest.skip("promtool is not installed")
    with fake(openai_server) as up, gateway(tmp_path, None, "--upstream", up.url + "/v1") as running:
        body = {"model": 'm"\\x', "messages": [{"role": "user", "content": "hi"}]}
        for stream in (False, True):
            assert httpx.post(f"{running.url}/v1/chat/completions", json={**body, "stream": stream}).status_code == 200
        done = subprocess.run([promtool, "check", "metrics"], input=running.metrics(), capture_output=True, text=True)
        # The name of the cost counter is given by the dashboards that read it.
        said = [line for line in done.stderr.splitlines() if "llm_cost_total_dollars" not in line]
        assert said == [], done.stderr
        assert done.returncode in (0, 3)


def test_models_of_a_running_server_are_found(tmp_path):
    config = "providers: {{up: {{base_url: '{url}/v1', discover: true}}}}\n"
    with fake(openai_server) as up, gateway(tmp_path, config.format(url=up.url)) as running:
        wait_until(lambda: httpx.get(f"{running.url}/v1/models").json()["data"] != [], what="the model is found")
        body = {"model": "fake-model", "messages": [{"role": "user", "content": "hi"}]}
        assert httpx.post(f"{running.url}/v1/chat/completions", json=body).status_code == 200


def test_a_plain_gateway_loads_nothing_heavy():
    """What one worker carries: tokens, vault, proxies and stores are imported by the configs that name them."""
    heavy = "joserfc cryptography httpx httpx2 redis numpy onnxruntime rich opentelemetry"
    code = f"import sys, llmops.gateway.server; print(*set({heavy.split()!r}) & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == []
