"""The protobuf wire format, read in place: fields of a message, numbers and texts. Every length is checked before it is used."""

from __future__ import annotations

import mmap
from collections.abc import Iterator

Span = tuple[int, int]


class CorruptError(Exception):
    """The bytes are no protobuf message of this kind."""


def fields(data: mmap.mmap, start: int, end: int) -> Iterator[tuple[int, int | Span]]:
    """Each field of a message: its number, and a varint's value or the span of its bytes."""
    at = start
    while at < end:
        key, at = varint(data, at, end)
        number, wire = key >> 3, key & 7
        if wire == 0:
            value, at = varint(data, at, end)
            yield number, value
            continue
        if wire == 2:
            length, at = varint(data, at, end)
        elif wire in (1, 5):
            length = 8 if wire == 1 else 4
        else:
            raise CorruptError(f"unexpected data at byte {at}")
        if number == 0 or at + length > end:
            raise CorruptError(f"a field at byte {at} is longer than the file")
        yield number, (at, at + length)
        at += length


def varint(data: mmap.mmap, at: int, end: int) -> tuple[int, int]:
    """A variable-length number and where the next field begins."""
    value = 0
    for shift in range(0, 70, 7):
        if at >= end:
            raise CorruptError(f"it ends in the middle of a field at byte {at}")
        byte = data[at]
        at += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value, at
    raise CorruptError(f"unexpected data at byte {at}")


def packed(data: mmap.mmap, span: Span) -> Iterator[int]:
    """The numbers of a packed field."""
    at, end = span
    while at < end:
        value, at = varint(data, at, end)
        yield value


def text_of(data: mmap.mmap, span: Span) -> str:
    """A text, cut to 4096 bytes."""
    return bytes(data[span[0] : min(span[1], span[0] + 4096)]).decode("utf-8", "replace")
