"""The measured path: sends requests on time, one user or one schedule after the other. Nothing is parsed here."""

from __future__ import annotations

import asyncio
import time
from collections import deque
from typing import Final

from llmops.bench.making import READY_MAX, Maker
from llmops.bench.plan import LoadFacts, LoadPlan
from llmops.bench.pool import Pool
from llmops.bench.quiet import LagClock, quiet
from llmops.bench.spool import Spool
from llmops.bench.stream import Stream
from llmops.bench.timer import Timer
from llmops.http1 import Connection, TransferError

_NS: Final = 1_000_000_000
_HEAD_START_NS: Final = 20_000_000  # so that opening the run is over when the first request is due
_MAX_RETRIES: Final = 3
_REFUSED_PAUSE_S: Final = 0.2


class Load:
    """Runs one plan in the running event loop."""

    def __init__(self, plan: LoadPlan, spool: Spool) -> None:
        self.plan = plan
        self.facts = LoadFacts()
        self._spool = spool
        self._loop = asyncio.get_running_loop()
        self._maker = Maker(plan, self.finished)
        self._pool = Pool(plan, self.facts)
        self._flying: set[Stream] = set()
        self._waiting: deque[Stream] = deque()
        self._timer: Timer | None = None
        self._lag_clock: LagClock | None = None
        self._thinking = 0
        self._stopped = False
        self._over: asyncio.Future[None] = self._loop.create_future()

    # Life of a run

    async def prepare(self) -> None:
        """Open connections and make the first requests, before the clock.

        Raises:
            TransferError: The server cannot be reached.
        """
        for _ in range(min(self.plan.concurrency or 64, READY_MAX)):
            self._maker.prepare()
        if not self.plan.cold and self.plan.preopen:
            await self._pool.fill(self.plan.preopen)

    async def run(self, start_ns: int | None = None) -> LoadFacts:
        """Send everything, wait for every answer; returns what the client saw of itself."""
        with quiet():
            self.facts.start_ns = start_ns or time.monotonic_ns() + _HEAD_START_NS
            self._lag_clock = LagClock(self.facts.lag_ns, self._note_flying)
            cpu = time.process_time()
            self._timer = Timer(self._on_timer)
            self._timer.at(self.facts.start_ns)
            try:
                await self._over
            finally:
                self.facts.cpu_s = time.process_time() - cpu
                self.facts.end_ns = time.monotonic_ns()
                self._close()
        return self.facts

    async def settle(self) -> None:
        """Let the transports see their end before the loop goes."""
        self._close()
        await self._pool.settle()

    def _note_flying(self) -> None:
        self.facts.in_flight = len(self._flying)

    def stop(self, signum: int) -> None:
        """End now: nothing more is sent, what is under way is dropped and counts as aborted."""
        self._stopped = True
        self.facts.interrupted = signum
        for stream in list(self._flying):
            if stream.connection is not None:
                stream.connection.abort()
        self.facts.aborted += len(self._flying) + len(self._waiting)
        self._flying.clear()
        self._waiting.clear()
        self._thinking = 0
        self._end()

    def _close(self) -> None:
        for clock in (self._timer, self._lag_clock):
            if clock is not None:
                clock.close()
        self._pool.close()

    # When to send

    def _on_timer(self) -> None:
        if self.plan.loop == "open":
            self._due()
        else:
            self._join()

    def _join(self) -> None:
        """Closed loop: one more user begins. One a turn of the loop, so that each send leaves before the next is made."""
        users = self.plan.concurrency or 1
        if self.facts.users >= users or self._stopped or not self._begin(time.monotonic_ns()):
            return
        self.facts.users += 1
        if self.plan.ramp_s and self._timer is not None:
            self._timer.at(self.facts.start_ns + round(self.plan.ramp_s * _NS * self.facts.users / users))
        else:
            self._loop.call_soon(self._join)

    def _due(self) -> None:
        """Open loop: send what is due, one a turn of the loop, then sleep until the next."""
        due = self.plan.due_ns
        assert due is not None
        if self._stopped or self._maker.begun >= len(due):
            self._end_if_done()
            return
        at_ns = self.facts.start_ns + due[self._maker.begun]
        if at_ns > time.monotonic_ns():
            assert self._timer is not None
            self._timer.at(at_ns)
            return
        self._begin(at_ns)
        self._loop.call_soon(self._due)

    def _begin(self, due_ns: int) -> bool:
        """A new conversation; False when there is nothing more to begin."""
        if self._exhausted():
            self._end_if_done()
            return False
        self._admit(self._maker.next(), due_ns)
        return True

    def _exhausted(self) -> bool:
        plan, elapsed_ns = self.plan, time.monotonic_ns() - self.facts.start_ns
        if self._stopped or (plan.due_ns is not None and self._maker.begun >= len(plan.due_ns)):
            return True
        if plan.duration_s is not None and plan.loop == "closed" and elapsed_ns >= plan.duration_s * _NS:
            return True
        return plan.requests is not None and self.facts.sent >= plan.requests

    def _admit(self, stream: Stream, due_ns: int) -> None:
        stream.due_ns = due_ns
        stream.measured = due_ns - self.facts.start_ns >= self.plan.ramp_s * _NS
        stream.number = self.facts.sent
        self.facts.sent += 1
        if self.plan.loop == "open" and self.plan.concurrency and len(self._flying) >= self.plan.concurrency:
            self._waiting.append(stream)
        else:
            self._launch(stream)

    # Sending

    def _launch(self, stream: Stream) -> None:
        self._flying.add(stream)
        self.facts.in_flight_max = max(self.facts.in_flight_max, len(self._flying))
        connection = None if self.plan.cold else self._pool.take()
        if connection is None:
            self._pool.spawn(self._connect_and_send(stream))
        else:
            self._pool.keep_spare(len(self._flying))
            self._send(stream, connection)

    async def _connect_and_send(self, stream: Stream) -> None:
        if self.plan.cold and self.plan.loop == "closed":
            stream.start_ns = time.monotonic_ns()
        try:
            connection = await self._pool.open()
        except TransferError as error:
            self.finished(stream, time.monotonic_ns(), error)
            return
        if self._stopped:
            connection.abort()
            return
        self._send(stream, connection)

    def _send(self, stream: Stream, connection: Connection) -> None:
        stream.connection = connection
        try:
            connection.send(stream.request, stream)
        except TransferError:  # it closed this very moment; nothing was sent
            self._pool.spawn(self._connect_and_send(stream))
            return
        stream.sent_ns = connection.sent_ns
        if not stream.start_ns:
            stream.start_ns = stream.due_ns if self.plan.loop == "open" else connection.sent_ns
        if not stream.turn:
            self._loop.call_soon(self._maker.prepare)

    # Answers

    def finished(self, stream: Stream, at_ns: int, error: TransferError | None) -> None:
        """An answer ended: keep it, free its connection, go on."""
        connection, stream.connection = stream.connection, None
        if stream not in self._flying:
            return
        if error is not None and error.safe_to_retry and stream.retries < _MAX_RETRIES and not self._stopped:
            stream.retries += 1
            self.facts.retries += 1
            if self.plan.loop == "closed":
                stream.start_ns = 0
            self._pool.spawn(self._connect_and_send(stream))
            return
        self._flying.discard(stream)
        if connection is not None and connection.reusable:
            self._pool.give(connection)
        self._keep(stream, at_ns, error)
        self._go_on(stream, failed=error is not None or stream.status != 200)

    def _keep(self, stream: Stream, at_ns: int, error: TransferError | None) -> None:
        facts = self.facts
        facts.done += 1
        facts.failed += error is not None or stream.status != 200
        record = stream.record(at_ns, error, open_loop=self.plan.loop == "open")
        facts.last = record
        self._spool.add(record)

    def _begin_now(self) -> None:
        self._begin(time.monotonic_ns())

    def _go_on(self, stream: Stream, *, failed: bool) -> None:
        refused = failed and not stream.sent_ns
        if self._stopped:
            return
        following = None if failed else self._maker.following(stream)
        if following is not None:
            self._thinking += 1
            self._loop.call_later(self.plan.think_s, self._after_thinking, following)
        if self._waiting and len(self._flying) < (self.plan.concurrency or 0):
            self._launch(self._waiting.popleft())
        elif self.plan.loop == "closed" and following is None:
            # A server that is gone refuses at once; asking it again at once would only count refusals.
            self._loop.call_later(_REFUSED_PAUSE_S, self._begin_now) if refused else self._begin_now()
        self._end_if_done()

    def _after_thinking(self, stream: Stream) -> None:
        if self._stopped:
            return
        self._thinking -= 1
        plan = self.plan
        over = plan.requests is not None and self.facts.sent >= plan.requests
        late = plan.duration_s is not None and time.monotonic_ns() - self.facts.start_ns >= plan.duration_s * _NS
        if over or late:
            self._end_if_done()
        else:
            self._admit(stream, time.monotonic_ns())

    def _end_if_done(self) -> None:
        nothing = not (self._flying or self._waiting or self._thinking)
        if nothing and self._exhausted():
            self._end()

    def _end(self) -> None:
        if not self._over.done():
            self._over.set_result(None)
