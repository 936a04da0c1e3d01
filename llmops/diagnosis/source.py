"""Logs as blocks of whole lines, whatever they came in: plain, gzip, UTF-16, CRLF, a pipe, 200 MB."""

from __future__ import annotations

import codecs
import gzip
import io
import sys
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, Final, cast

from llmops.errors import UsageError

BLOCK: Final = 1 << 18
# A line longer than this is read in pieces; each piece still carries the number of its line.
LONGEST_LINE: Final = 1 << 16


@dataclass(frozen=True, slots=True)
class Block:
    """Whole lines (or a piece of a very long one) as UTF-8.

    Attributes:
        data: The bytes, ``context`` of them repeated from the block before so that no message is cut in two.
        line: 1-based number of the line that ``data`` begins in.
        context: How many leading bytes were already seen.
    """

    data: bytes
    line: int
    context: int


def blocks(file: BinaryIO) -> Iterator[Block]:
    """Cut a stream into blocks of a quarter of a megabyte, at line ends where there are any."""
    line, rest, tail = 1, b"", b""
    for chunk in _utf8_chunks(file):
        data = rest + chunk
        cut = data.rfind(b"\n") + 1
        if not cut:
            if len(data) < LONGEST_LINE:
                rest = data
                continue
            cut = len(data)
        whole, rest = data[:cut], data[cut:]
        yield Block(tail + whole, line - tail.count(b"\n"), len(tail))
        line += whole.count(b"\n")
        tail = _context(whole)
    if rest:
        yield Block(tail + rest, line - tail.count(b"\n"), len(tail))


def _context(whole: bytes) -> bytes:
    """The end of a block, from a line start where there is one near."""
    end = whole[-1024:]
    start = end.find(b"\n") + 1
    return end[start:] if 0 < start < len(end) else end


def _utf8_chunks(file: BinaryIO) -> Iterator[bytes]:
    first = file.read(BLOCK)
    encoding = _wide_encoding(first[:4096])
    if encoding is None:
        yield first.removeprefix(codecs.BOM_UTF8)
        while chunk := file.read(BLOCK):
            yield chunk
        return
    decoder = codecs.getincrementaldecoder(encoding)("replace")
    while first:
        yield decoder.decode(first).replace("\ufeff", "").encode("utf-8", "replace")
        first = file.read(BLOCK)
    yield decoder.decode(b"", final=True).encode("utf-8", "replace")


def _wide_encoding(head: bytes) -> str | None:
    if head.startswith(codecs.BOM_UTF16_LE):
        return "utf-16-le"
    if head.startswith(codecs.BOM_UTF16_BE):
        return "utf-16-be"
    # PowerShell's redirection without a byte-order mark: every other byte of plain text is zero.
    if len(head) >= 8 and head[1::2].count(0) > 0.4 * len(head[1::2]) and head[::2].count(0) < 0.05 * len(head):
        return "utf-16-le"
    return None


@contextmanager
def opened(path: Path) -> Iterator[BinaryIO]:
    """Open a log, ``-`` being standard input, and unpack gzip.

    Raises:
        UsageError: There is no such file, it cannot be read, or its gzip data is damaged.
    """
    try:
        raw: BinaryIO = sys.stdin.buffer if str(path) == "-" else path.open("rb")
    except OSError as error:
        raise UsageError(
            f"cannot read {path}: {error.strerror}", "give the path of a log file, or - for stdin"
        ) from error
    buffered = io.BufferedReader(cast("io.RawIOBase", raw), BLOCK)
    try:
        packed = buffered.peek(2)[:2] == b"\x1f\x8b"
        yield cast("BinaryIO", gzip.GzipFile(fileobj=buffered)) if packed else buffered
    except (gzip.BadGzipFile, zlib.error, EOFError) as error:
        raise UsageError(
            f"{path} is damaged gzip: {error}", f"unpack it as far as it goes: zcat {path} | llmops diagnose -"
        ) from error
    except IsADirectoryError as error:
        raise UsageError(f"{path} is a directory", f"llmops diagnose {path}/*.log") from error
    finally:
        if raw is not sys.stdin.buffer:
            raw.close()
