"""One request to an upstream and its answer: read whole, piece by piece, or tapped."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Final, Protocol

from llmops.http1 import Connection, TransferError

_HIGH_WATER: Final = 256 * 1024
Headers = list[tuple[bytes, bytes]]


class Owner(Protocol):
    """What an exchange needs of its pool."""

    loop: asyncio.AbstractEventLoop
    busy: set[Exchange]

    def release(self, connection: Connection) -> None:
        """The connection is free again."""

    def resend(self, exchange: Exchange) -> None:
        """The reused connection was dead; send the request again."""


class Exchange:
    """One request and its answer. The answer is read whole, or piece by piece, or tapped: pieces go to a callback.

    Attributes:
        status: 0 until the headers are in.
        headers: Names in lower case.
        error: Why the answer will not become whole; None so far.
        ended: Whether it is whole.
        tap: Where body pieces go instead of the buffer, from the moment it is set.
        on_done: Called once at the end or the failure, for a tapped answer.
        first_byte_ns: When the headers came.
    """

    # Defaults stand in the class: most exchanges change few of them.
    connection: Connection | None = None
    status = 0
    headers: Headers = []  # noqa: RUF012 - replaced, never changed
    error: TransferError | None = None
    ended = False
    aborted = False
    tap: Callable[[bytes], None] | None = None
    on_done: Callable[[], None] | None = None
    first_byte_ns = 0
    sent_ns = 0
    task: asyncio.Task[None] | None = None
    _waiter: asyncio.Future[None] | None = None
    _need = 0
    _size = 0

    def __init__(self, pool: Owner, request: bytes, deadline_ns: int) -> None:
        self._pool = pool
        self._request = request
        self.chunks: list[bytes] = []
        self.deadline_ns = deadline_ns

    # Reading

    async def answered(self) -> None:
        """Wait for the status and headers.

        Raises:
            TransferError: There will be none.
        """
        if not self.status:
            await self._wait(1)
        if self.error is not None and not self.status:
            raise self.error

    async def whole(self) -> bytes:
        """Wait for the end; returns the whole body.

        Raises:
            TransferError: It broke before.
        """
        if not self.ended and self.error is None:
            self._need = 3
            self.resume()
            await self._wait(3)
        if self.error is not None:
            raise self.error
        return self.chunks[0] if len(self.chunks) == 1 else b"".join(self.chunks)

    async def read(self) -> bytes:
        """The next piece of the body, ``b""`` at its end.

        Raises:
            TransferError: It broke.
        """
        if not self.chunks and not self.ended and self.error is None:
            await self._wait(2)
        if self.chunks:
            data = self.chunks[0] if len(self.chunks) == 1 else b"".join(self.chunks)
            self.chunks.clear()
            self._size = 0
            self.resume()
            return data
        if self.error is not None:
            raise self.error
        return b""

    def abort(self) -> None:
        """Nobody wants the rest: drop the connection, so that the server stops its work."""
        if self.ended or self.error is not None or self.aborted:
            return
        self.aborted = True
        self._pool.busy.discard(self)
        if self.connection is not None:
            self.connection.abort()
        if self.task is not None:
            self.task.cancel()

    def pause(self) -> None:
        """Stop reading from the server until ``resume``."""
        if self.connection is not None and not self.ended:
            self.connection.pause()

    def resume(self) -> None:
        """Read again."""
        if self.connection is not None and not self.ended:
            self.connection.resume()

    def header(self, name: bytes) -> bytes | None:
        """The first header of that lower-case name."""
        for key, value in self.headers:
            if key == name:
                return value
        return None

    def request_id(self) -> bytes:
        """What the server calls this request, in either of the usual headers."""
        named = dict(self.headers)
        return named.get(b"x-request-id") or named.get(b"request-id") or b""

    async def _wait(self, need: int) -> None:
        self._need = need
        self._waiter = waiter = self._pool.loop.create_future()
        try:
            await waiter
        except asyncio.CancelledError:
            self.abort()
            raise
        finally:
            self._waiter = None

    def _wake(self) -> None:
        waiter = self._waiter
        if waiter is not None and not waiter.done():
            waiter.set_result(None)

    # http1.Receiver

    def begin(self, connection: Connection) -> None:
        """The pool has a connection: send."""
        self.connection = connection
        connection.send(self._request, self)
        self.sent_ns = connection.sent_ns

    def head(self, status: int, headers: Headers, at_ns: int) -> None:
        """See ``http1.Receiver``."""
        self.status = status
        self.headers = headers
        self.first_byte_ns = at_ns
        if self._need == 1:
            self._wake()

    def body(self, data: bytes, _at_ns: int) -> None:
        """See ``http1.Receiver``."""
        if self.tap is not None:
            self.tap(data)
            return
        self.chunks.append(data)
        if self._need != 3:
            self._size += len(data)
            if self._size > _HIGH_WATER:
                self.pause()
            if self._need == 2:
                self._wake()

    def end(self, _at_ns: int) -> None:
        """See ``http1.Receiver``."""
        self.ended = True
        connection = self.connection
        self._pool.busy.discard(self)
        if connection is not None:
            self.connection = None
            self._pool.release(connection)
        self._wake()
        if self.on_done is not None:
            self.on_done()

    def fail(self, error: TransferError) -> None:
        """See ``http1.Receiver``."""
        self.connection = None
        if error.safe_to_retry and not self.aborted:
            self._pool.resend(self)
            return
        self.error = error
        self._pool.busy.discard(self)
        self._wake()
        if self.on_done is not None:
            self.on_done()
