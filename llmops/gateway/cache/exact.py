"""The exact cache: what may be kept, under which key, where, and one flight for equal requests at once.

The key holds the tenant and the whole request, so that no tenant can learn from another's answers, neither their text nor,
by the time it takes, that they exist.
"""

from __future__ import annotations

import asyncio
import hashlib
import time
from collections import OrderedDict
from typing import TYPE_CHECKING, Final, Protocol

import msgspec

from llmops.prices import Usage

if TYPE_CHECKING:
    from llmops.gateway.dialects.wire import Ask
    from llmops.gateway.routing import Route

_MAX_SHARE: Final = 8  # one answer may fill at most this part of the cache
# What does not change an answer is not part of its key.
_IGNORED: Final = frozenset({"user", "metadata", "safety_identifier", "prompt_cache_key", "store"})
_ALWAYS: Final = frozenset({"embeddings"})


class Entry(msgspec.Struct):
    """A kept answer: the bytes as the caller got them, and what they once used."""

    body: bytes
    stream: bool
    target: str
    input_tokens: int
    output_tokens: int
    usage: Usage | None = None


class Store(Protocol):
    """Where answers are kept."""

    async def get(self, key: bytes) -> Entry | None: ...
    async def put(self, key: bytes, entry: Entry, ttl_s: float) -> None: ...
    async def close(self) -> None: ...
    def size(self) -> tuple[int, int]:
        """(entries, bytes), where known."""


class MemoryStore:
    """In this process: least recently used goes first, bounded by bytes."""

    def __init__(self, max_bytes: int) -> None:
        self.max_bytes = max_bytes
        self._rows: OrderedDict[bytes, tuple[float, Entry]] = OrderedDict()
        self._bytes = 0

    async def get(self, key: bytes) -> Entry | None:
        """The answer, unless it is too old."""
        row = self._rows.get(key)
        if row is None:
            return None
        if row[0] < time.monotonic():
            self._drop(key)
            return None
        self._rows.move_to_end(key)
        return row[1]

    async def put(self, key: bytes, entry: Entry, ttl_s: float) -> None:
        """Keep an answer; what is too large for the cache is not kept."""
        if len(entry.body) > self.max_bytes // _MAX_SHARE:
            return
        self._drop(key)
        self._rows[key] = (time.monotonic() + ttl_s, entry)
        self._bytes += _weight(entry)
        while self._bytes > self.max_bytes:
            self._drop(next(iter(self._rows)))

    async def close(self) -> None:
        """Nothing is open."""

    def size(self) -> tuple[int, int]:
        """See ``Store``."""
        return len(self._rows), self._bytes

    def _drop(self, key: bytes) -> None:
        row = self._rows.pop(key, None)
        if row is not None:
            self._bytes -= _weight(row[1])


def _weight(entry: Entry) -> int:
    return len(entry.body) + 400  # the objects around the bytes


class ExactCache:
    """Look-ups, and the flights of requests that are being answered."""

    def __init__(self, store: Store) -> None:
        self.store = store
        self._flights: dict[bytes, asyncio.Future[bool]] = {}

    async def begin(self, key: bytes) -> tuple[Entry | None, str]:
        """An answer, or the right to get one.

        Returns:
            The entry and ``hit``, or ``shared`` when another request just got it; or None and ``miss``: the caller leads
            a flight and must call ``finish``; or None and ``alone``: no answer came of the flight that was waited for.
        """
        entry = await self.store.get(key)
        if entry is not None:
            return entry, "hit"
        flight = self._flights.get(key)
        if flight is None:
            self._flights[key] = asyncio.get_running_loop().create_future()
            return None, "miss"
        if await asyncio.shield(flight):
            entry = await self.store.get(key)
        return entry, "shared" if entry is not None else "alone"

    async def finish(self, key: bytes, entry: Entry | None, ttl_s: float) -> None:
        """The flight is over, with an answer to keep or without."""
        if entry is not None:
            await self.store.put(key, entry, ttl_s)
        self.land(key, kept=entry is not None)

    def land(self, key: bytes, *, kept: bool) -> None:
        """Wake those who wait for a flight."""
        flight = self._flights.pop(key, None)
        if flight is not None and not flight.done():
            flight.set_result(kept)


def key_of(tenant: str, ask: Ask, route: Route, cache_control: bytes | None) -> bytes | None:
    """The key of a request, or None where its answer may not be kept."""
    form = route.cache
    if form is None or not form.enabled or ask.surface.name == "count_tokens":
        return None
    if cache_control is not None and (b"no-store" in cache_control or b"no-cache" in cache_control):
        return None
    if not form.always and ask.surface.name not in _ALWAYS and ask.value("temperature") != 0:
        return None
    digest = hashlib.blake2b(digest_size=24)
    for part in (tenant, ask.surface.name, route.label):
        digest.update(part.encode() + b"\0")
    for name in sorted(ask.fields):
        if name not in _IGNORED:
            raw = bytes(ask.fields[name])
            digest.update(b"%b\0%d\0" % (name.encode(), len(raw)) + raw)
    return digest.digest()
