"""Connections of the truth server: raw sockets, so that each stamp is the kernel's own.

Linux stamps a segment when it reaches the socket (receive) and when it leaves for the interface (send). Both are read
back per read and per write (``SO_TIMESTAMPING``) and turned into ``CLOCK_MONOTONIC``, the clock of the client under test.
Where the kernel gives none, the stamp is taken around the system call, and counted.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import socket
import struct
import time

# From linux/net_tstamp.h and linux/errqueue.h: names that the socket module does not have.
SO_TIMESTAMPING = 37
TX_SOFTWARE, RX_SOFTWARE, SOFTWARE, OPT_ID, OPT_TSONLY = 1 << 1, 1 << 3, 1 << 4, 1 << 7, 1 << 11
FLAGS = TX_SOFTWARE | RX_SOFTWARE | SOFTWARE | OPT_ID | OPT_TSONLY
NS = 1_000_000_000
OFFSET_EVERY_NS = NS // 2


class Stamps:
    """Kernel stamps are wall time; this knows how far that is from the monotonic clock now."""

    def __init__(self) -> None:
        self.received = self.sent = self.missing = 0
        self._offset = self._taken = 0

    def of(self, ancillary) -> int | None:
        """The stamp in the ancillary data of one ``recvmsg``, as monotonic time; None without one."""
        for level, kind, data in ancillary:
            if level == socket.SOL_SOCKET and kind == SO_TIMESTAMPING:
                seconds, nanos = struct.unpack("qq", data[:16])
                if seconds:
                    return seconds * NS + nanos - self._wall_ahead_ns()
        return None

    def _wall_ahead_ns(self) -> int:
        now = time.monotonic_ns()
        if now - self._taken > OFFSET_EVERY_NS:
            # Of several looks at both clocks the tightest: the others were interrupted between the two.
            looks = []
            for _ in range(5):
                before = time.monotonic_ns()
                wall = time.time_ns()
                after = time.monotonic_ns()
                looks.append((after - before, wall - (before + after) // 2))
            self._offset, self._taken = min(looks)[1], now
        return self._offset


class Wire:
    """One connection: reads requests, writes bytes, and knows when the kernel did."""

    def __init__(self, raw: socket.socket, server) -> None:
        self.raw, self.server = raw, server
        self.buffer = b""
        self.answered = 0
        self.closed = False
        self._out = bytearray()
        self._bytes = 0
        self._closing = False
        self._loop = asyncio.get_running_loop()
        raw.setblocking(False)
        raw.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        with contextlib.suppress(OSError):  # another kernel: every stamp is counted as missing
            raw.setsockopt(socket.SOL_SOCKET, SO_TIMESTAMPING, FLAGS)
        self._loop.add_reader(raw, self._readable)

    # Reading

    def _readable(self) -> None:
        self._stamp_of(None)
        try:
            data, ancillary, _, _ = self.raw.recvmsg(1 << 18, 512)
        except BlockingIOError:
            return
        except OSError:
            self.abort()
            return
        if not data:
            self.abort()
            return
        at_ns = self.server.stamps.of(ancillary)
        if at_ns is None:
            self.server.stamps.missing += 1
            at_ns = time.monotonic_ns()
        else:
            self.server.stamps.received += 1
        self.buffer += data
        while not self.closed and self._one_request(at_ns):
            pass

    def _one_request(self, at_ns: int) -> bool:
        head, found, rest = self.buffer.partition(b"\r\n\r\n")
        if not found:
            return False
        lower = head.lower()
        if b"transfer-encoding: chunked" in lower:
            if not rest.endswith(b"0\r\n\r\n"):
                return False
            self.buffer = b""
            self.server.request(self, head, dechunked(rest), at_ns)
            return True
        length = next(
            (int(line.split(b":")[1]) for line in lower.split(b"\r\n") if line.startswith(b"content-length:")), 0
        )
        if len(rest) < length:
            return False
        self.buffer = rest[length:]
        self.server.request(self, head, rest[:length], at_ns)
        return bool(self.buffer)

    # Writing

    def write(self, data: bytes) -> int:
        """Send now; returns when the last byte left. What the socket does not take waits, in order."""
        if self.closed or not data:
            return time.monotonic_ns()
        if self._out:
            self._out += data
            return time.monotonic_ns()
        before = time.monotonic_ns()
        if not self._send(data):
            return before
        at_ns = self._stamp_of(self._bytes - 1)
        if at_ns is None:
            self.server.stamps.missing += 1
            return before
        self.server.stamps.sent += 1
        return at_ns

    def _send(self, data: bytes | bytearray) -> bool:
        """Give the socket what it takes and keep the rest; False when that was not everything."""
        try:
            sent = self.raw.send(data)
        except BlockingIOError:
            sent = 0
        except OSError:
            self.abort()
            return False
        self._bytes += sent
        if sent == len(data):
            return True
        self._out = bytearray(data[sent:])
        self._loop.add_writer(self.raw, self._writable)
        return False

    def _writable(self) -> None:
        waiting, self._out = self._out, bytearray()
        if self._send(waiting):
            self._loop.remove_writer(self.raw)
            if self._closing:
                self.abort()

    def _stamp_of(self, last_byte: int | None) -> int | None:
        """When the segment with this byte left; None while the kernel has not said. Older stamps are passed over, for a
        socket with unread stamps would wake the loop for ever.
        """
        while True:
            try:
                _, ancillary, _, _ = self.raw.recvmsg(0, 512, socket.MSG_ERRQUEUE)
            except OSError:
                return None
            byte = next(
                (struct.unpack("IBBBBII", data[:16])[6] for level, _, data in ancillary if level != socket.SOL_SOCKET),
                None,
            )
            if last_byte is not None and byte == last_byte & 0xFFFFFFFF:
                return self.server.stamps.of(ancillary)

    def close(self) -> None:
        """Close when everything is written."""
        if self._out:
            self._closing = True
        else:
            self.abort()

    def abort(self) -> None:
        if not self.closed:
            self.closed = True
            self._loop.remove_reader(self.raw)
            self._loop.remove_writer(self.raw)
            self.raw.close()

    def reset(self) -> None:
        """Close with RST."""
        self.raw.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.abort()

    def json(self, shown: object, status: bytes = b"200 OK") -> None:
        body = json.dumps(shown).encode()
        self.write(b"HTTP/1.1 %s\r\nContent-Length: %d\r\n\r\n" % (status, len(body)) + body)


def dechunked(data: bytes) -> bytes:
    """The body of a chunked request."""
    parts = []
    while data:
        size, _, data = data.partition(b"\r\n")
        count = int(size, 16)
        parts.append(data[:count])
        data = data[count + 2 :] if count else b""
    return b"".join(parts)
