"""Verifying signed tokens: the checks of a JSON Web Token, in the order in which they cost nothing until they must."""

from __future__ import annotations

import json
import re
import time
from base64 import urlsafe_b64decode
from binascii import Error as Base64Error
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from hashlib import sha256
from typing import Any, Final, Protocol

from joserfc import jws
from joserfc.errors import JoseError
from joserfc.jws import JWSRegistry

from llmops.gateway.access.identity import MAX_CREDENTIAL_BYTES, Denied, Identity, safe_text
from llmops.gateway.access.jwks import PublicKey

# Public messages say what a caller can act on; they never say which part of a forged token was nearly right.
_SHAPE: Final = re.compile(rb"[A-Za-z0-9_-]{4,}\.[A-Za-z0-9_-]{4,}\.[A-Za-z0-9_-]{4,}")
_MAX_HEADER: Final = 2048
_MAX_CACHED: Final = 10_000


class KeySource(Protocol):
    """Where public keys come from."""

    @property
    def usable(self) -> bool: ...
    def key(self, kid: str | None, algorithm: str) -> PublicKey | None: ...
    def knows(self, kid: str | None) -> bool: ...


@dataclass(frozen=True, slots=True)
class TokenRules:
    """What a token must be. ``identify`` makes the caller from its claims and may refuse them."""

    issuer: str
    audience: str
    algorithms: frozenset[str]
    identify: Callable[[Mapping[str, Any]], Identity]
    skew_s: float = 30.0
    cache_s: float = 60.0


class _Registry(JWSRegistry):
    """The library's own with our size bounds, without its warning about the old name EdDSA, which issuers still use."""

    max_header_length = _MAX_HEADER
    max_payload_length = MAX_CREDENTIAL_BYTES

    def get_alg(self, name: str) -> Any:
        return self.algorithms[name]


class TokenVerifier:
    """Checks tokens of one issuer. Valid ones are remembered until they expire, at most ``cache_s``."""

    def __init__(self, rules: TokenRules, keys: KeySource, now: Callable[[], float] = time.time) -> None:
        self.rules = rules
        self.keys = keys
        self._now = now
        self._registry = _Registry(strict_check_header=False)
        self._valid: dict[bytes, tuple[Identity, float]] = {}

    def remembered(self, digest: bytes) -> Identity | None:
        """The caller of a token, by its SHA-256, that was valid a moment ago and still is."""
        found = self._valid.get(digest)
        if found is None:
            return None
        if self._now() >= found[1]:
            del self._valid[digest]
            return None
        return found[0]

    def verify(self, token: bytes) -> Identity | None:
        """The caller, or None when the token names a key that is not here (yet).

        Raises:
            Denied: 401, and 403 where the claims give no tenant; 503 while no key is usable.
        """
        digest = sha256(token).digest()
        known = self.remembered(digest)
        if known is not None:
            return known
        header = read_header(token)
        algorithm = header["alg"]
        if algorithm not in self.rules.algorithms:
            raise _invalid(f"algorithm {safe_text(str(algorithm), 20)!r} is not allowed")
        kid = header.get("kid")
        if not self.keys.usable or not self.keys.knows(kid):
            return None
        key = self.keys.key(kid, algorithm)
        if key is None:
            raise _invalid(f"key {safe_text(str(kid), 60)!r} is not for {algorithm}")
        claims = self._claims(token, key, algorithm)
        identity = self.rules.identify(claims)
        self._remember(digest, identity, float(claims["exp"]))
        return identity

    def forget(self) -> None:
        """Drop every remembered token, after keys changed."""
        self._valid.clear()

    def _claims(self, token: bytes, key: PublicKey, algorithm: str) -> dict[str, Any]:
        try:
            payload = jws.deserialize_compact(token, key, algorithms=[algorithm], registry=self._registry).payload
            claims = json.loads(payload, object_pairs_hook=_no_twins)
        except (JoseError, ValueError, TypeError, KeyError, RecursionError) as error:
            raise _invalid(f"signature or payload: {type(error).__name__}") from error
        if not isinstance(claims, dict):
            raise _invalid("the payload is no object")
        check_claims(claims, self.rules, self._now())
        return claims

    def _remember(self, digest: bytes, identity: Identity, expires: float) -> None:
        until = min(expires, self._now() + self.rules.cache_s)
        if until <= self._now():
            return
        if len(self._valid) >= _MAX_CACHED:
            del self._valid[next(iter(self._valid))]
        self._valid[digest] = (identity, until)


def looks_signed(credential: bytes) -> bool:
    """Whether a credential has the three parts of a signed token."""
    return credential.count(b".") == 2 and _SHAPE.fullmatch(credential) is not None


def read_header(token: bytes) -> dict[str, Any]:
    """The header of a token, not yet trusted.

    Raises:
        Denied: 401: malformed, or with a demand that nobody here meets.
    """
    if len(token) > MAX_CREDENTIAL_BYTES or not looks_signed(token):
        raise _invalid("not a signed token")
    header = _part(token.partition(b".")[0], _MAX_HEADER)
    if not isinstance(header.get("alg"), str) or not isinstance(header.get("kid", ""), str):
        raise _invalid("header without a proper alg or kid")
    if "crit" in header or header.get("b64", True) is not True or "zip" in header:
        raise _invalid("header demands an extension")
    if str(header.get("typ", "JWT")).lower().removeprefix("application/") not in ("jwt", "at+jwt"):
        raise _invalid("not an access token by its typ")
    return header


def unverified_issuer(token: bytes) -> str:
    """The issuer that a token claims, only to choose who verifies it.

    Raises:
        Denied: 401: malformed.
    """
    if not looks_signed(token):
        raise _invalid("not a signed token")
    issuer = _part(token.split(b".")[1], MAX_CREDENTIAL_BYTES).get("iss")
    if not isinstance(issuer, str):
        raise _invalid("no issuer")
    return issuer


def check_claims(claims: Mapping[str, Any], rules: TokenRules, now: float) -> None:
    """Issuer, audience and times of a payload; ``iss``, ``aud``, ``exp`` and ``nbf`` must be there.

    Raises:
        Denied: 401.
    """
    if claims.get("iss") != rules.issuer:
        raise _invalid("wrong issuer")
    audience = claims.get("aud")
    if rules.audience not in (audience if isinstance(audience, list) else [audience]):
        raise _invalid("wrong audience")
    times = {name: claims.get(name) for name in ("exp", "nbf")}
    if claims.get("iat") is not None:
        times["iat"] = claims["iat"]
    for name, value in times.items():
        if isinstance(value, bool) or not isinstance(value, (int, float)) or not abs(value) < 1e12:
            raise _invalid(f"{name} is missing or no time")
    if now >= times["exp"] + rules.skew_s:  # type: ignore[operator]  # the loop above made them numbers
        raise Denied(401, "token_expired", "the token has expired", "expired token")
    if now < max(times["nbf"], times.get("iat") or 0) - rules.skew_s:  # type: ignore[type-var, operator]  # as above
        raise Denied(401, "token_not_yet_valid", "the token is not valid yet", "token of the future")


def _invalid(detail: str) -> Denied:
    return Denied(401, "invalid_token", "the token is not valid here", detail)


def _part(text: bytes, limit: int) -> dict[str, Any]:
    if len(text) > limit:
        raise _invalid("a part is too long")
    try:
        found = json.loads(urlsafe_b64decode(text + b"=" * (-len(text) % 4)), object_pairs_hook=_no_twins)
    except (ValueError, Base64Error, RecursionError) as error:
        raise _invalid("a part is no JSON") from error
    if not isinstance(found, dict):
        raise _invalid("a part is no object")
    return found


def _no_twins(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """Refuse an object in which a name stands twice: readers disagree on which of them counts."""
    found = dict(pairs)
    if len(found) < len(pairs):
        raise ValueError("a name stands twice")
    return found
