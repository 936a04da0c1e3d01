"""Money through the port of several workers: no budget is overspent, and kill -9 loses and doubles no bill."""

from __future__ import annotations

import contextlib
import itertools
import os
import random
import signal
import threading
from decimal import Decimal

import httpx
import psutil
import pytest
from gateway_fakes import fake, gateway, openai_chunk, wait_until

from llmops.gateway.money import Account, MoneyConfig
from llmops.gateway.money.store import SqliteStore
from llmops.prices import price_book

pytestmark = pytest.mark.slow
INPUT_PICO, OUTPUT_PICO = 2_500_000, 10_000_000  # gpt-4o, a token
CONFIG = """
listen: {{workers: {workers}}}
keys: [{{name: k, env: KEY}}]
money: {{directory: books, flush_s: 0.2, budgets: [{{name: site, usd: {usd}, period: month}}]}}
retry: {{attempts: 1}}
providers: {{up: {{base_url: "{url}/v1", key_env: UPK, prices_as: openai, max_connections: 1024}}}}
routes: [{{match: gpt-4o, targets: [{{provider: up}}]}}]
"""
ENV = {"KEY": "sk-key-0123456789", "UPK": "sk-up-0123456789"}
PROMPT = "x" * 40_000  # bounds the prompt at 40,000 tokens and more


class Provider:
    """Bills every request another number of prompt tokens, so that each bill is known again in the ledger."""

    def __init__(self):
        self.numbers = itertools.count(1)
        self.bills = {}

    def __call__(self, server, body, answer):
        number, out = next(self.numbers), random.randrange(1, body["max_tokens"] + 1)
        self.bills[number] = number * INPUT_PICO + out * OUTPUT_PICO
        usage = {"prompt_tokens": number, "completion_tokens": out, "total_tokens": number + out}
        if not body.get("stream"):
            choice = {"index": 0, "message": {"role": "assistant", "content": "x"}, "finish_reason": "stop"}
            answer.whole(
                200, {"id": "c", "object": "x", "created": 1, "model": "m", "choices": [choice], "usage": usage}
            )
            return
        answer.stream_head()
        answer.event(openai_chunk({"content": "x"}))
        answer.event(openai_chunk({}, "stop"))
        answer.event({**openai_chunk({}), "choices": [], "usage": usage})
        answer.event(b"[DONE]")
        answer.stream_end()


def rows_of(directory):
    """Every row, also of workers that were killed."""
    Account.open(MoneyConfig(directory=directory / "books"), price_book(), start=False).close()
    store = SqliteStore(directory / "books" / "ledger.sqlite")
    try:
        return list(store.rows(0, 1e12))
    finally:
        store.close()


def body(rng):
    return {"model": "gpt-4o", "max_tokens": 100, "stream": rng.random() < 0.5,
            "messages": [{"role": "user", "content": PROMPT}]}  # fmt: skip


HEADERS = {"authorization": f"Bearer {ENV['KEY']}"}


def test_200_parallel_in_4_workers_never_overspend_a_budget_for_50(tmp_path):
    provider, statuses = Provider(), []
    bound = Decimal(len(PROMPT) + 200) * INPUT_PICO / 10**12 + Decimal(100) * OUTPUT_PICO / 10**12
    usd = (bound * 50).quantize(Decimal("0.01"))
    # The provider bills nearly what it may, so that the budget is for about fifty.
    provider.numbers = itertools.count(38_000)
    with fake(provider) as up, gateway(tmp_path, CONFIG.format(url=up.url, usd=usd, workers=4), env=ENV) as running:
        together = threading.Barrier(200)

        def load(seed):
            rng = random.Random(seed)
            with httpx.Client(timeout=120, trust_env=False) as client:  # a connection of its own, to any worker
                together.wait(120)
                for _ in range(4):
                    answer = client.post(f"{running.url}/v1/chat/completions", json=body(rng), headers=HEADERS)
                    statuses.append(answer.status_code)

        threads = [threading.Thread(target=load, args=(seed,)) for seed in range(200)]
        for each in threads:
            each.start()
        for each in threads:
            each.join()
    assert len(statuses) == 800
    assert set(statuses) <= {200, 429}
    billed = Decimal(sum(provider.bills.values())) / 10**12
    assert billed <= usd
    assert billed > usd - 3 * bound  # it was used, too
    assert statuses.count(200) == len(provider.bills)
    rows = rows_of(tmp_path)
    assert {row.state for row in rows} == {"settled"}
    assert sum(row.amount_pico for row in rows) == sum(provider.bills.values())


def workers_of(running):
    found = []
    for each in psutil.Process(running.process.pid).children(recursive=True):
        with contextlib.suppress(psutil.Error):
            line = each.cmdline()
            if "llmops.gateway.worker" in line and "-I" not in line:
                found.append(each)
    return found


def test_thirty_workers_killed_under_load_lose_and_double_no_bill(tmp_path):
    provider, rng, over = Provider(), random.Random(7), threading.Event()
    with fake(provider) as up, gateway(tmp_path, CONFIG.format(url=up.url, usd=900_000, workers=2), env=ENV) as running:

        def load(seed):
            own = random.Random(seed)
            while not over.is_set():
                with (
                    contextlib.suppress(httpx.TransportError),
                    httpx.Client(timeout=30, trust_env=False) as client,
                ):
                    for _ in range(20):
                        client.post(f"{running.url}/v1/chat/completions", json=body(own), headers=HEADERS)

        threads = [threading.Thread(target=load, args=(seed,)) for seed in range(8)]
        for each in threads:
            each.start()
        try:
            for _ in range(30):
                wait_until(lambda: len(workers_of(running)) == 2, 60, "two workers")
                goal = len(provider.bills) + rng.randrange(5, 60)
                wait_until(lambda goal=goal: len(provider.bills) >= goal, 60, "some bills")
                with contextlib.suppress(psutil.Error):
                    os.kill(rng.choice(workers_of(running)).pid, signal.SIGKILL)
        finally:
            over.set()
            for each in threads:
                each.join()
    rows = rows_of(tmp_path)
    settled = [row for row in rows if row.state == "settled"]
    lost = [row for row in rows if row.state == "in_flight"]
    billed = [row for row in settled if row.amount_pico]  # the rest was given back: the provider never saw it
    assert len({row.input_tokens for row in billed}) == len(billed)  # none is doubled
    assert {row.input_tokens: row.amount_pico for row in billed} == {
        row.input_tokens: provider.bills[row.input_tokens] for row in billed
    }
    unsettled = set(provider.bills) - {row.input_tokens for row in billed}
    assert len(unsettled) <= len(lost) <= 30 * 8  # each bill without a row was in flight in a worker that died
    assert sum(provider.bills.values()) - sum(row.amount_pico for row in billed) == sum(
        provider.bills[number] for number in unsettled
    )
    assert len(billed) > 500
