"""Runs a load plan: in this process, or sliced over several."""

from __future__ import annotations

import asyncio
import contextlib
import signal
from collections.abc import Callable, Coroutine, Iterator
from pathlib import Path
from typing import Any, Final

from llmops.bench.load import Load
from llmops.bench.plan import LoadFacts, LoadPlan
from llmops.bench.spool import Spool
from llmops.errors import OutsideError
from llmops.http1 import TransferError

LIVE_EVERY_S: Final = 0.5
OnTick = Callable[[LoadFacts], None]


def drive(plan: LoadPlan, spool: Path, on_tick: OnTick | None = None) -> LoadFacts:
    """Run ``plan`` in this process to its end, or to the first Ctrl-C, which keeps what was measured.

    Raises:
        OutsideError: The server cannot be reached at the beginning.
    """
    return run_on_uvloop(_drive(plan, spool, on_tick))


def run_on_uvloop(work: Coroutine[Any, Any, LoadFacts]) -> LoadFacts:
    """Run a coroutine on uvloop where there is one."""
    try:
        import uvloop
    except ImportError:  # not packaged for every platform
        factory = None
    else:
        factory = uvloop.new_event_loop
    with asyncio.Runner(loop_factory=factory) as runner:
        return runner.run(work)


async def _drive(plan: LoadPlan, spool_path: Path, on_tick: OnTick | None) -> LoadFacts:
    spool = Spool(spool_path)
    load = Load(plan, spool)
    ticker: asyncio.Task[None] | None = None
    try:
        with stopping_on_signals(load.stop):
            try:
                await load.prepare()
            except TransferError as error:
                raise unreachable(error) from error
            if on_tick is not None:
                ticker = asyncio.create_task(_tick(load.facts, on_tick))
            return await load.run()
    finally:
        if ticker is not None:
            ticker.cancel()
        await load.settle()
        spool.close()


async def _tick(facts: LoadFacts, on_tick: OnTick) -> None:
    while True:
        on_tick(facts)
        await asyncio.sleep(LIVE_EVERY_S)


def unreachable(error: TransferError) -> OutsideError:
    """The server cannot be reached, with what to do."""
    hints: dict[str, str] = {
        "refused": "is the server up, and is the port right? llmops serve starts one",
        "dns": "check the host name",
        "tls": "check the certificate; SSL_CERT_FILE names a file with a CA of your own",
        "connect-timeout": "check the address and the firewall",
    }
    return OutsideError(str(error), hints.get(error.kind, "check the URL"))


@contextlib.contextmanager
def stopping_on_signals(stop: Callable[[int], None]) -> Iterator[None]:
    """SIGINT and SIGTERM call ``stop`` inside the loop; a second one acts as it did before."""
    loop = asyncio.get_running_loop()
    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}

    def first(number: int) -> None:
        restore()
        stop(number)

    def restore() -> None:
        for number, handler in before.items():
            loop.remove_signal_handler(number)
            signal.signal(number, handler)

    try:
        for number in before:
            loop.add_signal_handler(number, first, number)
    except (ValueError, RuntimeError):  # not in the main thread: whoever is there handles signals
        yield
        return
    try:
        yield
    finally:
        restore()
