"""Finished requests on disk: raw bytes and time stamps, appended inside the measurement, read after it.

Memory stays bounded however long the run is, and nothing is parsed while the clock runs.
"""

from __future__ import annotations

from array import array
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO, Final

import msgspec

_LENGTH_BYTES: Final = 4


class Record(msgspec.Struct, array_like=True):
    """One finished request. Times are ``time.monotonic_ns()``.

    Attributes:
        number: Serial number within its process.
        conversation, turn: Which prompt it was.
        due_ns: When it should have been sent: the schedule's time in an open loop, ``start_ns`` in a closed one.
        start_ns: When its clock starts: ``due_ns`` in an open loop, else the send (before the connection when cold).
        sent_ns: When it was written; 0 when that never happened.
        end_ns: The end of the answer or of the attempt.
        status: HTTP status, 0 for none.
        error: Stable word for a failure below HTTP, empty for none.
        detail: What to tell a person about it.
        words: Synthetic words in the prompt, for learning lengths.
        measured: Belongs to the measured window; False in a ramp.
        retries: How often it was sent again because a kept connection turned out to be closed.
        stamps: Arrival of each piece, native int64.
        sizes: Length of each piece, native uint32.
        body: The pieces.
    """

    number: int
    conversation: int
    turn: int
    due_ns: int
    start_ns: int
    sent_ns: int
    end_ns: int
    status: int
    error: str
    detail: str
    words: int
    asked_tokens: int
    measured: bool
    retries: int
    stamps: bytes
    sizes: bytes
    body: bytes

    def pieces(self) -> tuple[list[bytes], array[int]]:
        """The body as it came, and when each piece came."""
        stamps: array[int] = array("q")
        stamps.frombytes(self.stamps)
        sizes: array[int] = array("I")
        sizes.frombytes(self.sizes)
        parts, start = [], 0
        for size in sizes:
            parts.append(self.body[start : start + size])
            start += size
        return parts, stamps


_ENCODE: Final = msgspec.msgpack.Encoder().encode
_DECODE: Final = msgspec.msgpack.Decoder(Record).decode


class Spool:
    """Appends records to a file."""

    def __init__(self, path: Path) -> None:
        self._file: BinaryIO = path.open("wb", buffering=256 * 1024)

    def add(self, record: Record) -> None:
        """Append one record."""
        data = _ENCODE(record)
        self._file.write(len(data).to_bytes(_LENGTH_BYTES, "little"))
        self._file.write(data)

    def close(self) -> None:
        """Flush and close."""
        self._file.close()


def read(path: Path) -> Iterator[Record]:
    """The records of a spool, in the order in which they ended; a torn last one is left out."""
    with path.open("rb") as file:
        while len(head := file.read(_LENGTH_BYTES)) == _LENGTH_BYTES:
            size = int.from_bytes(head, "little")
            data = file.read(size)
            if len(data) < size:
                return
            yield _DECODE(data)
