"""Server-sent events cut out of a byte stream, however the network packed them. Nothing here reads JSON."""

from __future__ import annotations

import re
from typing import Final

# An atomic group, so that one CRLF can never be read as two line ends.
_BLANK_LINE: Final = re.compile(rb"(?>\r\n|\n|\r){2}")
_LINE_END: Final = re.compile(rb"\r\n|\n|\r")
_BOM: Final = b"\xef\xbb\xbf"


class EventTooLargeError(ValueError):
    """One event grew over the limit without ending."""


class EventSplitter:
    """Splits a stream into event blocks: the lines of one event without the blank line that ends it.

    Blocks are the stream's own bytes, so a proxy can pass them on unchanged; ``event_data`` and ``event_type`` read
    them. A block that holds only comments (a keep-alive) is yielded too, and its ``event_data`` is None.
    """

    __slots__ = ("_max_event_bytes", "_rest", "_skip_lf", "_started")

    def __init__(self, max_event_bytes: int = 16 * 1024 * 1024) -> None:
        self._rest = b""
        self._skip_lf = False
        self._started = False
        self._max_event_bytes = max_event_bytes

    @property
    def rest(self) -> bytes:
        """Bytes of an event that has not ended; anything here at the end of the stream was cut off."""
        return self._rest

    def feed(self, data: bytes) -> list[bytes]:
        """Take the next bytes of the stream; returns the events that they complete, in order.

        Raises:
            EventTooLargeError: An unfinished event is over the limit.
        """
        if self._skip_lf and data:
            self._skip_lf = False
            if data.startswith(b"\n"):
                data = data[1:]
        if not self._started:
            data = self._begin(data)
        # The common case: whole events with bare line feeds in one packet.
        if not self._rest and data.endswith(b"\n\n") and b"\r" not in data and b"\n\n\n" not in data and data[0] != 10:
            return data[:-2].split(b"\n\n")
        return self._slow(data)

    def _begin(self, data: bytes) -> bytes:
        """Drop a byte-order mark at the very start, which may itself arrive in pieces."""
        data, self._rest = self._rest + data, b""
        if len(data) < len(_BOM) and _BOM.startswith(data):
            self._rest = data
            return b""
        self._started = True
        return data.removeprefix(_BOM)

    def _slow(self, data: bytes) -> list[bytes]:
        if not data:
            return []
        # A blank line is at most four bytes, so it can begin at most three before the new bytes.
        search_from = max(0, len(self._rest) - 3)
        buffer = self._rest + data
        events, start = [], 0
        for match in _BLANK_LINE.finditer(buffer, search_from):
            if match.start() > start:
                events.append(buffer[start : match.start()].lstrip(b"\r\n"))
            start = match.end()
        self._rest = buffer[start:]
        if not self._rest:
            # "\r" may be the first half of a CRLF whose "\n" is still on its way.
            self._skip_lf = buffer.endswith(b"\r")
        if len(self._rest) > self._max_event_bytes:
            raise EventTooLargeError(f"an event is over {self._max_event_bytes} bytes")
        return [event for event in events if event]


def event_data(block: bytes) -> bytes | None:
    """The event's data: its ``data`` lines joined by line feeds; None when it has none (a comment, a bare ``event:``)."""
    if block.startswith(b"data: ") and block.find(b"\n") < 0 and block.find(b"\r") < 0:
        return block[6:]
    lines = [
        _value(line) for line in _LINE_END.split(block) if line.startswith((b"data:", b"data\x00")) or line == b"data"
    ]
    return b"\n".join(lines) if lines else None


def event_type(block: bytes) -> bytes | None:
    """The event's ``event`` field, None when it has none."""
    if b"event" not in block:
        return None
    found = [_value(line) for line in _LINE_END.split(block) if line.startswith(b"event:")]
    return found[-1] if found else None


def _value(line: bytes) -> bytes:
    return line.partition(b":")[2].removeprefix(b" ")
