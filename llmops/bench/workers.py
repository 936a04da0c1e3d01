"""A load plan sliced over processes: disjoint conversations of one schedule, one common start."""

from __future__ import annotations

import math
import os
import selectors
import signal
import sys
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Final

import msgspec

from llmops import process
from llmops.bench.drive import OnTick
from llmops.bench.plan import LoadFacts, LoadPlan
from llmops.errors import LlmopsError, OutsideError

STREAMS_PER_WORKER: Final = 512
EVENTS_PER_S_PER_WORKER: Final = 15_000  # a quarter of a core; beyond half of one, stamps begin to be late
_READY_TIMEOUT_S: Final = 60.0
_HEAD_START_NS: Final = 100_000_000


def worker_count(plan: LoadPlan, asked: int | None, service_s: float = 0.0) -> int:
    """How many processes carry the plan: one up to 512 streams and 15,000 tokens a second, never more than there are
    cores, users, or requests allowed at once.

    ``service_s`` is how long an answer took in the warm-up, 0 when there was none.
    """
    streams, events_per_s = _expected(plan, service_s)
    most = plan.concurrency or 1_000_000  # each process needs a share of the users, or of the cap
    if asked is not None:
        return max(1, min(asked, most))
    wanted = max(-(-streams // STREAMS_PER_WORKER), math.ceil(events_per_s / EVENTS_PER_S_PER_WORKER))
    return max(1, min(wanted, os.cpu_count() or 1, most))


def _expected(plan: LoadPlan, service_s: float) -> tuple[int, float]:
    """Streams at once and tokens a second, as far as the plan and the warm-up tell."""
    tokens = sum(plan.prompts.output_tokens) / 2
    if plan.due_ns is None:
        users = plan.concurrency or 1
        return users, users * tokens / service_s if service_s else 0.0
    span_s = max(1.0, (plan.due_ns[-1] - plan.due_ns[0]) / 1e9)
    rate = len(plan.due_ns) * plan.prompts.turns / span_s
    return min(plan.concurrency or 1_000_000, math.ceil(rate * service_s)), rate * tokens


def slices(plan: LoadPlan, count: int) -> list[LoadPlan]:
    """Cut a plan into ``count`` disjoint ones that together are the whole."""
    return [_slice(plan, place, count) for place in range(count)]


def _slice(plan: LoadPlan, place: int, count: int) -> LoadPlan:
    def share(total: int | None) -> int | None:
        return None if total is None else total // count + (place < total % count)

    return replace(
        plan,
        first=plan.first + place,
        step=count,
        due_ns=plan.due_ns[place::count] if plan.due_ns is not None else None,
        trace=plan.trace[place::count],
        requests=share(plan.requests),
        concurrency=share(plan.concurrency),
        preopen=share(plan.preopen) or 0,
    )


def drive_many(plans: Sequence[LoadPlan], spools: Sequence[Path], on_tick: OnTick | None) -> list[LoadFacts]:
    """Run each plan in a process of its own, all from the same instant.

    Raises:
        OutsideError: The server cannot be reached, or a worker died.
    """
    children = []
    directory = spools[0].parent
    go = directory / "go"
    go.unlink(missing_ok=True)
    try:
        for number, (plan, spool) in enumerate(zip(plans, spools, strict=True)):
            order = directory / f"worker-{number}.json"
            order.write_bytes(msgspec.json.encode({"plan": plan, "spool": str(spool), "go": str(go)}))
            argv = (sys.executable, "-m", "llmops.bench.worker", str(order))
            children.append(process.start(process.Command(argv, directory / f"worker-{number}.log"), pipe_stdout=True))
        _Crew(children, go, on_tick).run()
        return [msgspec.json.decode(spool.with_suffix(".facts").read_bytes(), type=LoadFacts) for spool in spools]
    finally:
        for child in children:
            child.__exit__(None, None, None)


class _Crew:
    """Reads what the workers say: ``ready``, then ``tick DONE FAILED FLYING``, then ``end``."""

    def __init__(self, children: Sequence[process.Child], go: Path, on_tick: OnTick | None) -> None:
        self._children = children
        self._go = go
        self._on_tick = on_tick
        self._ready = 0
        self._open = len(children)
        self._state = [(0, 0, 0)] * len(children)

    def run(self) -> None:
        before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
        try:
            for number in before:
                signal.signal(number, self._pass_on)
        except ValueError:  # not in the main thread
            before = {}
        try:
            self._listen()
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)

    def _pass_on(self, _signum: int, _frame: object) -> None:
        for child in self._children:
            child.interrupt()

    def _listen(self) -> None:
        deadline = time.monotonic() + _READY_TIMEOUT_S
        with selectors.DefaultSelector() as selector:
            for place, child in enumerate(self._children):
                selector.register(child.stdout, selectors.EVENT_READ, place)
            while self._open:
                for key, _ in selector.select(timeout=1.0):
                    line = self._children[key.data].stdout.readline()
                    if not line:
                        selector.unregister(key.fileobj)
                        self._open -= 1
                        self._check(self._children[key.data])
                    else:
                        self._hear(key.data, line.split())
                if self._ready < len(self._children) and time.monotonic() > deadline:
                    raise OutsideError("a bench worker did not become ready", "is the server accepting connections?")

    def _hear(self, place: int, words: list[str]) -> None:
        if words[0] == "ready":
            self._ready += 1
            if self._ready == len(self._children):
                partial = self._go.with_suffix(".partial")
                partial.write_text(str(time.monotonic_ns() + _HEAD_START_NS))
                partial.replace(self._go)
        elif words[0] == "failed":
            raise OutsideError(" ".join(words[1:]), "check the URL")
        elif words[0] == "tick" and self._on_tick is not None:
            done, failed, flying = (int(word) for word in words[1:])
            self._state[place] = (done, failed, flying)
            sums = [sum(column) for column in zip(*self._state, strict=True)]
            self._on_tick(LoadFacts(done=sums[0], failed=sums[1], in_flight=sums[2]))

    def _check(self, child: process.Child) -> None:
        code = child.wait(10)
        if code:
            last = process.tail(child.command.log, 1)
            raise LlmopsError(f"a bench worker ended with {code}: {last[0] if last else 'no output'}")
