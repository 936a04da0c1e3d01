"""The measured path: sends requests on time and keeps what comes back, with its time. Nothing is parsed here."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import ssl
import sys
import time
from array import array
from collections import deque
from collections.abc import Coroutine, Iterator
from typing import Final

from llmops.bench.decode import decode_stream, decode_whole
from llmops.bench.plan import LoadFacts, LoadPlan
from llmops.bench.prompts import Prompts
from llmops.bench.spool import Record, Spool
from llmops.bench.timer import Timer
from llmops.bench.wire import Message
from llmops.http1 import Connection, Limits, Sweep, TransferError, connect, with_body

_NS: Final = 1_000_000_000
_LAG_TICK_NS: Final = 20_000_000
_HEAD_START_NS: Final = 20_000_000  # so that opening the run is over when the first request is due
_MAX_RETRIES: Final = 3
_READY_MAX: Final = 1024
_REFUSED_PAUSE_S: Final = 0.2
_MAX_ANSWER_BYTES: Final = 256 * 1024 * 1024


class _Stream:
    """One request under way; the receiver of its answer."""

    __slots__ = (
        "connection", "conversation", "due_ns", "load", "measured", "messages", "number", "output_tokens", "parts",
        "request", "retries", "sent_ns", "stamps", "start_ns", "status", "turn", "words",
    )  # fmt: skip

    def __init__(self, load: Load, conversation: int, turn: int) -> None:
        self.load = load
        self.conversation, self.turn = conversation, turn
        self.number = self.due_ns = self.start_ns = self.sent_ns = self.status = self.retries = 0
        self.words = self.output_tokens = 0
        self.measured = True
        self.stamps: array[int] = array("q")
        self.parts: list[bytes] = []
        self.messages: list[Message] = []
        self.request = b""
        self.connection: Connection | None = None

    def head(self, status: int, _headers: list[tuple[bytes, bytes]], _at_ns: int) -> None:
        self.status = status

    def body(self, data: bytes, at_ns: int) -> None:
        self.stamps.append(at_ns)
        self.parts.append(data)

    def end(self, at_ns: int) -> None:
        self.load.finished(self, at_ns, None)

    def fail(self, error: TransferError) -> None:
        self.load.finished(self, time.monotonic_ns(), error)


class Load:
    """Runs one plan in the running event loop."""

    def __init__(self, plan: LoadPlan, spool: Spool) -> None:
        self.plan = plan
        self.facts = LoadFacts()
        self._spool = spool
        self._prompts = Prompts(plan.prompts)
        self._origin, _ = plan.endpoint.target()
        self._head = plan.endpoint.head()
        self._loop = asyncio.get_running_loop()
        self._ssl = ssl.create_default_context() if self._origin.secure else None
        self._sweep = Sweep()
        self._idle: list[Connection] = []
        self._opening = 0
        self._flying: set[_Stream] = set()
        self._waiting: deque[_Stream] = deque()
        self._ready: deque[_Stream] = deque()
        self._tasks: set[asyncio.Task[None]] = set()
        self._timer: Timer | None = None
        self._lag_clock: Timer | None = None
        self._thinking = 0
        self._begun = 0  # conversations
        self._joined = 0  # users of a closed loop
        self._stopped = False
        self._over: asyncio.Future[None] = self._loop.create_future()

    # Life of a run

    async def prepare(self) -> None:
        """Open connections and make the first requests, before the clock.

        Raises:
            TransferError: The server cannot be reached.
        """
        for _ in range(min(self.plan.concurrency or 64, _READY_MAX)):
            self._prepare_one()
        if not self.plan.cold and self.plan.preopen:
            first = await self._open()
            self._idle.append(first)
            rest = await asyncio.gather(*(self._open() for _ in range(self.plan.preopen - 1)), return_exceptions=True)
            self._idle += [opened for opened in rest if isinstance(opened, Connection)]

    async def run(self, start_ns: int | None = None) -> LoadFacts:
        """Send everything, wait for every answer; returns what the client saw of itself."""
        with _quiet():
            self.facts.start_ns = start_ns or time.monotonic_ns() + _HEAD_START_NS
            self._measure_lag()
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
        await asyncio.gather(*self._tasks, return_exceptions=True)
        for _ in range(3):
            await asyncio.sleep(0)

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
        self._sweep.close()
        for task in self._tasks:
            task.cancel()
        for connection in self._idle:
            connection.close()

    # When to send

    def _on_timer(self) -> None:
        if self.plan.loop == "open":
            self._due()
        else:
            self._join()

    def _join(self) -> None:
        """Closed loop: one more user begins. One a turn of the loop, so that each send leaves before the next is made."""
        users = self.plan.concurrency or 1
        if self._joined >= users or self._stopped or not self._begin(time.monotonic_ns()):
            return
        self._joined += 1
        if self.plan.ramp_s and self._timer is not None:
            self._timer.at(self.facts.start_ns + round(self.plan.ramp_s * _NS * self._joined / users))
        else:
            self._loop.call_soon(self._join)

    def _due(self) -> None:
        """Open loop: send what is due, one a turn of the loop, then sleep until the next."""
        due = self.plan.due_ns
        assert due is not None
        if self._stopped or self._begun >= len(due):
            self._end_if_done()
            return
        at_ns = self.facts.start_ns + due[self._begun]
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
        if not self._ready:
            self._prepare_one()
        stream = self._ready.popleft()
        self._begun += 1
        self._admit(stream, due_ns)
        return True

    def _exhausted(self) -> bool:
        plan, elapsed_ns = self.plan, time.monotonic_ns() - self.facts.start_ns
        if self._stopped or (plan.due_ns is not None and self._begun >= len(plan.due_ns)):
            return True
        if plan.duration_s is not None and plan.loop == "closed" and elapsed_ns >= plan.duration_s * _NS:
            return True
        return plan.requests is not None and self.facts.sent >= plan.requests

    def _admit(self, stream: _Stream, due_ns: int) -> None:
        stream.due_ns = due_ns
        stream.measured = due_ns - self.facts.start_ns >= self.plan.ramp_s * _NS
        stream.number = self.facts.sent
        self.facts.sent += 1
        if self.plan.loop == "open" and self.plan.concurrency and len(self._flying) >= self.plan.concurrency:
            self._waiting.append(stream)
        else:
            self._launch(stream)

    # Sending

    def _launch(self, stream: _Stream) -> None:
        self._flying.add(stream)
        self.facts.in_flight_max = max(self.facts.in_flight_max, len(self._flying))
        while self._idle and not self.plan.cold:
            connection = self._idle.pop()
            if connection.reusable:
                self._keep_spare()
                self._send(stream, connection)
                return
        self._spawn(self._connect_and_send(stream))

    async def _connect_and_send(self, stream: _Stream) -> None:
        if self.plan.cold:
            stream.start_ns = time.monotonic_ns()
        try:
            connection = await self._open()
        except TransferError as error:
            self.finished(stream, time.monotonic_ns(), error)
            return
        if self._stopped:
            connection.abort()
            return
        self._send(stream, connection)

    def _send(self, stream: _Stream, connection: Connection) -> None:
        stream.connection = connection
        try:
            connection.send(stream.request, stream)
        except TransferError:  # it closed this very moment; nothing was sent
            self._spawn(self._connect_and_send(stream))
            return
        stream.sent_ns = connection.sent_ns
        if not stream.start_ns:
            stream.start_ns = stream.due_ns if self.plan.loop == "open" else connection.sent_ns
        if not stream.turn:
            self._loop.call_soon(self._prepare_one)

    async def _open(self) -> Connection:
        began = time.monotonic_ns()
        self._opening += 1
        try:
            connection = await connect(
                self._origin,
                ssl_context=self._ssl,
                timeout_s=self.plan.connect_timeout_s,
                limits=Limits(max_body_bytes=_MAX_ANSWER_BYTES),
            )
        finally:
            self._opening -= 1
        self.facts.connect_ns.append(time.monotonic_ns() - began)
        self._sweep.watch(connection, self.plan.timeouts)
        return connection

    def _keep_spare(self) -> None:
        """Open loop: open connections ahead of need, so that no request waits for one."""
        if self.plan.loop == "open" and len(self._idle) + self._opening < 2 + len(self._flying) // 8:
            self._spawn(self._open_spare())

    async def _open_spare(self) -> None:
        with contextlib.suppress(TransferError):
            self._idle.insert(0, await self._open())

    def _spawn(self, work: Coroutine[None, None, None]) -> None:
        task = self._loop.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    # Answers

    def finished(self, stream: _Stream, at_ns: int, error: TransferError | None) -> None:
        """An answer ended: keep it, free its connection, go on."""
        connection, stream.connection = stream.connection, None
        if stream not in self._flying:
            return
        if error is not None and error.safe_to_retry and stream.retries < _MAX_RETRIES and not self._stopped:
            stream.retries += 1
            self.facts.retries += 1
            if self.plan.loop == "closed":
                stream.start_ns = 0
            self._spawn(self._connect_and_send(stream))
            return
        self._flying.discard(stream)
        if connection is not None and connection.reusable:
            if self.plan.cold:
                connection.close()
            else:
                self._idle.append(connection)
        self._keep(stream, at_ns, error)
        self._go_on(stream, failed=error is not None or stream.status != 200)

    def _keep(self, stream: _Stream, at_ns: int, error: TransferError | None) -> None:
        facts = self.facts
        facts.done += 1
        facts.failed += error is not None or stream.status != 200
        start_ns = stream.start_ns or stream.due_ns
        record = Record(
            number=stream.number,
            conversation=stream.conversation,
            turn=stream.turn,
            due_ns=stream.due_ns if self.plan.loop == "open" else start_ns,
            start_ns=start_ns,
            sent_ns=stream.sent_ns,
            end_ns=at_ns,
            status=stream.status,
            error=error.kind if error else "",
            detail=str(error) if error else "",
            words=stream.words,
            asked_tokens=stream.output_tokens,
            measured=stream.measured,
            retries=stream.retries,
            stamps=stream.stamps.tobytes(),
            sizes=array("I", [len(part) for part in stream.parts]).tobytes(),
            body=b"".join(stream.parts),
        )
        facts.last = record
        self._spool.add(record)

    def _begin_now(self) -> None:
        self._begin(time.monotonic_ns())

    def _go_on(self, stream: _Stream, *, failed: bool) -> None:
        refused = failed and not stream.sent_ns
        if self._stopped:
            return
        following = None if failed else self._following(stream)
        if following is not None:
            self._thinking += 1
            self._loop.call_later(self.plan.think_s, self._after_thinking, following)
        if self._waiting and len(self._flying) < (self.plan.concurrency or 0):
            self._launch(self._waiting.popleft())
        elif self.plan.loop == "closed" and following is None:
            # A server that is gone refuses at once; asking it again at once would only count refusals.
            self._loop.call_later(_REFUSED_PAUSE_S, self._begin_now) if refused else self._begin_now()
        self._end_if_done()

    def _after_thinking(self, stream: _Stream) -> None:
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

    # Requests

    def _prepare_one(self) -> None:
        """Make the next conversation's request ahead of its time."""
        index = self._begun + len(self._ready)
        limit = len(self.plan.due_ns) if self.plan.due_ns is not None else self.plan.requests
        if len(self._ready) >= _READY_MAX or (limit is not None and index >= limit):
            return
        conversation = self.plan.first + index * self.plan.step
        stream = _Stream(self, conversation, 0)
        row = self.plan.trace[index] if self.plan.trace else None
        turn = self._prompts.turn(conversation, shrink=self.plan.shrink if index % 2 else 1.0, row=row)
        stream.words, stream.output_tokens = turn.words, turn.output_tokens
        stream.messages = self._prompts.first_messages(turn)
        stream.request = with_body(self._head, self.plan.endpoint.body(stream.messages, turn.output_tokens))
        self._ready.append(stream)

    def _following(self, stream: _Stream) -> _Stream | None:
        """The next request of the same conversation, which quotes the answer; None when the conversation is over."""
        if stream.turn + 1 >= self._prompts.turns_of(stream.conversation):
            return None
        endpoint = self.plan.endpoint
        if endpoint.stream:
            answer = decode_stream(endpoint.api, stream.parts, stream.stamps, keep_text=True)
        else:
            answer = decode_whole(endpoint.api, b"".join(stream.parts), 0)
        if answer.error is not None:
            return None
        following = _Stream(self, stream.conversation, stream.turn + 1)
        turn = self._prompts.turn(stream.conversation, following.turn)
        following.words, following.output_tokens = 0, turn.output_tokens
        following.messages = [
            *stream.messages,
            {"role": "assistant", "content": answer.text},
            {"role": "user", "content": turn.text},
        ]
        following.request = with_body(self._head, endpoint.body(following.messages, turn.output_tokens))
        return following

    def _measure_lag(self) -> None:
        """How late the loop runs its timers: what a stamp can be late by."""
        due = time.monotonic_ns() + _LAG_TICK_NS

        def tick() -> None:
            nonlocal due
            now = time.monotonic_ns()
            self.facts.lag_ns.append(now - due)
            self.facts.in_flight = len(self._flying)
            due = now + _LAG_TICK_NS
            clock.at(due)

        clock = self._lag_clock = Timer(tick)
        clock.at(due)


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """No garbage collection, and no other thread (the one that draws progress) keeps the interpreter for long."""
    interval = sys.getswitchinterval()
    sys.setswitchinterval(0.0005)
    gc.collect()
    gc.freeze()
    gc.disable()
    try:
        yield
    finally:
        gc.enable()
        gc.unfreeze()
        sys.setswitchinterval(interval)
