"""What it means that a target gave no answer, and what the caller is told when none of them did."""

from __future__ import annotations

import math
import time
from typing import TYPE_CHECKING, Final

from llmops.gateway.refusal import Refusal
from llmops.gateway.resilience import Failure, FailureKind
from llmops.gateway.upstream import PoolFullError
from llmops.http1 import TransferError

if TYPE_CHECKING:
    from llmops.gateway.call import Call
    from llmops.gateway.targets import Target

_KIND_OF_TRANSFER: Final[dict[str, tuple[FailureKind, int]]] = {
    "dns": ("connect", 502),
    "refused": ("connect", 502),
    "unreachable": ("connect", 502),
    "tls": ("connect", 502),
    "connect-timeout": ("connect", 504),
    "first-byte-timeout": ("timeout", 504),
    "idle-timeout": ("timeout", 504),
    "total-timeout": ("timeout", 504),
}


def not_answered(name: str, error: TransferError | PoolFullError) -> Failure:
    if isinstance(error, PoolFullError):
        return Failure("connect", 503, f"{name} has no free connection")
    kind, status = _KIND_OF_TRANSFER.get(error.kind, ("protocol", 502))
    return Failure(kind, status, f"{name}: {error}", code=f"upstream_{error.kind.replace('-', '_')}")


def final(failure: Failure, candidates: list[Target]) -> Refusal:
    """The refusal that the caller gets when trying is over. A 429 always says when to come back."""
    after = failure.retry_after_s
    if failure.status in (429, 503, 529) and after is None:
        now = time.monotonic()
        blocked = min((target.blocked_s(now) for target in candidates), default=0.0)
        after = blocked if 0 < blocked < math.inf else 1.0
    return Refusal(failure.status, failure.message, code=failure.code, param=failure.param, retry_after_s=after)


def none_free(call: Call, candidates: list[Target]) -> Refusal:
    """Every target is being left alone, or over its limits."""
    now = time.monotonic()
    waits = [target.blocked_s(now) for target in candidates]
    limited = any(target.breakers["rate_limit"].blocks(now) or not target.blocked_s(now) for target in candidates)
    soonest = min(waits)
    after = soonest if 0 < soonest < math.inf else 1.0
    what = "over its rate limit" if limited else "not answering"
    return Refusal(
        429 if limited else 503,
        f"every target of {call.route.label!r} is {what}; try again in {math.ceil(after)} s",
        code="targets_unavailable",
        retry_after_s=after,
    )
