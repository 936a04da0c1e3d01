"""When to try again, where, and when to leave a target alone. Pure decisions over an injected clock.

* Retryable: no connection, a timeout before the answer, 408, 429, 5xx, an ``error`` object inside a 200. Never another 4xx.
* A retry goes to the next target at once where there is one, else it waits: exponential with full jitter, or what
  Retry-After says, inside the request's deadline.
* Second attempts at a target draw on a retry budget (a share of requests), so that a dead upstream is not flooded;
  moving on to another target does not.
* A breaker belongs to one target and one kind of failure. A caller's own 4xx is no failure.
"""

from __future__ import annotations

import random
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import Final, Literal

from llmops.gateway.config import Breaker as BreakerForm
from llmops.gateway.config import Retry

FailureKind = Literal["connect", "timeout", "rate_limit", "server", "protocol", "credentials", "caller"]
KINDS: Final[tuple[FailureKind, ...]] = ("connect", "timeout", "rate_limit", "server", "protocol", "credentials")
_COOLING: Final = frozenset({"connect", "timeout", "rate_limit", "server", "protocol"})
_ELSEWHERE_ONLY: Final = frozenset({"credentials"})


class Failure(Exception):  # noqa: N818 - an ordinary outcome of an attempt, decided upon, rarely raised
    """One attempt that failed.

    Attributes:
        kind: What failed; ``caller`` is the caller's own mistake and is passed on.
        status: The HTTP status for the caller if nothing else is tried.
        message: What happened, without secrets.
        retry_after_s: What the upstream asked for.
        code: The upstream's error code.
        param: The field it complained about.
    """

    def __init__(  # noqa: PLR0917 - its fields in the order of their weight; most failures have the first three
        self,
        kind: FailureKind,
        status: int,
        message: str,
        retry_after_s: float | None = None,
        code: str | None = None,
        param: str | None = None,
    ) -> None:
        super().__init__(message)
        self.kind: FailureKind = kind
        self.status = status
        self.message = message
        self.retry_after_s = retry_after_s
        self.code = code
        self.param = param

    @property
    def retryable(self) -> bool:
        """Whether the same target may be asked again."""
        return self.kind in _COOLING

    @property
    def elsewhere(self) -> bool:
        """Whether another target may be asked."""
        return self.kind != "caller"


def kind_of_status(status: int, *, own_key: bool) -> FailureKind:
    """The kind of an upstream's error status. A refused key is the gateway's fault when the gateway sent its own."""
    if status == 429:
        return "rate_limit"
    if status == 408:
        return "timeout"
    if status in (401, 403) and own_key:
        return "credentials"
    return "server" if status >= 500 else "caller"


def parse_retry_after(value: bytes | str | None, now: datetime | None = None) -> float | None:
    """Seconds from a Retry-After header in either form, seconds or an HTTP date; None when absent or nonsense."""
    if not value:
        return None
    text = value.decode("latin-1") if isinstance(value, bytes) else value
    text = text.strip()
    try:
        seconds = float(text)
        return seconds if 0 <= seconds < 1e7 else None
    except ValueError:
        pass
    try:
        when: datetime = parsedate_to_datetime(text)
    except (ValueError, TypeError):
        return None
    if when.tzinfo is None:
        when = when.replace(tzinfo=UTC)
    left: float = (when - (now or datetime.now(UTC))).total_seconds()
    return max(0.0, left)


def backoff_s(retry: Retry, attempt: int, draw: float | None = None) -> float:
    """Seconds before attempt ``attempt`` + 1: uniform in [0, min(max, base · 2^(attempt-1))] ("full jitter")."""
    ceiling = min(retry.max_ms, retry.base_ms * 2.0 ** (attempt - 1)) / 1000
    return ceiling * (random.random() if draw is None else draw)


class RetryBudget:
    """Allows retries up to a share of requests, plus a small reserve so that quiet gateways may retry too."""

    __slots__ = ("_share", "_tokens")
    RESERVE: Final = 10.0

    def __init__(self, share: float) -> None:
        self._share = share
        self._tokens = self.RESERVE if share else 0.0

    def request(self) -> None:
        """A request came."""
        self._tokens = min(self.RESERVE * 10, self._tokens + self._share)

    def take(self) -> bool:
        """Whether one retry may be made now."""
        if self._tokens < 1:
            return False
        self._tokens -= 1
        return True


class Breaker:
    """One target and one kind of failure: closed -> open -> half-open (one probe) -> closed, or open for twice as long."""

    __slots__ = (
        "_failed", "_form", "_hinted_until", "_in_row", "_next_open_s", "_probe_until", "_since", "_successes",
        "_window_from", "open_until",
    )  # fmt: skip

    def __init__(self, form: BreakerForm) -> None:
        self._form = form
        self._in_row = self._failed = 0
        self._successes = self._since = 0
        self._window_from = 0.0
        self._next_open_s = form.open_s
        self._probe_until = 0.0
        self._hinted_until = 0.0
        self.open_until = 0.0

    def hint(self, until: float) -> None:
        """Another replica leaves the target alone until then; it knows why."""
        if until > self.open_until:
            self.open_until = self._hinted_until = until

    def own_s(self, now: float) -> float:
        """Seconds for which it stays open by what was seen here."""
        return self.open_until - now if self.open_until > max(now, self._hinted_until) else 0.0

    def blocks(self, now: float) -> float:
        """Seconds for which the target is to be left alone; 0 when it may be asked."""
        if not self.open_until:
            return 0.0
        return max(0.0, max(self.open_until, self._probe_until) - now)

    def asked(self, now: float) -> None:
        """A request goes to the target; while half-open it is the probe, and nobody else goes until it is back."""
        if self.open_until:
            self._probe_until = now + self._form.open_s

    def succeeded(self) -> None:
        """It answered while this was open."""
        self.open_until = self._probe_until = 0.0
        self._next_open_s = self._form.open_s
        self._in_row = self._failed = 0

    def failed(self, now: float, successes: int, retry_after_s: float | None = None) -> None:
        """It failed in this kind.

        Args:
            now: Monotonic seconds.
            successes: Good answers of the target so far, of any time.
            retry_after_s: It said for how long to leave it alone.
        """
        if now - self._window_from > self._form.window_s:
            self._window_from = now
            self._failed, self._since = 0, successes
        if successes != self._successes:  # something went well since the last failure
            self._successes = successes
            self._in_row = 0
        self._in_row += 1
        self._failed += 1
        seen = successes - self._since + self._failed
        share = seen >= self._form.min_requests and self._failed / seen >= self._form.share
        if retry_after_s:
            self.open_until = max(self.open_until, now + min(retry_after_s, self._form.max_open_s * 10))
            self._probe_until = 0.0
        elif self._in_row >= self._form.failures or share or self.open_until:
            self.open_until = now + self._next_open_s
            self._probe_until = 0.0
            self._next_open_s = min(self._next_open_s * 2, self._form.max_open_s)
