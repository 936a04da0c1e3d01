"""One way to reach the site's Redis where an answer decides on a request: never waited for long, never tried twice."""

from __future__ import annotations

from typing import Any, Final

from llmops.extras import require

_TIMEOUT_S: Final = 1.0
# A few connections shared in turn: a burst must not open hundreds and time out over them.
_CONNECTIONS: Final = 8


def link(url: str, why: str) -> tuple[Any, tuple[type[Exception], ...]]:
    """A client of the Redis at ``url`` (never logged), and what it raises where Redis does not answer.

    Raises:
        LlmopsError: The package is not installed; ``why`` says what needs it.
    """
    redis: Any = require("redis.asyncio", why)
    pool = redis.BlockingConnectionPool.from_url(
        url,
        max_connections=_CONNECTIONS,
        timeout=_TIMEOUT_S,
        socket_timeout=_TIMEOUT_S,
        socket_connect_timeout=_TIMEOUT_S,
        decode_responses=True,
        retry=require("redis.asyncio.retry", why).Retry(require("redis.backoff", why).NoBackoff(), 0),
    )
    return redis.Redis.from_pool(pool), (require("redis.exceptions", why).RedisError, OSError, TimeoutError)
