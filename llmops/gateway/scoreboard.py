"""Counters of all workers, shared through small files, so that any worker can answer for all of them.

Each worker writes its snapshot twice a second, before it shows it and when it ends; a file of a worker that died stays, so its counts do not
vanish. The directory belongs to the supervisor, which removes it.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec

_EVERY_S = 0.5


class Scoreboard:
    """The file of this worker and its siblings'."""

    def __init__(self, directory: Path, name: str) -> None:
        self._directory = directory
        self._file = directory / f"{name}.json"

    def write(self, snapshot: dict[str, Any]) -> None:
        """Replace this worker's file."""
        partial = self._file.with_suffix(".partial")
        partial.write_bytes(msgspec.json.encode(snapshot))
        partial.replace(self._file)

    def together(self, own: dict[str, Any]) -> list[dict[str, Any]]:
        """All workers' snapshots; this worker's is the fresh one.

        It is written before it is shown: a counter that a scrape has seen never goes back, even when this worker is
        killed the next moment.
        """
        self.write(own)
        snapshots = [own]
        for path in sorted(self._directory.glob("*.json")):
            if path != self._file:
                with contextlib.suppress(OSError, msgspec.MsgspecError):
                    snapshots.append(msgspec.json.decode(path.read_bytes()))
        return snapshots

    async def watch_reload(self, reload: Callable[[], None]) -> None:
        """Call ``reload`` whenever the supervisor renews the stamp."""
        stamp = self._directory / "reload"
        seen = _read(stamp)
        while True:
            await asyncio.sleep(_EVERY_S)
            now = _read(stamp)
            if now != seen:
                seen = now
                reload()

    async def keep_writing(self, snapshot: Callable[[], dict[str, Any]]) -> None:
        """Write for ever."""
        while True:
            self.write(snapshot())
            await asyncio.sleep(_EVERY_S)


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError:
        return b""
