"""One JSON line a request: who, what, where to, how long, how much. No bodies, no keys."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Final, Literal

import msgspec

from llmops.gateway.log_row import Row
from llmops.gateway.money.rates import dollars

if TYPE_CHECKING:
    from llmops.gateway.call import Call
    from llmops.gateway.metrics import Metrics

_log = logging.getLogger("llmops.gateway")
_FLUSH_S: Final = 1.0
# Rows that leave together, so that a busy second does not pile up; and those that may wait for a slow disk.
_BATCH: Final = 1000
_MOST: Final = 20_000
_encode_lines = msgspec.json.Encoder().encode_lines


class AccessLog:
    """Collects rows and writes them from a thread, so that no request waits for a disk.

    A disk that is full or slow costs lines, which are counted, and never memory or a request.
    """

    def __init__(self, to: Path | Literal["stderr"], metrics: Metrics) -> None:
        self._to = to
        self._metrics = metrics
        self._rows: list[Row] = []
        self._writing: asyncio.Future[None] | None = None
        self._task: asyncio.Task[None] | None = None
        self._silent_until = 0.0

    def add(self, call: Call, now_ns: int) -> None:
        """Take one row; text is made later."""
        usage, target, bill = call.usage or call.estimate, call.target, call.bill
        caller, ask = getattr(call, "caller", None), getattr(call, "ask", None)
        started = call.request.started_ns
        rows = self._rows
        rows.append(
            Row(
                time.time(),
                call.id,
                caller.name if caller is not None else None,
                call.request.surface.name,
                ask.model if ask is not None else None,
                target.name if target is not None else None,
                call.status,
                call.attempts,
                call.cache,
                (now_ns - started) / 1e6,
                (call.first_ns - started) / 1e6 if call.first_ns else None,
                usage.input_tokens if usage is not None else None,
                usage.output_tokens if usage is not None else None,
                call.cost or dollars(bill.pico) if bill is not None and bill.pico is not None else None,
                call.request.client,
            )
        )
        if len(rows) >= _BATCH:
            self._send()

    def start(self) -> None:
        """Begin to write, inside the running loop."""
        self._task = asyncio.get_running_loop().create_task(self._run())

    async def stop(self) -> None:
        """Write what is left."""
        if self._task is not None:
            self._task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._task
        while self._rows or self._writing is not None:
            self._send()
            if self._writing is not None:
                await asyncio.wait([self._writing])

    async def _run(self) -> None:
        while True:
            await asyncio.sleep(_FLUSH_S)
            self._send()

    def _send(self) -> None:
        """Hand the rows to a thread, one batch at a time; what a slow disk cannot take is lost."""
        if self._writing is not None:
            if len(self._rows) >= _MOST:
                self._lost(len(self._rows), "the disk is too slow")
                self._rows = []
            return
        rows, self._rows = self._rows, []
        if rows:
            loop = asyncio.get_running_loop()
            self._writing = loop.run_in_executor(None, self._write, rows)
            self._writing.add_done_callback(lambda done: self._written(done, len(rows)))

    def _written(self, done: asyncio.Future[None], count: int) -> None:
        self._writing = None
        if not done.cancelled() and (error := done.exception()) is not None:
            self._lost(count, getattr(error, "strerror", None) or type(error).__name__)

    def _lost(self, count: int, why: str) -> None:
        for _ in range(count):
            self._metrics.count("llm_log_lines_lost_total", "access")
        if time.monotonic() > self._silent_until:
            self._silent_until = time.monotonic() + 60
            _log.warning("lines of the access log are lost: %s", why)

    def _write(self, rows: list[Row]) -> None:
        lines = _encode_lines(rows)
        if self._to == "stderr":
            sys.stderr.write(lines.decode())
            sys.stderr.flush()
            return
        with self._to.open("ab") as file:
            file.write(lines)
