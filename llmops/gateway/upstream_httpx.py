"""The slow road for forward proxies and HTTP/2: the pool's interface over httpx."""

from __future__ import annotations

import asyncio
import time
from typing import TYPE_CHECKING

from llmops.gateway.exchange import Exchange
from llmops.gateway.tls import session_context
from llmops.gateway.upstream import Pool, PoolOptions
from llmops.http1 import Origin, TransferError, TransferKind

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path


class _IdleError(Exception):
    """An answer stalled."""


class TaskExchange(Exchange):
    """An exchange whose answer is read by a task: pausing stops the task before its next read."""

    def __init__(self, pool: Pool, deadline_ns: int) -> None:
        super().__init__(pool, b"", deadline_ns)
        self.flowing = asyncio.Event()
        self.flowing.set()

    def pause(self) -> None:
        """See ``Exchange``."""
        self.flowing.clear()

    def resume(self) -> None:
        """See ``Exchange``."""
        self.flowing.set()


class HttpxPool(Pool):
    """Sends through an ``httpx.AsyncClient``, which reads the proxy variables."""

    def __init__(self, origin: Origin, options: PoolOptions, *, http2: bool, ca_file: Path | None) -> None:
        super().__init__(origin, options, tls=None)
        import httpx

        times = options.timeouts
        self._client = httpx.AsyncClient(
            http2=http2,
            verify=session_context(str(ca_file) if ca_file else None),
            timeout=httpx.Timeout(times.idle_s, connect=options.connect_s, read=times.first_byte_s),
            limits=httpx.Limits(max_connections=options.max_connections),
            trust_env=True,
            follow_redirects=False,
        )

    def send_now(self, head: bytes, body: bytes, deadline_ns: int = 0) -> Exchange | None:
        """There are no connections of our own."""
        del head, body, deadline_ns
        return None  # said aloud: mypyc takes a body of a docstring alone for one that never returns

    async def send(self, head: bytes, body: bytes, deadline_ns: int = 0) -> Exchange:
        """See ``Pool.send``; the answer is read by a task of its own."""
        exchange = TaskExchange(self, deadline_ns)
        exchange.sent_ns = time.monotonic_ns()
        self.busy.add(exchange)
        task = self.loop.create_task(self._run(exchange, head, body))
        exchange.task = task
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return exchange

    async def _run(self, exchange: TaskExchange, head: bytes, body: bytes) -> None:
        import httpx

        first, *lines = head.decode("latin-1").rstrip("\r\n").split("\r\n")
        method, path, _ = first.split(" ")
        headers = [tuple(line.split(": ", 1)) for line in lines if not line.lower().startswith("host:")]
        url = f"{self.origin.scheme}://{self.origin.authority}{path}"
        left = (exchange.deadline_ns - time.monotonic_ns()) / 1e9 if exchange.deadline_ns else None
        try:
            async with (
                asyncio.timeout(left) as limit,
                self._client.stream(method, url, content=body, headers=headers) as answer,  # type: ignore[arg-type]  # pairs
            ):
                raw = [(name.lower(), value) for name, value in answer.headers.raw]
                exchange.head(answer.status_code, raw, time.monotonic_ns())
                pieces = answer.aiter_raw()
                while (data := await self._next(pieces)) is not None:
                    exchange.body(data, time.monotonic_ns())
                    if not exchange.deadline_ns:  # a stream that has begun may take as long as it flows
                        limit.reschedule(None)
                    await exchange.flowing.wait()
            exchange.end(time.monotonic_ns())
        except httpx.HTTPError as error:
            exchange.fail(TransferError(_kind(error), f"{type(error).__name__} from {self.origin.authority}"))
        except _IdleError:
            exchange.fail(TransferError("idle-timeout", f"{self.origin.authority} stopped in the middle of its answer"))
        except TimeoutError:
            exchange.fail(TransferError("total-timeout", "the request's deadline passed"))

    async def _next(self, pieces: AsyncIterator[bytes]) -> bytes | None:
        """The next piece of a body, None at its end."""
        try:
            async with asyncio.timeout(self.options.timeouts.idle_s):
                return await anext(pieces, None)
        except TimeoutError:
            raise _IdleError from None


def _kind(error: Exception) -> TransferKind:
    import httpx

    if isinstance(error, httpx.ConnectTimeout):
        return "connect-timeout"
    if isinstance(error, httpx.ConnectError | httpx.ProxyError):
        return "refused"
    if isinstance(error, httpx.TimeoutException):
        return "idle-timeout"
    return "cut" if isinstance(error, httpx.RemoteProtocolError) else "reset"
