"""Connections to one upstream: a LIFO keep-alive pool over ``http1``.

A request is sent again only when a *reused* connection closed before any byte of its answer, which is the ordinary race of
a keep-alive connection that the server let go. Everything else is the caller's decision (``resilience.py``).
"""

from __future__ import annotations

import asyncio
import ssl
import time
from collections import deque
from dataclasses import dataclass, field
from typing import Final

from llmops.gateway.exchange import Exchange
from llmops.gateway.tls import session_context
from llmops.http1 import Connection, Limits, Origin, Sweep, Timeouts, TransferError, connect

_NS: Final = 1_000_000_000


class PoolFullError(Exception):
    """Every connection is busy and the queue before them is full."""


@dataclass(frozen=True)
class PoolOptions:
    """How a pool behaves. Seconds; ``max_age_s`` bounds how long a name lookup is trusted."""

    max_connections: int = 256
    max_waiting: int = 1024
    connect_s: float = 5.0
    keepalive_s: float = 50.0
    max_age_s: float = 300.0
    timeouts: Timeouts = field(default_factory=lambda: Timeouts(first_byte_s=600.0, idle_s=120.0))
    limits: Limits = field(default_factory=lambda: Limits(max_body_bytes=256 * 1024 * 1024))


class Pool:
    """The connections to one origin. Everything is called from the loop's own thread; there are no locks."""

    def __init__(
        self, origin: Origin, options: PoolOptions | None = None, *, tls: ssl.SSLContext | None = None
    ) -> None:
        self.origin = origin
        self.options = options or PoolOptions()
        self.loop = asyncio.get_running_loop()
        self.busy: set[Exchange] = set()
        self._max_age_ns = int(self.options.max_age_s * _NS)
        self.open = 0
        self.opened_total = 0
        self.resent_total = 0
        self._idle: list[tuple[Connection, int]] = []  # the one used last is at the end, and taken first
        self._born: dict[Connection, int] = {}
        self._waiting: deque[asyncio.Future[Connection | None]] = deque()
        self._tasks: set[asyncio.Task[None]] = set()
        self._sweep = Sweep()
        self._tls = tls if tls is not None else (session_context() if origin.secure else None)
        self._closed = False
        self._timer = self.loop.call_later(0.25, self._tick)

    @property
    def waiting(self) -> int:
        """Requests in the queue for a connection."""
        return len(self._waiting)

    async def send(self, head: bytes, body: bytes, deadline_ns: int = 0) -> Exchange:
        """Send a request; returns as soon as it is written, before any answer.

        Args:
            head: From ``http1.request_head``.
            body: Its length is set here.
            deadline_ns: Monotonic time at which the exchange fails as ``total-timeout``; 0 for never.

        Raises:
            TransferError: No connection could be opened; nothing was sent.
            PoolFullError: The queue is full.
        """
        exchange = Exchange(self, b"%bcontent-length: %d\r\n\r\n%b" % (head, len(body), body), deadline_ns)
        self.busy.add(exchange)
        try:
            await self._begin(exchange)
        except BaseException:
            self.busy.discard(exchange)
            raise
        return exchange

    def send_now(self, head: bytes, body: bytes, deadline_ns: int = 0) -> Exchange | None:
        """As ``send`` where a connection is idle, without waiting; None where none is."""
        connection = self._take_idle()
        if connection is None:
            return None
        exchange = Exchange(self, b"%bcontent-length: %d\r\n\r\n%b" % (head, len(body), body), deadline_ns)
        try:
            exchange.begin(connection)
        except TransferError:
            return None  # it closed just now, and nothing was sent
        self.busy.add(exchange)
        return exchange

    def resend(self, exchange: Exchange) -> None:
        """Send again on a fresh connection; what was idle beside the dead one is as old, so it goes too."""
        self.resent_total += 1
        for connection, _ in self._idle:
            connection.close()
        self._idle.clear()
        task = self.loop.create_task(self._resend(exchange))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    def release(self, connection: Connection) -> None:
        """A connection finished its exchange: to the longest waiter, else to the idle ones."""
        if not connection.reusable or self._too_old(connection):
            connection.close()
            return
        if self._waiting:
            waiter = self._next_waiter()
            if waiter is not None:
                waiter.set_result(connection)
                return
        self._idle.append((connection, time.monotonic_ns()))

    def close(self) -> None:
        """Take no more requests, close idle connections; busy ones finish."""
        self._closed = True
        for connection, _ in self._idle:
            connection.close()
        self._idle.clear()
        if not self.busy:
            self._stop()

    def kill(self) -> None:
        """Drop everything at once."""
        for exchange in list(self.busy):
            exchange.abort()
        self.close()
        for task in self._tasks:
            task.cancel()
        self._stop()

    # The rest

    async def _begin(self, exchange: Exchange, *, fresh: bool = False) -> None:
        while True:
            connection = None if fresh else self._take_idle()
            if connection is None:
                connection = await self._open_or_wait(exchange)
            try:
                exchange.begin(connection)
            except TransferError:
                if connection.served == 0:
                    raise
                continue
            return

    async def _resend(self, exchange: Exchange) -> None:
        try:
            await self._begin(exchange, fresh=True)
        except TransferError as error:
            error.safe_to_retry = False
            exchange.fail(error)
        except PoolFullError:
            exchange.fail(TransferError("unreachable", "no connection is free"))

    def _take_idle(self) -> Connection | None:
        while self._idle:
            connection, _ = self._idle.pop()
            if connection.reusable:
                if not self._too_old(connection):
                    return connection
                connection.close()
        return None

    async def _open_or_wait(self, exchange: Exchange) -> Connection:
        while self.open >= self.options.max_connections:
            if len(self._waiting) >= self.options.max_waiting:
                raise PoolFullError
            waiter: asyncio.Future[Connection | None] = self.loop.create_future()
            self._waiting.append(waiter)
            try:
                async with asyncio.timeout(self._left_s(exchange)):
                    connection = await waiter
            except TimeoutError:
                raise TransferError("total-timeout", "no connection became free in time") from None
            except asyncio.CancelledError:
                if waiter.done() and not waiter.cancelled() and (handed := waiter.result()) is not None:
                    self.release(handed)
                raise
            if connection is not None and connection.reusable:
                return connection
        return await self._open(exchange)

    def _left_s(self, exchange: Exchange) -> float | None:
        return max(0.0, (exchange.deadline_ns - time.monotonic_ns()) / _NS) if exchange.deadline_ns else None

    async def _open(self, exchange: Exchange) -> Connection:
        self.open += 1
        left = self._left_s(exchange)
        limit = self.options.connect_s if left is None else min(left, self.options.connect_s)
        try:
            connection = await connect(self.origin, ssl_context=self._tls, timeout_s=limit, limits=self.options.limits)
        except BaseException:
            self._one_less()
            raise
        self.opened_total += 1
        self._born[connection] = time.monotonic_ns()
        connection.on_close = self._gone
        self._sweep.watch(connection, self.options.timeouts)
        if connection.closed:  # it closed before there was anyone to tell
            self._gone(connection)
        return connection

    def _gone(self, connection: Connection) -> None:
        if self._born.pop(connection, None) is not None:
            self._one_less()

    def _one_less(self) -> None:
        self.open -= 1
        waiter = self._next_waiter()
        if waiter is not None:
            waiter.set_result(None)  # there is room to open one

    def _next_waiter(self) -> asyncio.Future[Connection | None] | None:
        while self._waiting:
            waiter = self._waiting.popleft()
            if not waiter.done():
                return waiter
        return None

    def _too_old(self, connection: Connection) -> bool:
        return time.monotonic_ns() - self._born.get(connection, 0) > self._max_age_ns

    def _tick(self) -> None:
        now = time.monotonic_ns()
        for exchange in [each for each in self.busy if 0 < each.deadline_ns < now]:
            error = TransferError("total-timeout", "the request's deadline passed")
            if exchange.connection is not None:
                exchange.connection.fail(error)
        oldest = now - int(self.options.keepalive_s * _NS)
        while self._idle and (self._idle[0][1] < oldest or self._idle[0][0].closed):
            self._idle.pop(0)[0].close()
        if self._closed and not self.busy:
            self._stop()
        else:
            self._timer = self.loop.call_later(0.25, self._tick)

    def _stop(self) -> None:
        self._timer.cancel()
        self._sweep.close()
