"""One JSON line a request: who, what, where to, how long, how much. No bodies, no keys."""

from __future__ import annotations

import asyncio
import contextlib
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import msgspec

if TYPE_CHECKING:
    from llmops.gateway.call import Call

_FLUSH_S = 1.0


class AccessLog:
    """Collects rows and writes them once a second from a thread, so that no request waits for a disk."""

    def __init__(self, to: Path | Literal["stderr"]) -> None:
        self._to = to
        self._rows: list[tuple[object, ...]] = []
        self._task: asyncio.Task[None] | None = None

    def add(self, call: Call, now_ns: int) -> None:
        """Take one row; text is made later."""
        usage = call.usage or call.estimate
        self._rows.append(
            (
                time.time(),
                call.id,
                getattr(getattr(call, "caller", None), "name", None),
                call.request.surface.name,
                getattr(getattr(call, "ask", None), "model", None),
                call.target.name if call.target else None,
                call.status,
                call.attempts,
                call.cache,
                (now_ns - call.request.started_ns) / 1e6,
                (call.first_ns - call.request.started_ns) / 1e6 if call.first_ns else None,
                usage.input_tokens if usage else None,
                usage.output_tokens if usage else None,
                call.charge.amount_usd if call.charge else None,
                call.request.client,
            )
        )

    def start(self) -> None:
        """Begin to write, inside the running loop."""
        self._task = asyncio.get_running_loop().create_task(self._run())

    async def stop(self) -> None:
        """Write what is left."""
        if self._task is not None:
            self._task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._task
        await self._flush()

    async def _run(self) -> None:
        while True:
            await asyncio.sleep(_FLUSH_S)
            await self._flush()

    async def _flush(self) -> None:
        rows, self._rows = self._rows, []
        if rows:
            await asyncio.get_running_loop().run_in_executor(None, self._write, rows)

    def _write(self, rows: list[tuple[object, ...]]) -> None:
        lines = b"".join(msgspec.json.encode(dict(zip(_NAMES, row, strict=True))) + b"\n" for row in rows)
        if self._to == "stderr":
            sys.stderr.write(lines.decode())
            sys.stderr.flush()
            return
        with self._to.open("ab") as file:
            file.write(lines)


_NAMES = (
    "time", "id", "key", "surface", "model", "target", "status", "attempts", "cache", "ms", "ttft_ms", "input_tokens",
    "output_tokens", "cost_usd", "client",
)  # fmt: skip
