"""CPU a request of the gateway's access, money and guards, each alone and all together; see README.md."""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from decimal import Decimal
from pathlib import Path

import msgspec

from llmops.gateway.access import Access, AccessConfig, pick_credential
from llmops.gateway.access.callers import CallerDatabase
from llmops.gateway.guard import Guard, GuardConfig
from llmops.gateway.money import Account, BudgetConfig, MoneyConfig, Outcome, Payer, Purchase, prompt_bound
from llmops.prices import Usage, price_book

BODY = json.dumps(
    {
        "model": "gpt-4o",
        "max_tokens": 256,
        "messages": [{"role": "user", "content": "Summarise the following report in three sentences, please. " * 5}],
    }
).encode()
ANSWER = json.dumps(
    {"choices": [{"message": {"role": "assistant", "content": "The report says that it is so. " * 12}}], "usage": {}}
).encode()
USAGE = Usage(120, 80, cache_read_tokens=64)
PAYER, BUY = Payer("acme", "search", "ci"), Purchase("gpt-4o", "openai", "gpt-4o")


def per_call_us(work: Callable[[int], object], calls: int, rounds: int) -> tuple[float, float]:
    """Median and minimum over rounds of the thread's CPU time a call."""
    figures = []
    for part in range(rounds):
        start = time.thread_time_ns()
        for n in range(part * calls, (part + 1) * calls):
            work(n)
        figures.append((time.thread_time_ns() - start) / calls / 1000)
    return statistics.median(figures), min(figures)


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--calls", type=int, default=4000)
    parser.add_argument("--rounds", type=int, default=9)
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        rows = measure(Path(scratch), given.calls, given.rounds)
    if given.json:
        json.dump({name: {"median_us": m, "min_us": low} for name, m, low in rows}, sys.stdout, indent=1)
        return
    unit = rows[0][1]
    for name, median, low in rows:
        print(f"{name:46} {median:7.2f} µs (best {low:6.2f}) {median / unit:6.1f}x")


def measure(directory: Path, calls: int, rounds: int) -> list[tuple[str, float, float]]:
    """(name, median, minimum) of each part, the yardstick first."""
    with CallerDatabase(directory / "callers.sqlite", create=True) as database:
        header = b"Bearer " + database.add("ci", tenant="acme", team="search").encode()
    access = Access(AccessConfig(callers=directory / "callers.sqlite"))
    budgets = (
        BudgetConfig(name="key", usd=Decimal(10**6), each=("key",)),
        BudgetConfig(name="tenant", usd=Decimal(10**6), each=("tenant",), period="day", time_zone="Asia/Tokyo"),
    )
    account = Account.open(
        MoneyConfig(directory=directory / "books", budgets=budgets, max_spool_mib=4096), price_book(), start=False
    )
    free = Account.open(MoneyConfig(directory=directory / "free", max_spool_mib=4096), price_book(), start=False)
    guard = Guard(GuardConfig(secrets_in="log", secrets_out="log", injection="log"))
    decode = msgspec.json.Decoder(dict[str, msgspec.Raw]).decode

    def identify(_n: int = 0) -> None:
        identity = access.check(pick_credential(header, None))
        assert identity is not None
        identity.require("chat")
        identity.require_model("gpt-4o")

    def money(books: Account, n: int, tag: str = "") -> None:
        held = books.reserve(f"{tag}{n:024d}", PAYER, BUY, prompt_bound(BODY), 256)
        books.settle(held, USAGE, Outcome(200, 12.0, 3.0))

    def guards(_n: int = 0) -> None:
        guard.request(BODY)
        guard.response(ANSWER)

    def everything(n: int) -> None:
        identify()
        guard.request(BODY)
        held = account.reserve(f"all{n:021d}", PAYER, BUY, prompt_bound(BODY), 256)
        guard.response(ANSWER)
        account.settle(held, USAGE, Outcome(200, 12.0, 3.0))

    parts: list[tuple[str, Callable[[int], object]]] = [
        ("yardstick: msgspec round trip of the request", lambda _n: msgspec.json.encode(decode(BODY))),
        ("key, scopes, model", identify),
        ("ledger: admission and row", lambda n: money(free, n)),
        ("ledger and two hard budgets", lambda n: money(account, n)),
        ("guards in log mode, both directions", guards),
        ("everything", everything),
    ]
    rows = []
    for name, work in parts:
        work(-1)
        rows.append((name, *per_call_us(work, calls, rounds)))
        for books in (account, free):
            books.ledger.flush()
    scanner = guard.stream()
    assert scanner is not None
    rows.append(("a stream's text delta, scanned", *per_call_us(lambda _n: scanner.feed(" token"), calls, rounds)))
    for n in range(calls):
        money(account, n, "flush")
    start = time.thread_time_ns()
    account.ledger.flush()
    flushed = (time.thread_time_ns() - start) / calls / 1000
    rows.append(("in the ledger's thread, a row", flushed, flushed))
    account.close()
    free.close()
    return rows


if __name__ == "__main__":
    main()
