"""Alerts and dashboard: right for the metrics that exist, and each seen to fire and not to fire by promtool."""

from __future__ import annotations

import json
import re
import shutil
import subprocess

import httpx
import pytest
import yaml
from gateway_fakes import fake, gateway
from gateway_fakes import openai as openai_server

from llmops.gateway.alerting.rules import Limits, alerts

needs_promtool = pytest.mark.skipif(shutil.which("promtool") is None, reason="needs promtool on the path")
CONFIG = """
cache: {{enabled: true}}
guard: {{secrets_in: log}}
money: {{directory: books, budgets: [{{name: site, usd: 50}}]}}
providers: {{up: {{base_url: "{url}/v1", prices_as: openai}}}}
routes: [{{match: gpt-4o, targets: [{{provider: up}}]}}]
"""
SEMANTIC = {"llm_semantic_cache_false_hits_total", "llm_semantic_cache_checked_total"}


def promtool(*args, cwd):
    return subprocess.run(["promtool", *args], capture_output=True, text=True, cwd=cwd)


def names_in(text):
    return {name.removesuffix("_bucket") for name in re.findall(r"\bllm_[a-z_]+", text)}


@needs_promtool
def test_promtool_sees_each_alert_fire_and_not_fire(llmops, tmp_path):
    done = llmops("gateway", "alerts", "-o", tmp_path / "a", "--check", "--json")
    assert done.code == 0, done.stdout + done.stderr
    data = done.json["data"]
    assert data["checked"] is True
    assert {"HighLLMErrorRate", "HighLLMLatency", "LLMCostSpike", "LLMModelUnavailable", "LLMBudgetNearlySpent",
            "LLMBreakerOpen", "LLMSemanticCacheFalseHits"} <= {each["name"] for each in data["alerts"]}  # fmt: skip
    tests = yaml.safe_load((tmp_path / "a" / "llmops.rules.test.yml").read_text())["tests"]
    for alert in alerts(Limits()):
        outcomes = [
            bool(each["alert_rule_test"][0]["exp_alerts"])
            for each in tests
            if each["name"].startswith(alert.name + " ")
        ]
        assert True in outcomes
        assert False in outcomes


@pytest.fixture(scope="module")
def written(llmops, tmp_path_factory):
    directory = tmp_path_factory.mktemp("alerts")
    assert llmops("gateway", "alerts", "-o", directory).code == 0
    return directory


@needs_promtool
@pytest.mark.parametrize(
    ("changed", "into"),
    [
        ("> 0.05", "> 0.5"),
        ("> 0.05", "> 0.001"),
        ('status=~"5.."', 'status=~"[45].."'),
        ("sum by (model) (rate(llm_requests_total[5m]))", "rate(llm_requests_total[5m])"),  # the label join of old
        ("sum(increase(llm_cost_total_dollars[1h]))", "sum(rate(llm_cost_total_dollars[1h]))"),  # dollars a second
        ("llm_model_available == 0", "llm_model_available == 1"),
        ("max_over_time(llm_breaker_open[1m])", "llm_breaker_open"),
    ],
)
def test_the_tests_notice_a_wrong_rule(written, tmp_path, changed, into):
    shutil.copytree(written, tmp_path, dirs_exist_ok=True)
    rules = tmp_path / "llmops.rules.yml"
    text = rules.read_text()
    assert changed in text
    rules.write_text(text.replace(changed, into))
    assert promtool("check", "rules", rules.name, cwd=tmp_path).returncode == 0
    assert promtool("test", "rules", "llmops.rules.test.yml", cwd=tmp_path).returncode != 0


def test_other_limits_and_a_dry_run(llmops, tmp_path):
    done = llmops("gateway", "alerts", "-o", tmp_path / "b", "--cost", "7.5", "-n", "--json")
    assert done.code == 0
    assert not (tmp_path / "b").exists()
    assert any(each["expr"].endswith("> 7.5") for each in done.json["data"]["alerts"])
    assert llmops("gateway", "alerts", "-o", tmp_path, "--error-rate", "1.5").code == 2


def test_every_metric_of_the_rules_and_the_dashboard_exists(written, tmp_path):
    dashboard = json.loads((written / "llmops-dashboard.json").read_text())
    assert len({panel["id"] for panel in dashboard["panels"]}) == len(dashboard["panels"])
    wanted = names_in((written / "llmops.rules.yml").read_text())
    for panel in dashboard["panels"]:
        for target in panel["targets"]:
            wanted |= names_in(target["expr"])
    with fake(openai_server) as up, gateway(tmp_path, CONFIG.format(url=up.url)) as running:
        before = running.metrics()
        body = {"model": "gpt-4o", "messages": [{"role": "user", "content": "hi"}]}
        for stream in (False, True):
            assert httpx.post(f"{running.url}/v1/chat/completions", json={**body, "stream": stream}).status_code == 200
        shown = running.metrics()
    found = {name.removesuffix("_bucket") for name in re.findall(r"(?m)^(?:# TYPE )?(llm_[a-z_]+)", shown)}
    assert wanted - found - {"llm_redis_connected"} == set()
    assert found >= SEMANTIC
    # A counter whose first value Prometheus never saw does not rise: those that alerts compare begin at nothing.
    assert 'llm_cost_total_dollars{model="gpt-4o"} 0\n' in before
    assert 'llm_budget_used_ratio{budget="site",counter="all"} 0\n' in before
    assert 'llm_model_available{model="gpt-4o"} 1\n' in before
