"""The ledger in a real PostgreSQL: the same rows, sums and exactly-once as in the embedded one."""

import os
import shutil
import signal
import subprocess
import tempfile
import threading
import time
from pathlib import Path

import pytest
from test_gateway_money_rules import DOLLAR_BOOK, OK, WEB, M, entry

from llmops.errors import MachineError
from llmops.gateway.money import Account, BudgetConfig, MoneyConfig
from llmops.gateway.money.store import SqliteStore
from llmops.gateway.money.store_postgres import PostgresStore
from llmops.prices import Usage

pytest.importorskip("psycopg")
pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(shutil.which("initdb") is None, reason="needs PostgreSQL's programs on the path"),
]


@pytest.fixture(scope="module")
def server():
    """A server of its own on a socket in a new directory; it refuses to run as root."""
    directory = Path(tempfile.mkdtemp(prefix="pg"))
    user = {"user": "postgres"} if os.getuid() == 0 else {}
    if user:
        shutil.chown(directory, "postgres")
    data = directory / "data"
    subprocess.run(["initdb", "-D", data, "-A", "trust", "-U", "llmops", "--no-sync"], check=True, capture_output=True,
                   cwd="/", **user)  # fmt: skip
    process = subprocess.Popen(
        ["postgres", "-D", data, "-k", directory, "-c", "listen_addresses=", "-c", "fsync=off"],
        stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, cwd="/", **user,
    )  # fmt: skip
    url = f"postgresql://llmops@/postgres?host={directory}"
    deadline = time.monotonic() + 20
    while True:
        try:
            PostgresStore(url).close()
            break
        except MachineError:
            assert time.monotonic() < deadline
            time.sleep(0.05)
    yield url
    process.send_signal(signal.SIGINT)  # does not wait for clients
    process.wait()
    shutil.rmtree(directory)


@pytest.fixture
def url(server):
    import psycopg

    with psycopg.connect(server) as db:
        db.execute("set lock_timeout = 5000")
        db.execute("truncate llmops_entries, llmops_sums")
    return server


def test_both_databases_say_the_same(url, tmp_path):
    rows = [entry(f"r{n}", 1000.0 + 400 * n, None if n % 5 == 0 else n * 10**12, model=f"m{n % 3}") for n in range(40)]
    stores = (PostgresStore(url), SqliteStore(tmp_path / "l.sqlite"))
    for store in stores:
        store.insert(rows)
        store.insert(rows[:10])
        store.insert([entry("r1", state="in_flight", amount=99)])
        while store.roll_up(8000):
            pass
    first, second = (sorted(store.sums(0, 1e9, ("model", "tenant")), key=repr) for store in stores)
    assert first == second
    assert sum(row.requests for row in first) == 40
    kept = [list(store.rows(0, 1e9)) for store in stores]
    assert kept[0] == kept[1]
    for store in stores:
        store.close()


def test_an_account_over_it_and_counters_made_anew_from_it(url, tmp_path):
    rules = (BudgetConfig(name="b", usd=10),)

    def open_(name):
        return Account.open(
            MoneyConfig(directory=tmp_path / name, budgets=rules, postgres=url), DOLLAR_BOOK, start=False
        )

    one = open_("one")
    one.settle(one.reserve("a", WEB, M, 1_000_000, 0), Usage(1_000_000, 0), OK)
    one.close()
    two = open_("two")  # another replica, with books of its own and the same ledger
    [state] = two.budgets.states(two.budgets.claims(WEB, "m-1"))
    assert state.spent_usd == 1
    two.close()


def test_a_broken_connection_is_made_anew(url):
    import psycopg

    store = PostgresStore(url)
    with psycopg.connect(url, autocommit=True) as db:
        db.execute(
            "select pg_terminate_backend(pid) from pg_stat_activity where pid <> pg_backend_pid() and datname = 'postgres'"
        )
    with pytest.raises(psycopg.OperationalError):
        store.insert([entry("a")])
    store.insert([entry("a")])
    assert len(list(store.rows(0, 1e9))) == 1
    store.close()


def test_two_replicas_insert_and_roll_up_at_once(url):
    def work(part):
        store = PostgresStore(url)
        for n in range(20):
            store.insert([entry(f"{part}-{n}-{k}", 1000.0 + 900 * k, 10**12) for k in range(5)])
            store.roll_up(3000)
        store.close()

    threads = [threading.Thread(target=work, args=(n,)) for n in range(3)]
    for each in threads:
        each.start()
    for each in threads:
        each.join()
    store = PostgresStore(url)
    assert sum(row.requests for row in store.sums(0, 1e9, ("model",))) == 3 * 20 * 5
    store.close()


def test_no_server_is_one_line_without_the_password():
    with pytest.raises(MachineError) as refused:
        PostgresStore("postgresql://u:s3cret-pass@127.0.0.1:1/x")
    assert "s3cret-pass" not in str(refused.value)
