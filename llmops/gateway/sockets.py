"""Listening sockets: they hold a port before anyone listens, and end without resetting a connection."""

from __future__ import annotations

import contextlib
import ctypes
import select
import socket
import struct
from typing import Final

from llmops.errors import MachineError

_SO_ATTACH_FILTER: Final = 26  # asm-generic/socket.h; the socket module has no name for it
# Classic BPF over the TCP header (linux/filter.h): byte 13 holds the flags; a SYN is dropped, all else is kept.
_DROP_SYN: Final = b"".join(
    struct.pack("=HBBI", *each)
    for each in ((0x30, 0, 0, 13), (0x45, 0, 1, 0x02), (0x06, 0, 0, 0), (0x06, 0, 0, 0xFFFFFFFF))
)


def listen(host: str, port: int, *, shared: bool = False) -> socket.socket:
    """A socket that holds its port; the server begins to listen on it once it also heeds signals, so that no connection is
    taken by a process that a signal could still end. ``shared``: several processes listen on the same port (SO_REUSEPORT).

    Raises:
        MachineError: The port is taken, or the address is not this machine's.
    """
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    made = socket.socket(family, socket.SOCK_STREAM)
    made.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    if shared:
        made.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
    try:
        made.bind((host.strip("[]"), port))
    except OSError as error:
        made.close()
        raise MachineError(
            f"cannot listen on {host}:{port}: {error.strerror}", f"another port: --port {port + 1}"
        ) from error
    made.setblocking(False)
    return made


def stop_handshakes(sock: socket.socket) -> None:
    """Begin no new connection on a listening socket; those whose handshake has begun still come through.

    Closing a listening socket resets what the kernel has taken and nobody has accepted, and between the last accept and the
    close there is always room for one more. With its first packet dropped such a caller tries again a second later, by
    itself, and then meets whoever listens, or a plain refusal. A kernel without filters closes as it always did.
    """
    code = ctypes.create_string_buffer(_DROP_SYN, len(_DROP_SYN))
    program = struct.pack("@HP", len(_DROP_SYN) // 8, ctypes.addressof(code))
    with contextlib.suppress(OSError):
        sock.setsockopt(socket.SOL_SOCKET, _SO_ATTACH_FILTER, program)


def has_unread(fd: int) -> bool:
    """Whether the kernel holds bytes of the peer (or its end) that nobody has read: closing now would reset it."""
    poll = select.poll()
    poll.register(fd, select.POLLIN)
    return bool(poll.poll(0))
