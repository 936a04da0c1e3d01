"""The rules in a real Prometheus that scrapes a real gateway: quiet while all is well, awake when it is not."""

from __future__ import annotations

import json
import shutil
import subprocess
from contextlib import ExitStack

import httpx
import pytest
from gateway_fakes import fake, free_port, gateway, wait_until
from gateway_providers import openai as openai_with_faults

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(shutil.which("prometheus") is None, reason="needs prometheus on the path"),
]
CONFIG = """
listen: {{metrics_port: {metrics}}}
money: {{directory: books, flush_s: 0.05, budgets: [{{name: site, usd: 0.01, hard: false}}]}}
breaker: {{failures: 3, open_s: 30}}
retry: {{attempts: 1}}
providers: {{up: {{base_url: "{url}/v1", prices_as: openai}}, bad: {{base_url: "{url}/v1"}}}}
routes:
  - {{match: gpt-4o, targets: [{{provider: up}}]}}
  - {{match: broken, targets: [{{provider: bad, model: x-fault-500}}]}}
"""
PROMETHEUS = """
global: {{scrape_interval: 500ms, evaluation_interval: 500ms}}
rule_files: [llmops.rules.yml]
scrape_configs:
  - {{job_name: gateway, static_configs: [{{targets: ["127.0.0.1:{metrics}"]}}]}}
"""


@pytest.fixture
def site(llmops, tmp_path):
    metrics, port = free_port(), free_port()
    assert llmops("gateway", "alerts", "-o", tmp_path).code == 0
    rules = tmp_path / "llmops.rules.yml"
    rules.write_text(rules.read_text().replace("interval: 30s", "interval: 500ms"))
    (tmp_path / "prometheus.yml").write_text(PROMETHEUS.format(metrics=metrics))
    argv = ["prometheus", "--config.file=prometheus.yml", f"--storage.tsdb.path={tmp_path / 'data'}",
            f"--web.listen-address=127.0.0.1:{port}", "--log.level=error"]  # fmt: skip
    with ExitStack() as stack:
        up = stack.enter_context(fake(openai_with_faults))
        running = stack.enter_context(gateway(tmp_path, CONFIG.format(url=up.url, metrics=metrics)))
        with (tmp_path / "prometheus.log").open("w") as log:
            process = subprocess.Popen(argv, cwd=tmp_path, stdout=log, stderr=log)
        stack.callback(process.wait)
        stack.callback(process.terminate)

        def alerts():
            try:
                found = httpx.get(f"http://127.0.0.1:{port}/api/v1/alerts", timeout=5).json()
            except (httpx.TransportError, json.JSONDecodeError):
                return None
            return {each["labels"]["alertname"]: each["state"] for each in found["data"]["alerts"]}

        def value(expression):
            answer = httpx.get(f"http://127.0.0.1:{port}/api/v1/query", params={"query": expression}, timeout=5).json()
            return [float(row["value"][1]) for row in answer["data"]["result"]]

        def ask(model):
            body = {"model": model, "max_tokens": 10, "messages": [{"role": "user", "content": "hi"}]}
            return httpx.post(f"{running.url}/v1/chat/completions", json=body, timeout=20).status_code

        wait_until(lambda: alerts() is not None and value("llm_workers") == [1.0], 30, "prometheus scrapes")
        yield ask, alerts, value


def test_alerts_wake_up_in_a_real_prometheus(site):
    ask, alerts, value = site
    for _ in range(3):
        assert ask("gpt-4o") == 200
    wait_until(lambda: value('llm_requests_total{model="gpt-4o",status="200"}') == [3.0], what="they are seen")
    assert alerts() == {}
    for _ in range(3):
        assert ask("gpt-4o") == 200  # 0.0102 $ of 0.01
    wait_until(lambda: alerts().get("LLMBudgetSpent") == "firing", 20, "the budget")
    assert alerts()["LLMBudgetNearlySpent"] == "firing"
    for _ in range(12):
        assert ask("broken") >= 500
    wanted = {"LLMModelUnavailable", "LLMBreakerOpen", "HighLLMErrorRate"}
    # They hold for minutes before they fire; that they are pending says that their expressions see it.
    # Each look asks once more: a series whose first value was seen after the last request never rises.
    wait_until(lambda: ask("broken") >= 500 and wanted <= set(alerts()), 30, "the others")
    assert value('llm_model_available{model="gpt-4o"}') == [1.0]
    assert 0.01 < value("sum(increase(llm_cost_total_dollars[1h]))")[0] < 0.02
    assert not {"LLMGatewayDown", "LLMCostSpike", "HighLLMLatency", "LLMLedgerFailing"} & set(alerts())
