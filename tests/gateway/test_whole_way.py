"""Access, money and guards on the way of a request, through the port."""

from __future__ import annotations

import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from decimal import Decimal

import httpx
import pytest
from gateway_fakes import fake, gateway, metric, wait_until
from gateway_fakes import openai as openai_server

from llmops.gateway.money.config import MoneyConfig

CONFIG = """
keys: [{{name: admin, env: GW_ADMIN, admin: true}}]
access: {{callers: callers.db}}
money:
  directory: books
  flush_s: 0.05
  budgets: [{{name: small, usd: 0.05, period: total, each: [key], match: {{key: poor}}}}]
guard: {{secrets_in: block, injection: header}}
providers: {{up: {{base_url: "{url}/v1", prices_as: openai, key_env: UPK}}}}
routes: [{{match: gpt-4o, targets: [{{provider: up}}]}}, {{match: other, targets: [{{provider: up, model: gpt-4o}}]}}]
"""
ENV = {"GW_ADMIN": "sk-admin-0123456789", "UPK": "sk-up-0123456789"}


def llmops(*args: str, cwd) -> str:
    done = subprocess.run([sys.executable, "-m", "llmops", *args], capture_output=True, text=True, cwd=cwd, timeout=60)
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    directory = tmp_path_factory.mktemp("whole")
    keys = {}
    for name, models in (("poor", "models:gpt-4o"), ("rich", "models:*")):
        scopes = ("--scope", "chat", "--scope", models)
        llmops("callers", "add", name, *scopes, "--to", f"{name}.key", "--callers", "callers.db", cwd=directory)
        keys[name] = (directory / f"{name}.key").read_text().strip()
    with fake(openai_server) as up, gateway(directory, CONFIG.format(url=up.url), env=ENV) as running:
        yield running, up, {**keys, "admin": ENV["GW_ADMIN"]}, directory


def ask(site, key, model="gpt-4o", content="hi", **more):
    body = {"model": model, "messages": [{"role": "user", "content": content}], "max_tokens": 100, **more}
    headers = {"authorization": f"Bearer {site[2].get(key, key)}"} if key else {}
    return httpx.post(f"{site[0].url}/v1/chat/completions", json=body, headers=headers, timeout=30)


def test_virtual_keys_and_their_scopes(site):
    assert ask(site, "rich").status_code == 200
    assert ask(site, "admin").status_code == 200
    assert ask(site, None).status_code == 401
    assert ask(site, "sk-nobody-0123456789").status_code == 401
    assert ask(site, "poor", "other").status_code == 404
    answer = httpx.post(
        f"{site[0].url}/v1/embeddings", json={"model": "gpt-4o", "input": "x"}, headers={"x-api-key": site[2]["rich"]}
    )
    assert answer.status_code == 403


def test_parallel_requests_never_pass_a_hard_budget(site):
    """Each costs $0.0017 and reserves more; $0.05 is for at most 29 of them."""
    with ThreadPoolExecutor(16) as pool:
        answers = list(pool.map(lambda _: ask(site, "poor", content="word " * 300), range(60)))
    good = [answer for answer in answers if answer.status_code == 200]
    refused = [answer for answer in answers if answer.status_code != 200]
    assert {answer.status_code for answer in refused} <= {402, 429}
    assert refused
    assert "small" in refused[0].json()["error"]["message"]
    spent = sum(Decimal(answer.headers["x-llmops-cost-usd"]) for answer in good)
    assert Decimal("0.03") < spent <= Decimal("0.05")
    assert ask(site, "rich").status_code == 200


def test_the_ledger_holds_what_was_answered(site):
    import sqlite3

    before = metric(_metrics(site), 'llm_cost_total_dollars{model="gpt-4o"}')
    assert ask(site, "rich").status_code == 200
    after = metric(_metrics(site), 'llm_cost_total_dollars{model="gpt-4o"}')
    assert after - before == pytest.approx(0.0017)
    database = next(each for each in (site[3] / "books").iterdir() if each.read_bytes()[:6] == b"SQLite")

    def rows() -> int:
        with sqlite3.connect(database) as connection:
            names = [row[0] for row in connection.execute("select name from sqlite_master where type = 'table'")]
            return sum(connection.execute(f"select count(*) from {name}").fetchone()[0] for name in names)

    known = rows()
    ask(site, "rich")
    wait_until(lambda: rows() > known, what="the row arrives")


def test_a_secret_in_a_prompt_is_blocked_and_not_repeated(site):
    secret = "AKIA" + "QJ7ZK3MWX5RT2BNV"
    answer = ask(site, "rich", content=f"why does {secret} not work?")
    assert answer.status_code == 400
    assert secret not in answer.text
    assert secret not in site[0].log.read_text()
    assert ask(site, "rich", content="what is a system prompt, a password, a token?").status_code == 200


def _metrics(site):
    return httpx.get(f"{site[0].url}/metrics", headers={"x-api-key": site[2]["admin"]}).text


def test_the_money_form_is_the_configs(tmp_path):
    assert MoneyConfig(directory=tmp_path).budgets == ()
