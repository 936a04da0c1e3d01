"""Small questions to the server before the measurement."""

from __future__ import annotations

import asyncio

import msgspec

from llmops.bench.drive import unreachable
from llmops.bench.wire import PATHS, Endpoint
from llmops.errors import OutsideError, UsageError
from llmops.http1 import Connection, TransferError, connect, with_body


class _Whole:
    """Collects one small answer."""

    def __init__(self) -> None:
        self.done: asyncio.Future[bytes] = asyncio.get_running_loop().create_future()
        self.status = 0
        self._parts: list[bytes] = []

    def head(self, status: int, _headers: list[tuple[bytes, bytes]], _at_ns: int) -> None:
        self.status = status

    def body(self, data: bytes, _at_ns: int) -> None:
        self._parts.append(data)

    def end(self, _at_ns: int) -> None:
        self.done.set_result(b"".join(self._parts))

    def fail(self, error: TransferError) -> None:
        self.done.set_exception(error)


def only_model(endpoint: Endpoint) -> str:
    """The name of the server's only model.

    Raises:
        UsageError: It has several, or does not say.
        OutsideError: It cannot be reached.
    """
    try:
        status, body = asyncio.run(_get(endpoint))
    except TransferError as error:
        raise unreachable(error) from error
    except TimeoutError:
        raise OutsideError(
            f"{endpoint.url} does not answer", "is the server ready? give --model to skip this"
        ) from None
    try:
        names = [row["id"] for row in msgspec.json.decode(body)["data"]] if status == 200 else []
    except (msgspec.DecodeError, KeyError, TypeError):
        names = []
    if len(names) == 1:
        return str(names[0])
    if names:
        raise UsageError("the server has several models", "name one with --model: " + ", ".join(map(str, names[:8])))
    raise UsageError(f"the server does not say its model (HTTP {status} for its list)", "name it with --model")


async def _get(endpoint: Endpoint) -> tuple[int, bytes]:
    """GET the list of models beside the endpoint."""
    origin, path = endpoint.target()
    head = endpoint.head().replace(b"POST ", b"GET ", 1)
    listing = path.partition("?")[0].removesuffix(PATHS[endpoint.api]) + "/models"
    head = head.replace(path.encode(), listing.encode(), 1)
    connection: Connection = await connect(origin)
    try:
        receiver = _Whole()
        connection.send(with_body(head), receiver)
        async with asyncio.timeout(20):
            body = await receiver.done
        return receiver.status, body
    finally:
        connection.abort()
        await asyncio.sleep(0)
