"""Budgets over replicas with a real Redis, also one that is killed and comes back, with or without its data."""

import asyncio
import contextlib
import shutil
import socket
import subprocess
import time
from decimal import Decimal

import pytest

from llmops.gateway.money import Account, BudgetConfig, BudgetExceeded, MoneyConfig, Outcome, Payer, Purchase
from llmops.gateway.money.replicas import ReplicaAccount
from llmops.prices import Override, PriceBook, PriceSheet, Rate, Usage

pytest.importorskip("redis")
pytestmark = pytest.mark.skipif(shutil.which("redis-server") is None, reason="needs redis-server on the path")

BOOK = PriceBook((Override("m*", PriceSheet(Rate(Decimal(1)), Rate(Decimal(0)), "test", None)),))
PAYER, M, OK = Payer("acme", "", "k"), Purchase("m-1", None, "m-1"), Outcome(200)


class Redis:
    def __init__(self, directory):
        self.directory = directory
        with socket.create_server(("127.0.0.1", 0)) as free:
            self.port = free.getsockname()[1]
        self.url = f"redis://127.0.0.1:{self.port}"
        self.process = None
        self.start()

    def start(self):
        argv = ["redis-server", "--port", str(self.port), "--dir", str(self.directory), "--appendonly", "yes",
                "--appendfsync", "always", "--save", "", "--loglevel", "warning"]  # fmt: skip
        self.process = subprocess.Popen(argv, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        deadline = time.monotonic() + 10
        while time.monotonic() < deadline:
            with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", self.port), 0.2) as link:
                link.sendall(b"PING\r\n")
                if link.recv(10).startswith(b"+PONG"):
                    return
            time.sleep(0.01)
        raise AssertionError("redis did not start")

    def kill(self):
        self.process.kill()
        self.process.wait()

    def forget(self):
        shutil.rmtree(self.directory / "appendonlydir")


@pytest.fixture
def redis(tmp_path):
    directory = tmp_path / "redis"
    directory.mkdir()
    server = Redis(directory)
    yield server
    server.kill()


class Replicas:
    """Several gateways, each with books of its own."""

    def __init__(self, tmp_path, redis, count, usd="1.00", **changes):
        budgets = (BudgetConfig(name="site", usd=Decimal(usd), period="total"),)
        self.each = [
            ReplicaAccount(
                Account.open(MoneyConfig(directory=tmp_path / f"r{n}", budgets=budgets), BOOK, start=False),
                redis.url,
                replicas=count,
                **changes,
            )
            for n in range(count)
        ]

    async def __aenter__(self):
        for replica in self.each:
            await replica.start()
        return self.each

    async def __aexit__(self, *_):
        for replica in self.each:
            await replica.close()
            replica.account.close()


async def spend(replica, name, tokens=10_000, billed=None):
    """One request that is bounded by ``tokens`` millionths of a dollar and billed ``billed``."""
    held = await replica.reserve(name, PAYER, M, tokens, 0)
    await asyncio.sleep(0)
    replica.settle(held, Usage(tokens if billed is None else billed, 0), OK)
    return tokens if billed is None else billed


async def until(condition, what):
    deadline = time.monotonic() + 15
    while time.monotonic() < deadline:
        if await condition() if asyncio.iscoroutinefunction(condition) else condition():
            return
        await asyncio.sleep(0.02)
    raise AssertionError(what)


async def shared(replica):
    """(spent, reserved) that Redis knows, in millionths of a dollar."""
    [claim] = replica.account.budgets.claims(PAYER, "m-1")
    held = await replica._redis.hmget(f"{{llmops}}:budget:site:{claim.period}:all", "s", "r")
    return tuple(int(each or 0) // 1000 for each in held)


def quiet(replica):
    return lambda: not replica._to_settle and not replica._unsent


async def burst(replicas, start, count):
    results = await asyncio.gather(
        *(spend(replicas[n % len(replicas)], f"q{start + n}", billed=9_000) for n in range(count)),
        return_exceptions=True,
    )
    refused = [each for each in results if isinstance(each, BudgetExceeded)]
    spent = [each for each in results if isinstance(each, int)]
    assert len(refused) + len(spent) == count
    return sum(spent), refused


def test_replicas_share_a_budget(tmp_path, redis):
    async def run():
        async with Replicas(tmp_path, redis, 3) as replicas:
            spent, refused = await burst(replicas, 0, 400)
            assert spent <= 1_000_000
            assert refused
            for replica in replicas:
                await until(quiet(replica), "bills did not arrive")
            more, _ = await burst(replicas, 1000, 60)
            for replica in replicas:
                await until(quiet(replica), "bills did not arrive")
            assert 900_000 < spent + more <= 1_000_000
            assert await shared(replicas[0]) == (spent + more, 0)

    asyncio.run(asyncio.wait_for(run(), 60))


def test_redis_killed_under_load_degrades_and_recovers(tmp_path, redis):
    async def run():
        async with Replicas(tmp_path, redis, 2) as replicas:
            spent, _ = await burst(replicas, 0, 20)
            redis.kill()
            lost, refused = await burst(replicas, 100, 200)
            assert refused
            # Neither replica goes beyond its half, and the whole holds.
            assert spent + lost <= 1_000_000
            assert lost > 500_000
            redis.start()
            for replica in replicas:
                await until(lambda each=replica: each.connected, "no reconnection")
                await until(quiet(replica), "bills did not arrive")
            assert await shared(replicas[0]) == (spent + lost, 0)
            more, refused = await burst(replicas, 500, 40)
            assert refused
            assert spent + lost + more <= 1_000_000

    asyncio.run(asyncio.wait_for(run(), 60))


def test_redis_that_comes_back_empty_is_told_everything(tmp_path, redis):
    async def run():
        async with Replicas(tmp_path, redis, 2) as replicas:
            spent, _ = await burst(replicas, 0, 40)
            for replica in replicas:
                await until(quiet(replica), "bills did not arrive")
            held = await replicas[0].reserve("long", PAYER, M, 10_000, 0)
            redis.kill()
            redis.forget()
            redis.start()
            # A request notices that the data is gone; afterwards every replica adds its own spending.
            for n, replica in enumerate(replicas):
                spent += await spend(replica, f"notice{n}")

            async def told():
                return all(each.connected for each in replicas) and (await shared(replicas[0]))[0] == spent

            await until(told, "the spending was not added again")
            replicas[0].settle(held, Usage(5_000, 0), OK)
            spent += 5_000
            await until(told, "a request from before was not added")

    asyncio.run(asyncio.wait_for(run(), 60))


def test_the_refusing_policy(tmp_path, redis):
    async def run():
        async with Replicas(tmp_path, redis, 1, on_loss="refuse") as [replica]:
            await spend(replica, "a")
            redis.kill()
            with pytest.raises(BudgetExceeded) as refused:
                await spend(replica, "b")
            assert refused.value.status == 503
            [state] = replica.account.budgets.states(replica.account.budgets.claims(PAYER, "m-1"))
            assert state.reserved_usd == 0

    asyncio.run(asyncio.wait_for(run(), 60))


def test_a_dead_replicas_reservation_counts_as_spent_after_its_lease(tmp_path, redis):
    async def run():
        async with Replicas(tmp_path, redis, 2, lease_s=0.2) as replicas:
            await replicas[0].reserve("dead", PAYER, M, 400_000, 0)
            assert await shared(replicas[1]) == (0, 400_000)

            async def swept():
                return await shared(replicas[1]) == (400_000, 0)

            await until(swept, "the lease did not end")

    asyncio.run(asyncio.wait_for(run(), 60))


def test_a_dearer_fallback_over_replicas(tmp_path, redis):
    book = PriceBook(
        (
            Override("cheap", PriceSheet(Rate(Decimal(1)), Rate(Decimal(0)), "t", None)),
            Override("dear", PriceSheet(Rate(Decimal(5)), Rate(Decimal(0)), "t", None)),
        )
    )

    async def run():
        replicas = Replicas(tmp_path, redis, 2)
        for each in replicas.each:
            each.account._book = book
        async with replicas as [one, two]:
            held = await one.reserve("a", PAYER, Purchase("m", None, "cheap"), 100_000, 0)
            await one.retarget(held, Purchase("m", None, "dear"))
            other = await two.reserve("b", PAYER, Purchase("m", None, "cheap"), 200_000, 0)
            with pytest.raises(BudgetExceeded):
                await two.retarget(other, Purchase("m", None, "dear"))
            one.settle(held, Usage(100_000, 0), OK)
            two.release(other, Outcome(502))
            for each in (one, two):
                await until(quiet(each), "bills did not arrive")
            assert await shared(one) == (500_000, 0)

    asyncio.run(asyncio.wait_for(run(), 60))
