"""Opens connections, TLS included, and names what can go wrong with that."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import ssl
from typing import Final

from llmops.http1.connection import Connection
from llmops.http1.errors import TransferError, TransferKind
from llmops.http1.receiver import Limits
from llmops.http1.request import Origin

_KIND_OF_OS_ERROR: Final[tuple[tuple[type[OSError], TransferKind], ...]] = (
    (ssl.SSLError, "tls"),
    (ConnectionRefusedError, "refused"),
    (ConnectionResetError, "reset"),
    (BrokenPipeError, "reset"),
    (TimeoutError, "connect-timeout"),
)


async def connect(
    origin: Origin,
    *,
    ssl_context: ssl.SSLContext | None = None,
    server_name: str | None = None,
    timeout_s: float = 10.0,
    limits: Limits | None = None,
) -> Connection:
    """Open a connection, TLS included.

    Args:
        origin: Where to.
        ssl_context: For https; ``ssl.create_default_context()`` when None. Share one, so that sessions are resumed.
        server_name: Name for SNI and the certificate, when it is not the origin's host.
        timeout_s: For name lookup, TCP and TLS together.
        limits: Sizes at which answers are refused.

    Raises:
        TransferError: It could not be opened. Nothing was sent, so the caller may try again.
    """
    context = (ssl_context or ssl.create_default_context()) if origin.secure else None
    try:
        async with asyncio.timeout(timeout_s):
            _, connection = await asyncio.get_running_loop().create_connection(  # type: ignore[type-var]  # see Connection
                lambda: Connection(origin, limits),
                origin.host,
                origin.port,
                ssl=context,
                server_hostname=(server_name or origin.host) if context else None,
            )
    except OSError as error:
        raise _connect_error(origin, error, timeout_s) from error
    return connection


def _connect_error(origin: Origin, error: OSError, timeout_s: float) -> TransferError:
    where = origin.authority
    if isinstance(error, socket.gaierror):
        return TransferError("dns", f"the name {origin.host!r} cannot be resolved")
    kind: TransferKind = "unreachable"
    for known, word in _KIND_OF_OS_ERROR:
        if isinstance(error, known):
            kind = word
            break
    if kind == "connect-timeout":
        return TransferError(kind, f"no connection to {where} within {timeout_s:g} s")
    if kind == "refused":
        return TransferError(kind, f"cannot connect to {where}: nothing listens there")
    reason = getattr(error, "verify_message", "") or error.strerror or str(error)
    with contextlib.suppress(AttributeError):
        reason = error.reason if kind == "tls" and not reason else reason  # type: ignore[attr-defined]  # SSLError's
    return TransferError(kind, f"cannot connect to {where}: {reason}")
