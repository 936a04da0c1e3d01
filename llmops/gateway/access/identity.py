"""Who a caller is and what the caller may do. Pure values."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from typing import Final, Literal

from llmops.masking import mask

MAX_CREDENTIAL_BYTES: Final = 8192
_MODELS: Final = "models:"
_REMEMBERED: Final = 512  # answers about model names kept per caller; names come from callers, so the number is bounded

Kind = Literal["anonymous", "key", "jwt", "service"]


class Denied(Exception):  # noqa: N818 - reads as what it is: the answer "no", not a failure of the program
    """A caller is refused.

    Attributes:
        status: HTTP status: 401, 403, 404, or 503 when identity cannot be checked now.
        code: Stable word for the error body.
        message: For the caller; never contains what the caller sent.
        detail: For the log; made safe, without secrets.
        retry_after_s: When asking again makes sense.
    """

    def __init__(
        self, status: int, code: str, message: str, detail: str = "", retry_after_s: float | None = None
    ) -> None:
        super().__init__(message)
        self.status = status
        self.code = code
        self.message = message
        self.detail = detail
        self.retry_after_s = retry_after_s

    @property
    def log_line(self) -> str:
        """One line without control characters or secrets."""
        return safe_text(f"denied {self.status} {self.code}: {self.detail or self.message}")


def safe_text(text: str, limit: int = 200) -> str:
    """Text of a caller made fit for a log: one line, no control or direction characters, no secrets, bounded."""
    shown = "".join(char if char.isprintable() else f"\\u{ord(char):04x}" for char in text[: 4 * limit])
    shown = mask(shown)
    return shown if len(shown) <= limit else shown[:limit] + "…"


@dataclass(frozen=True)
class CallerLimits:
    """Rate limits of one caller; None does not limit."""

    requests_per_minute: int | None = None
    tokens_per_minute: int | None = None
    concurrent: int | None = None


@dataclass(frozen=True)
class Scopes:
    """What a caller may do: words such as ``chat``, ``embeddings``, ``admin``, and ``models:PATTERN``.

    Nothing is implied: without a ``models:`` scope no model may be used, and ``models:*`` is all of them.
    """

    words: frozenset[str]
    patterns: tuple[str, ...]
    _answers: dict[str, bool] = field(default_factory=dict, compare=False, repr=False)

    @classmethod
    def of(cls, scopes: Iterable[str]) -> Scopes:
        """From scope strings; order and repetition do not matter."""
        listed = sorted(set(scopes))
        patterns = tuple(scope.removeprefix(_MODELS) for scope in listed if scope.startswith(_MODELS))
        return cls(frozenset(scope for scope in listed if not scope.startswith(_MODELS)), patterns)

    def allows_model(self, model: str) -> bool:
        """Whether a ``models:`` scope covers this name."""
        answer = self._answers.get(model)
        if answer is None:
            if len(self._answers) >= _REMEMBERED:
                self._answers.clear()
            answer = any(pattern == "*" or fnmatchcase(model, pattern) for pattern in self.patterns)
            self._answers[model] = answer
        return answer

    def listed(self) -> tuple[str, ...]:
        """The scope strings, sorted."""
        return tuple(sorted({*self.words, *(_MODELS + pattern for pattern in self.patterns)}))


@dataclass(frozen=True)
class Identity:
    """A caller whose credential was checked.

    Attributes:
        kind: How.
        key: Stable name for limits, budgets and the ledger; survives rotation of the secret.
        tenant: Whose caches, budgets and rows these are.
        team: Part of the tenant, or empty.
        scopes: What it may do.
        limits: Its own rate limits.
        token_id: ``jti`` of a token; empty for keys.
        expires_at: Epoch seconds, or None.
        issued_at: Epoch seconds, of tokens.
    """

    kind: Kind
    key: str
    tenant: str
    team: str
    scopes: Scopes
    limits: CallerLimits = CallerLimits()
    token_id: str = ""
    expires_at: float | None = None
    issued_at: float = 0.0

    def require(self, scope: str) -> None:
        """Refuse unless the caller has ``scope``.

        Raises:
            Denied: 403.
        """
        if scope not in self.scopes.words:
            raise Denied(403, "missing_scope", f"this credential lacks the scope {scope!r}", f"{self.key}: {scope}")

    def require_model(self, model: str) -> None:
        """Refuse a model that no ``models:`` scope covers, as one that does not exist.

        Raises:
            Denied: 404.
        """
        if not self.scopes.allows_model(model):
            raise Denied(
                404,
                "model_not_found",
                f"the model {safe_text(model, 80)!r} does not exist or is not open to you",
                f"{self.key}: no scope for model {safe_text(model, 80)!r}",
            )


ANONYMOUS: Final = Identity("anonymous", "anonymous", "default", "", Scopes.of(("chat", "embeddings", "models:*")))


def pick_credential(authorization: bytes | None, x_api_key: bytes | None) -> bytes | None:
    """The credential of a request from its two headers, or None where it has none.

    Two different credentials are refused: which of them counts must not depend on who reads.

    Raises:
        Denied: 401: malformed, too long, or contradictory.
    """
    if authorization is not None and x_api_key is None and authorization.startswith(b"Bearer "):
        usual = authorization[7:].strip()
        if 0 < len(usual) <= MAX_CREDENTIAL_BYTES:
            return usual
    if authorization is None:
        found = x_api_key
    else:
        scheme, _, found = authorization.partition(b" ")
        found = found.strip()
        if scheme.lower() != b"bearer" or not found:
            raise Denied(401, "invalid_credential", "the Authorization header must be: Bearer <key or token>")
        if x_api_key is not None and x_api_key != found:
            raise Denied(401, "invalid_credential", "two different credentials were sent", "authorization != x-api-key")
    if not found:
        return None
    if len(found) > MAX_CREDENTIAL_BYTES:
        raise Denied(401, "invalid_credential", "the credential is too long", f"{len(found)} bytes")
    return found
