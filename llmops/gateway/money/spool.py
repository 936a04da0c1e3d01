"""A write-ahead file that survives ``kill -9``: records go into a shared memory map, so they belong to the kernel at once.

Writing a record costs no system call. A record is complete when its header (length and checksum) is: it is written after
the payload, so a process killed in between leaves a record that does not exist. A power cut may lose what the kernel had
not written out yet; the death of a process, of whatever kind, loses nothing.

One worker owns a numbered row of files ``spool-OWNER-0001.log`` and holds a lock on ``spool-OWNER.lock`` while it lives.
"""

from __future__ import annotations

import contextlib
import mmap
import os
import struct
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from llmops.errors import MachineError

MAGIC: Final = b"llmspl01"
HEADER: Final = 64
_FLUSHED: Final = 16  # offset of the position up to which rows are in the ledger
_HEAD: Final = struct.Struct("<II")
_LENGTH: Final = struct.Struct("<I")
_POSITION: Final = struct.Struct("<q")
_PIECE: Final = 256 * 1024  # nobody waits for more than that
_POPULATE_WRITE: Final = 23  # MADV_POPULATE_WRITE


class Segment:
    """One file. A single thread appends; another may read what was appended."""

    def __init__(self, path: Path, size: int | None = None) -> None:
        """Open ``path``, or make it with ``size`` bytes.

        Raises:
            MachineError: There is no room for it.
        """
        self.path = path
        flags = os.O_RDWR | os.O_CLOEXEC | (0 if size is None else os.O_CREAT | os.O_EXCL)
        descriptor = os.open(path, flags, 0o600)
        try:
            if size is not None:
                # Reserve the blocks now: a full disk must be an error here and not a SIGBUS on the hot path.
                os.posix_fallocate(descriptor, 0, size)
                os.pwrite(descriptor, MAGIC, 0)
            self._map = mmap.mmap(descriptor, 0)
        except OSError as error:
            if size is not None:
                path.unlink(missing_ok=True)
            raise MachineError(f"cannot make the spool {path}: {error.strerror}", "free some space there") from error
        finally:
            os.close(descriptor)
        self.size = len(self._map)
        self.end = HEADER

    def touch(self) -> None:
        """Bring the pages in, which takes milliseconds: the first write to each would cost a request as much as all else it pays here."""
        with contextlib.suppress(OSError, ValueError):  # kernels before 5.14
            for start in range(0, self.size, _PIECE):
                self._map.madvise(_POPULATE_WRITE, start, min(_PIECE, self.size - start))

    def renew(self) -> None:
        """Make an empty segment of one whose records are all in the database; its pages stay.

        The first record goes first: whoever finds the file half renewed reads nothing in it.
        """
        end, self.end = self.end, HEADER
        for start in range(HEADER, end + 8, _PIECE):
            stop = min(start + _PIECE, end + 8, self.size)
            self._map[start:stop] = bytes(stop - start)
        self.flushed = HEADER

    def append(self, payload: bytes) -> bool:
        """Write a record; False when it does not fit."""
        start = self.end
        body = start + 8
        end = body + len(payload)
        if end + 8 > self.size:
            return False
        self._map[body:end] = payload
        _HEAD.pack_into(self._map, start, len(payload), zlib.crc32(payload))
        self.end = end
        return True

    @property
    def flushed(self) -> int:
        """Up to here the rows are in the ledger."""
        return int(_POSITION.unpack_from(self._map, _FLUSHED)[0]) or HEADER

    @flushed.setter
    def flushed(self, position: int) -> None:
        _POSITION.pack_into(self._map, _FLUSHED, position)

    def records(self, start: int, end: int | None = None) -> Iterator[tuple[int, bytes]]:
        """Each whole record from ``start``, with the position after it; stops at the first that is not whole."""
        position, limit = start, self.size - 8 if end is None else end
        while position < limit:
            length, checksum = _HEAD.unpack_from(self._map, position)
            after = position + 8 + length
            if length == 0 or after > self.size:
                return
            payload = self._map[position + 8 : after]
            if zlib.crc32(payload) != checksum:
                return
            position = after
            yield position, payload

    def own(self, kind: bytes, start: int, end: int) -> Iterator[tuple[int, bytes]]:
        """Records of one kind (their first byte) up to ``end``, of a file that this process writes: it knows them whole."""
        data, position, first = self._map, start, kind[0]
        while position < end:
            after = position + 8 + _LENGTH.unpack_from(data, position)[0]
            if data[position + 8] == first:
                yield after, data[position + 9 : after]
            position = after

    def close(self, *, remove: bool = False) -> None:
        """Unmap the file; ``remove`` deletes it too."""
        self._map.close()
        if remove:
            self.path.unlink(missing_ok=True)


def is_segment(path: Path) -> bool:
    """Whether a file is a spool segment: an interrupted creation may lack its first bytes."""
    try:
        with path.open("rb") as file:
            return file.read(len(MAGIC)) == MAGIC
    except OSError:
        return False
