"""The answer cache in Redis. Its loss is a cache that misses, never a failed request."""

from __future__ import annotations

import logging
import time
from typing import Any, Final

import msgspec

from llmops.extras import require
from llmops.gateway.cache.exact import Entry

_log = logging.getLogger("llmops.gateway")
_PREFIX: Final = b"llmops:answer:1:"
_TIMEOUT_S: Final = 0.25
_REST_S: Final = 5.0


class RedisStore:
    """Entries as MessagePack with Redis's own expiry. After an error Redis is left alone for a few seconds."""

    def __init__(self, url: str) -> None:
        client = require("redis.asyncio", "the answer cache in Redis")
        self._redis: Any = client.from_url(url, socket_timeout=_TIMEOUT_S, socket_connect_timeout=_TIMEOUT_S)
        self._rest_until = 0.0

    async def get(self, key: bytes) -> Entry | None:
        """The answer; None when Redis is not there."""
        if time.monotonic() < self._rest_until:
            return None
        try:
            raw = await self._redis.get(_PREFIX + key)
        except (TimeoutError, OSError, self._errors()) as error:
            self._rest(error)
            return None
        try:
            return None if raw is None else msgspec.msgpack.decode(raw, type=Entry)
        except msgspec.MsgspecError:
            return None

    async def put(self, key: bytes, entry: Entry, ttl_s: float) -> None:
        """Keep an answer."""
        if time.monotonic() < self._rest_until:
            return
        try:
            await self._redis.set(_PREFIX + key, msgspec.msgpack.encode(entry), px=max(1, int(ttl_s * 1000)))
        except (TimeoutError, OSError, self._errors()) as error:
            self._rest(error)

    async def close(self) -> None:
        """Close the connections."""
        await self._redis.aclose()

    def size(self) -> tuple[int, int]:
        """Redis knows; we do not."""
        return 0, 0

    def _errors(self) -> type[Exception]:
        from redis.exceptions import RedisError

        return RedisError  # type: ignore[no-any-return]  # redis is not typed here

    def _rest(self, error: Exception) -> None:
        self._rest_until = time.monotonic() + _REST_S
        _log.warning("the answer cache does not answer (%s); going on without it", type(error).__name__)
