"""Real processes: a hard budget is never overspent, and a killed worker's rows are neither lost nor doubled."""

import contextlib
import random
import shutil
import socket
import subprocess
import sys
import threading
import time
from decimal import Decimal
from pathlib import Path

import pytest
from money_worker import BOOK, config

from llmops.gateway.money import Account
from llmops.gateway.money.rates import usd
from llmops.gateway.money.store import SqliteStore

WORKER = Path(__file__).with_name("money_worker.py")


class Provider:
    """Bills whatever arrives whole; its books are the truth."""

    def __init__(self):
        self.billed = {}
        self.listener = socket.create_server(("127.0.0.1", 0), backlog=512)
        self.port = self.listener.getsockname()[1]
        self.thread = threading.Thread(target=self.serve)
        self.thread.start()

    def serve(self):
        while True:
            try:
                link, _ = self.listener.accept()
            except OSError:
                return
            with link:
                line = link.recv(200)
                if not line.endswith(b"\n"):
                    continue
                name, into, out = line.split()
                self.billed[name.decode()] = int(into) * 10_000_000 + int(out) * 30_000_000
                with contextlib.suppress(OSError):  # it was killed meanwhile
                    link.sendall(b"billed\n")

    def close(self):
        self.listener.shutdown(socket.SHUT_RDWR)
        self.listener.close()
        self.thread.join()


@pytest.fixture
def provider():
    made = Provider()
    yield made
    made.close()


def start(directory, provider, requests, budget, threads):
    argv = [sys.executable, str(WORKER), str(directory), str(provider.port), str(requests), str(budget), str(threads)]
    worker = subprocess.Popen(argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    assert worker.stdout.readline() == "ready\n"
    return worker


def go(worker):
    worker.stdin.write("go\n")
    worker.stdin.flush()


def finish(worker):
    out, _ = worker.communicate(timeout=120)
    assert worker.returncode == 0
    return [int(word) for word in out.split()]


def ledger(directory):
    store = SqliteStore(directory / "ledger.sqlite")
    try:
        return {row.request_id: row for row in store.rows(0, 1e12)}
    finally:
        store.close()


@pytest.mark.slow
def test_200_parallel_in_4_workers_never_overspend_a_budget_for_50(tmp_path, provider):
    budget = Decimal("2.00")  # 50 times the bound of a request, 0.04 $
    workers = [start(tmp_path, provider, 4, budget, 200) for _ in range(4)]
    for each in workers:
        go(each)
    answers = [finish(each) for each in workers]
    assert sum(map(sum, answers)) == 200 * 4 * 4
    spent = usd(sum(provider.billed.values()))
    assert spent <= budget
    # It was used, too: what is left would not have held one more bound.
    assert spent > budget - Decimal("0.04")
    rows = ledger(tmp_path)
    assert sum(row.amount_pico for row in rows.values()) == sum(provider.billed.values())
    assert len([row for row in rows.values() if row.amount_pico]) == len(provider.billed)


def test_a_budget_holds_over_two_workers(tmp_path, provider):
    budget = Decimal("0.40")
    workers = [start(tmp_path, provider, 5, budget, 20) for _ in range(2)]
    for each in workers:
        go(each)
    for each in workers:
        finish(each)
    # How much of it is used depends on how many were refused while others held their reservations.
    assert budget / 2 < usd(sum(provider.billed.values())) <= budget


def kill_and_compare(directory, provider, rounds, rng):
    for _ in range(rounds):
        workers = [start(directory, provider, 100_000, 100_000, 8) for _ in range(2)]
        before = len(provider.billed)
        for each in workers:
            go(each)
        deadline = time.monotonic() + 30
        wanted = before + rng.randrange(20, 400)
        while len(provider.billed) < wanted and time.monotonic() < deadline:
            time.sleep(0.001)
        for each in workers:
            each.kill()
        for each in workers:
            each.wait()
            each.stdout.close()
            each.stdin.close()
    account = Account.open(config(directory, 100_000), BOOK, start=False)
    rows = ledger(directory)
    settled = {name: row for name, row in rows.items() if row.state == "settled"}
    lost = {name: row for name, row in rows.items() if row.state == "in_flight"}
    # Each row says what was billed for it; whatever was billed has a row; what has none was in flight.
    assert {name: row.amount_pico for name, row in settled.items()} == {
        name: amount for name, amount in provider.billed.items() if name in settled
    }
    assert set(provider.billed) <= set(rows)
    assert len(lost) <= rounds * 2 * 8
    assert all(row.amount_pico >= provider.billed.get(name, 0) for name, row in lost.items())
    # The counters, made anew, agree with the rows.
    [claim] = account.budgets.claims(account_payer(), "m-1")
    counter = account.budgets.counters.read(claim)
    assert abs(counter.spent - sum(row.amount_pico for row in rows.values()) // 1000) <= len(rows)
    assert counter.reserved == 0
    account.close()
    assert not list(directory.glob("spool-*"))


def account_payer():
    from llmops.gateway.money import Payer

    return Payer("acme", "", "key-1")


def test_two_rounds_of_kill_9(tmp_path, provider):
    kill_and_compare(tmp_path, provider, 2, random.Random(1))


@pytest.mark.slow
def test_thirty_rounds_of_kill_9_keep_the_ledger_equal_to_the_bills(tmp_path, provider):
    kill_and_compare(tmp_path, provider, 30, random.Random(2))


def test_a_living_worker_takes_over_the_spool_of_a_killed_one(tmp_path, provider):
    account = Account.open(config(tmp_path, 100_000), BOOK)  # joins as the first, so counters are not made anew
    killed = start(tmp_path, provider, 100_000, 100_000, 4)
    go(killed)
    while len(provider.billed) < 50:
        time.sleep(0.001)
    killed.kill()
    killed.communicate()
    account.ledger.recover()
    rows = ledger(tmp_path)
    assert set(provider.billed) <= set(rows)
    [claim] = account.budgets.claims(account_payer(), "m-1")
    counter = account.budgets.counters.read(claim)
    total = sum(row.amount_pico for row in rows.values()) // 1000
    # A worker killed between two writes may leave one bound reserved, never less than what was spent.
    assert total <= counter.spent + counter.reserved <= total + len(rows) + 2 * 40_000_000
    account.close()


def test_a_copy_of_a_spool_that_was_replayed_already_changes_nothing(tmp_path, provider):
    worker = start(tmp_path, provider, 100_000, 100_000, 4)
    go(worker)
    while len(provider.billed) < 50:
        time.sleep(0.001)
    worker.kill()
    worker.communicate()
    copies = tmp_path / "copies"
    copies.mkdir()
    for path in tmp_path.glob("spool-*"):
        shutil.copy(path, copies)
    Account.open(config(tmp_path, 100_000), BOOK, start=False).close()
    first = ledger(tmp_path)
    for path in copies.iterdir():
        shutil.copy(path, tmp_path)
    Account.open(config(tmp_path, 100_000), BOOK, start=False).close()
    assert ledger(tmp_path) == first
