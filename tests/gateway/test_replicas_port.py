"""Two gateways with one Redis: limits, budgets, answers and breakers hold over both; Redis is killed and comes back."""

from __future__ import annotations

import contextlib
import shutil
import socket
import subprocess
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from decimal import Decimal

import httpx
import pytest
from gateway_fakes import fake, gateway, metric, wait_until
from gateway_fakes import openai as openai_server
from gateway_providers import openai as openai_with_faults

pytest.importorskip("redis")
pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(shutil.which("redis-server") is None, reason="needs redis-server on the path"),
]

PRICE = Decimal("0.0017")  # of each answer of the fake
CONFIG = """
keys:
  - {{name: admin, env: KA, admin: true}}
  - {{name: few, env: KF, limits: {{requests_per_minute: 20}}}}
  - {{name: narrow, env: KN, limits: {{concurrent: 4}}}}
  - {{name: poor, env: KP}}
cache: {{enabled: true}}
money:
  directory: books
  flush_s: 0.05
  budgets: [{{name: shared, usd: 0.05, period: total, match: {{key: poor}}}}]
replicas: {{redis: "{redis}", count: 2, on_loss: {on_loss}}}
breaker: {{failures: 2, open_s: 20}}
retry: {{attempts: 1}}
providers: {{up: {{base_url: "{url}/v1", key_env: UPK, prices_as: openai}}}}
routes:
  - {{match: gpt-4o, targets: [{{provider: up}}]}}
  - {{match: broken-fault-500, targets: [{{provider: up}}]}}
"""
ENV = {name: f"sk-{name.lower()}-0123456789" for name in ("KA", "KF", "KN", "KP", "UPK")}


class Redis:
    def __init__(self, directory):
        self.directory = directory
        directory.mkdir()
        with socket.create_server(("127.0.0.1", 0)) as free:
            self.port = free.getsockname()[1]
        self.url = f"redis://127.0.0.1:{self.port}"
        self.start()

    def start(self):
        argv = ["redis-server", "--port", str(self.port), "--dir", str(self.directory), "--appendonly", "yes",
                "--appendfsync", "always", "--save", "", "--loglevel", "warning"]  # fmt: skip
        self.process = subprocess.Popen(argv, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        wait_until(self.answers, what="redis")

    def answers(self):
        with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", self.port), 0.2) as link:
            link.sendall(b"PING\r\n")
            return link.recv(10).startswith(b"+PONG")
        return False

    def kill(self):
        self.process.kill()
        self.process.wait()


class Site:
    def __init__(self, both, redis, up, client):
        self.both, self.redis, self.up, self.client = both, redis, up, client

    def ask(self, number, key, model="gpt-4o", **more):
        # Long enough that what it may cost is more than the fake bills for it.
        turns = [{"role": "user", "content": "word " * 300}]
        body = {"model": model, "max_tokens": 100, "messages": turns, **more}
        headers = {"authorization": f"Bearer {ENV[key]}"}
        return self.client.post(f"{self.both[number % 2].url}/v1/chat/completions", json=body, headers=headers)

    def many(self, key, count, threads=16, **more):
        with ThreadPoolExecutor(threads) as pool:
            return list(pool.map(lambda n: self.ask(n, key, **more), range(count)))

    def metric(self, number, name):
        headers = {"authorization": f"Bearer {ENV['KA']}"}
        return metric(self.client.get(f"{self.both[number].url}/metrics", headers=headers).text, name)

    def connected(self, value):
        return all(self.metric(n, 'llm_redis_connected{what="replicas"}') == value for n in (0, 1))


@contextlib.contextmanager
def site(tmp_path, on_loss="local"):
    with ExitStack() as stack:
        redis = Redis(tmp_path / "redis")
        stack.callback(redis.kill)
        up = stack.enter_context(fake(openai_with_faults))
        both = []
        for name in ("one", "two"):
            (tmp_path / name).mkdir()
            config = CONFIG.format(url=up.url, redis=redis.url, on_loss=on_loss)
            both.append(stack.enter_context(gateway(tmp_path / name, config, env=ENV)))
        limits = httpx.Limits(max_connections=64, max_keepalive_connections=64)
        client = stack.enter_context(httpx.Client(timeout=30, trust_env=False, limits=limits))
        yield Site(both, redis, up, client)


def slow(server, body, answer):
    time.sleep(0.15)
    openai_server(server, body, answer)


def spent(answers):
    return sum(Decimal(each.headers["x-llmops-cost-usd"]) for each in answers if each.status_code == 200)


def test_limits_budgets_answers_and_breakers_hold_over_both(tmp_path):
    with site(tmp_path) as both:
        began = time.monotonic()
        statuses = [each.status_code for each in both.many("KF", 60)]
        refilled = (time.monotonic() - began) * 20 / 60
        assert 20 <= statuses.count(200) <= 20 + refilled + 1  # 20 a minute over both, not each
        assert set(statuses) == {200, 429}
        answers = both.many("KP", 80)
        refused = next(each for each in answers if each.status_code != 200)
        assert refused.status_code == 402
        assert "shared" in refused.json()["error"]["message"]
        while answers[-1].status_code == 200 or len(answers) == 80:  # then one by one, without others' reservations
            answers.append(both.ask(len(answers), "KP"))
        assert Decimal("0.05") - 4 * PRICE < spent(answers) <= Decimal("0.05")
        assert both.ask(0, "KA", temperature=0).headers["x-llmops-cache"] == "miss"
        seen = len(both.up.seen)  # it is kept a moment after it was sent
        wait_until(lambda: both.ask(1, "KA", temperature=0).headers["x-llmops-cache"] == "hit", what="the other has it")
        assert len(both.up.seen) <= seen + 1
        both.up.handler = slow
        with ThreadPoolExecutor(12) as pool:
            at_once = list(pool.map(lambda n: both.ask(n, "KN").status_code, range(12)))
        assert at_once.count(200) <= 5  # four at a time; the first may be over before the last comes
        both.up.handler = openai_with_faults
        wait_until(lambda: both.ask(0, "KN").status_code == 200, what="their places are free again")
        for _ in range(2):
            assert both.ask(0, "KA", "broken-fault-500").status_code == 500
        seen = len(both.up.seen)
        name = 'llm_breaker_open{target="up"}'
        wait_until(lambda: both.metric(1, name) == 1, what="the hint")
        assert both.ask(1, "KA", "broken-fault-500").status_code == 503
        assert len(both.up.seen) == seen  # it was not asked again


def test_redis_killed_and_started_again_under_load(tmp_path):
    """A limit of 20 a minute stays one: half of it each while Redis is away, shared again when it is back."""
    with site(tmp_path) as both:
        began = time.monotonic()
        good = sum(each.status_code == 200 for each in both.many("KF", 8))
        poor = both.many("KP", 10)
        with ThreadPoolExecutor(8) as pool:
            under_way = [pool.submit(both.ask, n, "KA") for n in range(60)]
            both.redis.kill()
            statuses = {each.result().status_code for each in under_way}
        assert statuses == {200}  # nobody notices
        wait_until(lambda: both.connected(0), what="the loss is seen")
        good += sum(each.status_code == 200 for each in both.many("KF", 40))
        poor += both.many("KP", 40)
        assert good <= 20 + (time.monotonic() - began) * 20 / 60 + 4
        # Each may spend half by itself, and both knew what they had spent before.
        assert spent(poor) <= Decimal("0.05")
        both.redis.start()
        wait_until(lambda: both.connected(1), what="Redis is back")
        more = both.many("KP", 40)
        assert spent(poor) + spent(more) <= Decimal("0.05")
        assert {each.status_code for each in poor + more} <= {200, 402}
        for running in both.both:
            text = running.log.read_text()
            assert "Redis is lost" in text
            assert "Redis is back" in text
            assert both.redis.url not in text


def test_the_refusing_policy(tmp_path):
    with site(tmp_path, on_loss="refuse") as both:
        assert both.ask(0, "KP").status_code == 200
        both.redis.kill()
        wait_until(lambda: both.connected(0), what="the loss is seen")
        refused = both.ask(0, "KP")
        assert refused.status_code == 503
        assert refused.json()["error"]["code"] == "budgets_unavailable"
        assert both.ask(0, "KA").status_code == 200  # no budget covers it
