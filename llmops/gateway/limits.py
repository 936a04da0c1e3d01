"""Rate limits: token buckets for requests and tokens a minute, and a count of what runs at once."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from llmops.gateway.config import Limits

if TYPE_CHECKING:
    from llmops.gateway.state.hub import RemoteLimit


class Bucket:
    """Refills evenly to ``capacity`` within a minute. What was taken too much is owed."""

    __slots__ = ("_full", "_level", "_per_s", "_when", "capacity")

    def __init__(self, capacity: int, now: float) -> None:
        self.capacity = capacity
        self._per_s = capacity / 60
        self._level = self._full = float(capacity)
        self._when = now

    def level(self, now: float) -> float:
        """What is there now."""
        level = self._level + (now - self._when) * self._per_s
        if level > self._full:  # noqa: PLR1730 - every request comes by here, and ``min`` takes three times as long
            level = self._full
        self._level = level
        self._when = now
        return level

    def set(self, level: float, when: float) -> None:
        """Take over a state from elsewhere."""
        self._level, self._when = level, when

    def state(self) -> tuple[float, float]:
        """(level, time)."""
        return self._level, self._when

    def take(self, amount: float, now: float) -> bool:
        """Take all of ``amount`` or nothing. What is more than the whole bucket passes when the bucket is full."""
        level = self._level + (now - self._when) * self._per_s  # as ``level``, without the call
        if level > self._full:  # noqa: PLR1730 - the same
            level = self._full
        self._when = now
        if level < amount and level < self._full:
            self._level = level
            return False
        self._level = level - amount
        return True

    def owe(self, amount: float, now: float) -> None:
        """Take what was admitted elsewhere, and owe at most one minute for it."""
        self._level = max(self.level(now) - amount, -float(self.capacity))

    def give(self, amount: float) -> None:
        """Return what was not used; a negative amount takes what was used in excess."""
        self._level += amount  # a level over the capacity is cut when it is next read

    def wait_s(self, amount: float, now: float) -> float:
        """Seconds until ``amount`` could be taken."""
        return max(0.0, (min(amount, self.capacity) - self.level(now)) * 60 / self.capacity)


@dataclass(frozen=True)
class Exceeded:
    """Which limit refuses, its size, and after how many seconds it would not."""

    limit: str
    size: int
    wait_s: float


LimiterMaker = Callable[[Limits, str], "Limiter"]


class Limiter:
    """The limits of one key or one target, in this process. ``remote`` holds over replicas, and is asked after it."""

    __slots__ = ("_buckets", "_concurrent", "_requests", "_tokens", "remote", "running")

    def __init__(self, form: Limits, now: float | None = None) -> None:
        now = time.monotonic() if now is None else now
        self._requests = Bucket(form.requests_per_minute, now) if form.requests_per_minute else None
        self._tokens = Bucket(form.tokens_per_minute, now) if form.tokens_per_minute else None
        self._concurrent = form.concurrent
        named = (("requests", self._requests), ("tokens", self._tokens))
        self._buckets = [
            (bucket, name, f"x-ratelimit-limit-{name}: {bucket.capacity}\r\nx-ratelimit-remaining-{name}: ")
            for name, bucket in named
            if bucket is not None
        ]
        self.remote: RemoteLimit | None = None
        self.running = 0

    def enter(self, tokens: int, now: float) -> Exceeded | None:
        """Admit a request with an estimate of its tokens, or say which limit refuses it. Admitted: ``leave`` later."""
        if self._concurrent is not None and self.running >= self._concurrent:
            return Exceeded("concurrent requests", self._concurrent, 1.0)
        if self._tokens is not None and not self._tokens.take(tokens, now):
            return Exceeded("tokens per minute", self._tokens.capacity, self._tokens.wait_s(tokens, now))
        if self._requests is not None and not self._requests.take(1, now):
            if self._tokens is not None:
                self._tokens.give(tokens)
            return Exceeded("requests per minute", self._requests.capacity, self._requests.wait_s(1, now))
        self.running += 1
        return None

    def owe(self, tokens: int, now: float) -> None:
        """Count a request that was admitted elsewhere; ``leave`` later."""
        for bucket, amount in ((self._tokens, tokens), (self._requests, 1)):
            if bucket is not None:
                bucket.owe(amount, now)
        self.running += 1

    def leave(self, reserved: int, used: int | None) -> None:
        """The request is over: correct the estimate by what was really used (None: nothing was)."""
        self.running -= 1
        if self._tokens is not None:
            self._tokens.give(reserved - (used or 0))

    def headers(self, dialect: str, now: float) -> str:
        """The limits and what is left of them, in the caller's dialect."""
        out = ""
        for bucket, name, start in self._buckets:
            level, size = bucket.level(now), bucket.capacity
            left = int(level) if level > 0 else 0
            full_in_ms = int((size - level) * 60_000 / size)
            if dialect == "openai":
                out += f"{start}{left}\r\nx-ratelimit-reset-{name}: {full_in_ms}ms\r\n"
            else:
                at = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(time.time() + math.ceil(full_in_ms / 1000)))
                what = f"anthropic-ratelimit-{name}"
                out += f"{what}-limit: {size}\r\n{what}-remaining: {left}\r\n{what}-reset: {at}\r\n"
        return out
