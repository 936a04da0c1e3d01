"""One worker process: ``python -m llmops.bench.worker ORDER.json``. Imports nothing but the measured path."""

from __future__ import annotations

import asyncio
import sys
from pathlib import Path

import msgspec

from llmops.bench.drive import LIVE_EVERY_S, run_on_uvloop, stopping_on_signals
from llmops.bench.load import Load
from llmops.bench.plan import LoadFacts, LoadPlan
from llmops.bench.spool import Spool
from llmops.http1 import TransferError


class Order(msgspec.Struct):
    """What to run, where to put it, and the file that says when to start."""

    plan: LoadPlan
    spool: str
    go: str


async def _work(order: Order) -> LoadFacts:
    spool = Spool(Path(order.spool))
    load = Load(order.plan, spool)
    ticker: asyncio.Task[None] | None = None
    try:
        with stopping_on_signals(load.stop):
            await load.prepare()
            _say("ready")
            start_ns = await _start(Path(order.go))
            ticker = asyncio.create_task(_tick(load.facts))
            return await load.run(start_ns)
    finally:
        if ticker is not None:
            ticker.cancel()
        await load.settle()
        spool.close()


async def _start(go: Path) -> int:
    # A file is the signal, because the guard of a child process leaves it no stdin; nothing is measured yet.
    while not go.exists():  # noqa: ASYNC110, ASYNC240
        await asyncio.sleep(0.005)
    return int(go.read_text())  # noqa: ASYNC240


async def _tick(facts: LoadFacts) -> None:
    while True:
        _say(f"tick {facts.done} {facts.failed} {facts.in_flight}")
        await asyncio.sleep(LIVE_EVERY_S)


def _say(line: str) -> None:
    sys.stdout.write(line + "\n")
    sys.stdout.flush()


def main() -> None:
    """Run the order; facts go beside the spool."""
    order = msgspec.json.decode(Path(sys.argv[1]).read_bytes(), type=Order)
    try:
        facts = run_on_uvloop(_work(order))
    except TransferError as error:
        _say(f"failed {error}")
        return
    facts.last = None
    Path(order.spool).with_suffix(".facts").write_bytes(msgspec.json.encode(facts))


if __name__ == "__main__":
    main()
