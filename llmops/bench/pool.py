"""The connections of one load: opened before the clock where they can be, and ahead of need in an open loop."""

from __future__ import annotations

import asyncio
import contextlib
import ssl
import time
from collections.abc import Coroutine
from typing import Final

from llmops.bench.plan import LoadFacts, LoadPlan
from llmops.http1 import Connection, Limits, Sweep, TransferError, connect

_MAX_ANSWER_BYTES: Final = 256 * 1024 * 1024


class Pool:
    """Connections to the endpoint of a plan. How long each took to open goes into ``facts.connect_ns``."""

    def __init__(self, plan: LoadPlan, facts: LoadFacts) -> None:
        self._plan, self._facts = plan, facts
        self._origin, _ = plan.endpoint.target()
        self._ssl = ssl.create_default_context() if self._origin.secure else None
        self._sweep = Sweep()
        self._idle: list[Connection] = []
        self._opening = 0
        self._tasks: set[asyncio.Task[None]] = set()

    async def fill(self, count: int) -> None:
        """Open ``count`` connections; the first one must succeed.

        Raises:
            TransferError: The server cannot be reached.
        """
        self._idle.append(await self.open())
        rest = await asyncio.gather(*(self.open() for _ in range(count - 1)), return_exceptions=True)
        self._idle += [opened for opened in rest if isinstance(opened, Connection)]

    async def open(self) -> Connection:
        """A new connection, its timeouts watched.

        Raises:
            TransferError: It cannot be opened.
        """
        began = time.monotonic_ns()
        self._opening += 1
        try:
            connection = await connect(
                self._origin,
                ssl_context=self._ssl,
                timeout_s=self._plan.connect_timeout_s,
                limits=Limits(max_body_bytes=_MAX_ANSWER_BYTES),
            )
        finally:
            self._opening -= 1
        self._facts.connect_ns.append(time.monotonic_ns() - began)
        self._sweep.watch(connection, self._plan.timeouts)
        return connection

    def take(self) -> Connection | None:
        """An open idle connection, None when there is none."""
        while self._idle:
            connection = self._idle.pop()
            if connection.reusable:
                return connection
        return None

    def give(self, connection: Connection) -> None:
        """Back from a request: kept, or closed where each request shall connect anew."""
        if self._plan.cold:
            connection.close()
        else:
            self._idle.append(connection)

    def keep_spare(self, flying: int) -> None:
        """Open loop: open connections ahead of need, so that no request waits for one."""
        if self._plan.loop == "open" and len(self._idle) + self._opening < 2 + flying // 8:
            self.spawn(self._open_spare())

    async def _open_spare(self) -> None:
        with contextlib.suppress(TransferError):
            self._idle.insert(0, await self.open())

    def spawn(self, work: Coroutine[None, None, None]) -> None:
        """Run ``work`` in the background, until the pool is closed at the latest."""
        task = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    def close(self) -> None:
        """Close what is idle and end what is opening."""
        self._sweep.close()
        for task in self._tasks:
            task.cancel()
        for connection in self._idle:
            connection.close()

    async def settle(self) -> None:
        """Let the transports see their end before the loop goes."""
        await asyncio.gather(*self._tasks, return_exceptions=True)
        for _ in range(3):
            await asyncio.sleep(0)
