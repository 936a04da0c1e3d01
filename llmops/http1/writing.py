"""Write to a transport's socket at once."""

from __future__ import annotations

import asyncio
import os


def plain_fd(transport: asyncio.BaseTransport) -> int:
    """The socket's descriptor for ``write_now``; -1 where bytes must go through the transport, as under TLS."""
    if transport.get_extra_info("ssl_object") is not None or transport.get_extra_info("sslcontext") is not None:
        return -1
    raw = transport.get_extra_info("socket")
    return raw.fileno() if raw is not None else -1


def write_now(transport: asyncio.Transport, fd: int, data: bytes) -> None:
    """Write, and leave to the transport what the socket does not take.

    A transport of uvloop queues bytes until every other callback of the turn has run: under load that is milliseconds
    later, and on a core whose caches are cold the rest of this very callback takes as long as what came before.

    Args:
        transport: It is open.
        fd: From ``plain_fd``. A closed transport's descriptor may be another connection's by now, hence the look.
        data: What to write.
    """
    if fd >= 0 and not transport.get_write_buffer_size() and not transport.is_closing():
        try:
            written = os.write(fd, data)
        except OSError:  # a full buffer, or a lost connection, of which the transport tells in its own way
            written = 0
        if written == len(data):
            return
        data = data[written:]
    transport.write(data)
