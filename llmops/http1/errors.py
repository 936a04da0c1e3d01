"""How an exchange can fail below HTTP."""

from __future__ import annotations

from typing import Literal

TransferKind = Literal[
    "dns",
    "refused",
    "unreachable",
    "connect-timeout",
    "tls",
    "closed-before-response",
    "cut",
    "reset",
    "first-byte-timeout",
    "idle-timeout",
    "total-timeout",
    "protocol",
    "head-too-large",
    "body-too-large",
    "receiver",
]


class TransferError(Exception):
    """An exchange ended without a whole answer.

    Attributes:
        kind: What happened, as a stable word for counters and decisions.
        safe_to_retry: The request was sent on a connection that had already served another one, and the server closed
            it before any byte of an answer: the usual race of a keep-alive connection that the server let go. Nothing
            else is ever marked safe here; a caller that knows the request is idempotent may decide otherwise.
    """

    def __init__(self, kind: TransferKind, message: str, *, safe_to_retry: bool = False) -> None:
        super().__init__(message)
        self.kind: TransferKind = kind
        self.safe_to_retry = safe_to_retry
