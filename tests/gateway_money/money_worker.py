"""A gateway worker reduced to its books: admits, asks a fake provider that bills, settles. Run as a program and killed.

argv: directory, provider port, requests, usd of the hard budget, threads of load
"""

import random
import socket
import sys
import threading
from decimal import Decimal
from pathlib import Path

from llmops.gateway.money import Account, BudgetConfig, BudgetExceeded, MoneyConfig, Outcome, Payer, Purchase
from llmops.prices import Override, PriceBook, PriceSheet, Rate, Usage

# 10 $ per million in, 30 $ per million out: a request of at most 1,000 in and 1,000 out is bounded by 0.04 $.
BOOK = PriceBook((Override("m*", PriceSheet(Rate(Decimal(10)), Rate(Decimal(30)), "test", None)),))
INPUT, OUTPUT = 1000, 1000


def config(directory, usd, **changes):
    budgets = (BudgetConfig(name="site", usd=Decimal(usd), period="month"),)
    return MoneyConfig(directory=directory, budgets=budgets, flush_s=0.05, spool_mib=0.05, **changes)


def one(account, lock, port, request_id, rng):
    payer, purchase = Payer("acme", "", f"key-{rng.randrange(3)}"), Purchase("m-1", None, "m-1")
    with lock:  # the event loop of a worker is one thread
        try:
            held = account.reserve(request_id, payer, purchase, INPUT, OUTPUT)
        except BudgetExceeded:
            return False
    used = (rng.randrange(1, INPUT + 1), rng.randrange(0, OUTPUT + 1))
    with socket.create_connection(("127.0.0.1", port)) as link:
        link.sendall(f"{request_id} {used[0]} {used[1]}\n".encode())
        billed = link.recv(16) == b"billed\n"
    with lock:
        if billed:
            account.settle(held, Usage(input_tokens=used[0], output_tokens=used[1]), Outcome(200, 1.0))
        else:
            account.release(held, Outcome(503))
    return True


def main():
    directory, port, requests, usd, threads = sys.argv[1:]
    account = Account.open(config(Path(directory), usd), BOOK)
    lock, rng, counts = threading.Lock(), random.Random(), {True: 0, False: 0}
    print("ready", flush=True)
    sys.stdin.readline()

    def load():
        for _ in range(int(requests)):
            counts[one(account, lock, int(port), f"{rng.getrandbits(96):024x}", rng)] += 1

    loaders = [threading.Thread(target=load) for _ in range(int(threads))]
    for each in loaders:
        each.start()
    for each in loaders:
        each.join()
    account.close()
    print(counts[True], counts[False], flush=True)


if __name__ == "__main__":
    main()
