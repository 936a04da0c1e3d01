"""What the replicas of one site share in Redis, but for budgets: rate limits, and which targets are left alone.

Everything that must be exact is one script, so it is atomic. Redis is never waited for longer than a second; when it
does not answer, the replica goes on with its own part of every limit and looks for Redis again in the background.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import secrets
from collections import deque
from collections.abc import Callable, Sequence
from typing import Any, Final

from llmops.gateway.limits import Exceeded, Limiter
from llmops.gateway.state.redis_link import link
from llmops.masking import mask

_log = logging.getLogger("llmops.gateway")
_WHY: Final = "state shared by replicas"
_BEAT_S: Final = 0.25
_MAX_WAITING: Final = 20_000
_LEASE_MS: Final = 900_000  # a request of a replica that died counts as running for so long
_LIMITS: Final = ("", "concurrent requests", "tokens per minute", "requests per minute")

# KEYS: levels, running. ARGV: requests and tokens a minute, concurrent (0: unlimited), tokens, request id, lease in ms.
# Answer: {0, 0} when admitted, else the number of the limit and the milliseconds after which it would admit.
_ENTER: Final = """
local clock = redis.call('TIME')
local now = clock[1] * 1000 + math.floor(clock[2] / 1000)
local function level(name, size)
  local held = redis.call('HMGET', KEYS[1], name, name .. 'at')
  if not held[1] then return size end
  return math.min(size, tonumber(held[1]) + (now - tonumber(held[2])) * size / 60000)
end
local rpm, tpm, most, want = tonumber(ARGV[1]), tonumber(ARGV[2]), tonumber(ARGV[3]), tonumber(ARGV[4])
if most > 0 then
  redis.call('ZREMRANGEBYSCORE', KEYS[2], '-inf', now)
  if redis.call('ZCARD', KEYS[2]) >= most then return {1, 1000} end
end
local tokens, requests = level('t', tpm), level('r', rpm)
if tpm > 0 and tokens < want and tokens < tpm then
  return {2, math.ceil((math.min(want, tpm) - tokens) * 60000 / tpm)}
end
if rpm > 0 and requests < 1 then return {3, math.ceil((1 - requests) * 60000 / rpm)} end
redis.call('HSET', KEYS[1], 't', tokens - want, 'tat', now, 'r', requests - 1, 'rat', now)
redis.call('PEXPIRE', KEYS[1], 3600000)
if most > 0 then
  redis.call('ZADD', KEYS[2], now + ARGV[6], ARGV[5])
  redis.call('PEXPIRE', KEYS[2], ARGV[6])
end
return {0, 0}
"""
# KEYS: the same. ARGV: request id, tokens to give back (negative: used in excess).
_LEAVE: Final = """
redis.call('ZREM', KEYS[2], ARGV[1])
if redis.call('HEXISTS', KEYS[1], 't') == 1 then redis.call('HINCRBYFLOAT', KEYS[1], 't', ARGV[2]) end
return 0
"""
# KEYS: breakers. ARGV: replica, then name and milliseconds of each target that it leaves alone by its own experience.
# Answer: name and milliseconds of those of others.
_BREAKERS: Final = """
local clock = redis.call('TIME')
local now = clock[1] * 1000 + math.floor(clock[2] / 1000)
for i = 2, #ARGV, 2 do redis.call('HSET', KEYS[1], ARGV[i], (now + ARGV[i + 1]) .. '|' .. ARGV[1]) end
local out, rows = {}, redis.call('HGETALL', KEYS[1])
for i = 1, #rows, 2 do
  local untill, who = string.match(rows[i + 1], '^(%d+)|(.*)$')
  if tonumber(untill) <= now then redis.call('HDEL', KEYS[1], rows[i])
  elseif who ~= ARGV[1] then out[#out + 1] = rows[i]; out[#out + 1] = tonumber(untill) - now end
end
return out
"""


class Hub:
    """The connection of one worker to the site's Redis.

    Args:
        url: ``redis://…``; never logged.
    """

    def __init__(self, url: str) -> None:
        self._redis, self._errors = link(url, _WHY)
        self._enter = self._redis.register_script(_ENTER)
        self._leave = self._redis.register_script(_LEAVE)
        self._exchange = self._redis.register_script(_BREAKERS)
        self._breakers: Callable[[], Sequence[tuple[str, float]]] | None = None
        self._hint: Callable[[str, float], None] | None = None
        self._waiting: deque[tuple[list[str], list[Any]]] = deque(maxlen=_MAX_WAITING)
        self._wake = asyncio.Event()
        self._task: asyncio.Task[None] | None = None
        self.id = secrets.token_hex(6)
        self.connected = False

    def share_breakers(
        self, own: Callable[[], Sequence[tuple[str, float]]], hint: Callable[[str, float], None]
    ) -> None:
        """Tell others of (name, seconds) of targets that are left alone by own experience, and hear of theirs."""
        self._breakers, self._hint = own, hint

    async def start(self) -> None:
        """Connect, and begin the beat."""
        await self._connect()
        self._task = asyncio.create_task(self._run())

    async def close(self) -> None:
        """Send what waits, where Redis is there, and end."""
        if self._task is not None:
            self._task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._task
        if self.connected:
            with contextlib.suppress(*self._errors):
                await self._send()
        await self._redis.aclose()

    async def enter(self, keys: list[str], arguments: list[Any]) -> Exceeded | bool:
        """Ask for admission: True, or the limit that refuses (its size is the caller's to know); False without Redis."""
        if not self.connected:
            return False
        try:
            which, wait_ms = await self._enter(keys, [*arguments, _LEASE_MS])
        except self._errors as error:
            self._lost(error)
            return False
        return Exceeded(_LIMITS[which], 0, wait_ms / 1000) if which else True

    def leave(self, keys: list[str], arguments: list[Any]) -> None:
        """A request is over; Redis hears of it soon."""
        self._waiting.append((keys, arguments))
        self._wake.set()

    def _lost(self, error: Exception) -> None:
        if self.connected:
            _log.error("Redis is lost (%s): every limit is this replica's part of it", mask(type(error).__name__))
        self.connected = False

    async def _connect(self) -> None:
        try:
            await self._redis.ping()
        except self._errors as error:
            self._lost(error)
            return
        if self._task is not None:
            _log.warning("Redis is back: limits are shared again")
        self.connected = True

    async def _run(self) -> None:
        while True:
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._wake.wait(), _BEAT_S)
            self._wake.clear()
            if not self.connected:
                self._waiting.clear()  # their levels refill by themselves, their places end with the lease
                await asyncio.sleep(_BEAT_S)
                await self._connect()
            if self.connected:
                try:
                    await self._send()
                    await self._tell_breakers()
                except self._errors as error:
                    self._lost(error)

    async def _send(self) -> None:
        while self._waiting:
            keys, arguments = self._waiting[0]
            await self._leave(keys, arguments)
            self._waiting.popleft()

    async def _tell_breakers(self) -> None:
        if self._breakers is None or self._hint is None:
            return
        own = [each for name, seconds in self._breakers() for each in (name, int(seconds * 1000))]
        rows = await self._exchange(["{llmops}:breakers"], [self.id, *own])
        for name, wait_ms in zip(rows[::2], rows[1::2], strict=True):
            self._hint(name, float(wait_ms) / 1000)


class RemoteLimit:
    """The limits of one key or target over all replicas, beside the ``Limiter`` of this one.

    Args:
        hub: Where they are kept.
        share: One of this replica's part of the size, which decides while Redis is away.
        name: What is limited.
        sizes: Requests and tokens a minute and concurrent requests; 0 does not limit.
    """

    def __init__(self, hub: Hub, share: Limiter, name: str, sizes: tuple[int, int, int]) -> None:
        self._hub = hub
        self._share = share
        self._keys = [f"{{llmops}}:limit:{name}", f"{{llmops}}:running:{name}"]
        self._sizes = sizes

    async def enter(self, ticket: str, tokens: int, now: float) -> Exceeded | None:
        """Admit a request called ``ticket``, or say which limit refuses it. Admitted: ``leave`` later."""
        answer = await self._hub.enter(self._keys, [*self._sizes, tokens, ticket])
        if answer is True:
            self._share.owe(tokens, now)
            return None
        if answer is False:
            return self._share.enter(tokens, now)
        sizes = dict(zip(("requests per minute", "tokens per minute", "concurrent requests"), self._sizes, strict=True))
        return Exceeded(answer.limit, sizes[answer.limit], answer.wait_s)

    def leave(self, ticket: str, reserved: int, used: int | None) -> None:
        """The request is over."""
        self._share.leave(reserved, used)
        self._hub.leave(self._keys, [ticket, reserved - (used or 0)])
