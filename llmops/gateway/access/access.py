"""Checking a credential, whatever its kind: the one object that the request's way asks."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from hmac import compare_digest

from llmops.gateway.access.callers import CallerDatabase, Secret, Snapshot
from llmops.gateway.access.claims import identity_maker
from llmops.gateway.access.config import AccessConfig, JwtConfig
from llmops.gateway.access.identity import Denied, Identity
from llmops.gateway.access.jwks import Jwks, http_fetch
from llmops.gateway.access.keyform import PREFIX, Digester, name_of, well_formed
from llmops.gateway.access.service_tokens import ISSUER, ServiceKeys
from llmops.gateway.access.service_tokens import rules as service_rules
from llmops.gateway.access.tokens import TokenRules, TokenVerifier, looks_signed, unverified_issuer

_PREFIX = PREFIX.encode()
_EMPTY = Snapshot({}, {}, frozenset(), {})


class Access:
    """Checks credentials of all kinds.

    Args:
        config: The ``access:`` part of the config.
        static: Keys of the config itself: SHA-256 digest -> identity.
        now: Wall clock, epoch seconds.
        fetch: Makes the function that reads a JWKS URL; replaced in tests.
    """

    def __init__(
        self,
        config: AccessConfig,
        static: Mapping[bytes, Identity] | None = None,
        *,
        now: Callable[[], float] = time.time,
        fetch: Callable[[str], Callable[[], bytes]] = http_fetch,
    ) -> None:
        self._now = now
        self._static = dict(static or {})
        self._database = CallerDatabase(config.callers, create=True) if config.callers is not None else None
        self._state = _EMPTY
        self._services = TokenVerifier(service_rules(), ServiceKeys({}), now)
        self._issuers = {each.issuer: _verifier(each, fetch(each.jwks_url), now) for each in config.jwt}
        self.maintain()

    @property
    def configured(self) -> bool:
        """Whether anyone could pass: without, the gateway must not listen beyond this machine."""
        return bool(self._static or self._database or self._issuers)

    def maintain(self) -> None:
        """Take over what other processes changed: new, rotated and revoked callers, service keys, revocations."""
        if self._database is None or not self._database.changed():
            return
        self._state = self._database.snapshot()
        self._services.keys = ServiceKeys(self._state.service_keys)
        self._services.forget()

    async def refresh_keys(self) -> None:
        """Fetch the keys of issuers whose time to live is over. For start and a timer."""
        for _, keys in self._issuers.values():
            if keys.due:
                await keys.refresh()

    def check(self, credential: bytes | None, digester: Digester | None = None) -> Identity | None:
        """The caller, from memory alone; None when an issuer's keys must be fetched first (``check_slowly``).

        Args:
            credential: From ``pick_credential``.
            digester: The connection's, where it has one.

        Raises:
            Denied: 401 or 403.
        """
        if credential is None:
            raise Denied(401, "missing_credential", "no API key or token was sent", "no credential")
        digest = (digester or Digester()).digest(credential)
        if self._static:
            found = self._static.get(digest)
            if found is not None:
                return found
        if credential.startswith(_PREFIX):
            return self._by_key(credential, digest)
        if looks_signed(credential):
            return self._by_token(credential, digest)
        raise Denied(401, "invalid_api_key", "the API key is not valid here", "unknown key")

    async def check_slowly(self, credential: bytes) -> Identity:
        """``check``, after refreshing the issuer's keys where that is allowed now.

        Raises:
            Denied: 401 or 403; 503 when the issuer cannot be reached and no key is usable.
        """
        verifier, keys = self._issuer_of(credential)
        if await keys.refresh():
            verifier.forget()
        identity = verifier.verify(credential)
        if identity is not None:
            return identity
        if not keys.usable:
            raise Denied(
                503,
                "identity_unavailable",
                "tokens cannot be checked at the moment",
                "no usable keys of the issuer",
                30,
            )
        raise Denied(401, "invalid_token", "the token is not valid here", "unknown key id")

    def _by_key(self, credential: bytes, digest: bytes) -> Identity:
        found = self._state.secrets.get(name_of(credential))
        # An unknown name is compared too, so that both ways take the same time.
        expected = found.digest if found is not None else b"\0" * 32
        if not compare_digest(digest, expected) or found is None:
            typed = not well_formed(credential.decode("latin-1"))
            detail = "mistyped key" if typed else "unknown key"
            raise Denied(401, "invalid_api_key", "the API key is not valid here", detail)
        return self._unless_expired(found)

    def _unless_expired(self, found: Secret) -> Identity:
        if found.expires is not None and self._now() >= found.expires:
            raise Denied(401, "expired_api_key", "the API key has expired", f"{found.identity.key}: expired key")
        return found.identity

    def _by_token(self, credential: bytes, digest: bytes) -> Identity | None:
        # The cache of each verifier first: reading the issuer costs more than a look-up.
        for verifier, _ in self._issuers.values():
            known = verifier.remembered(digest)
            if known is not None:
                return known
        known = self._services.remembered(digest)
        if known is None and unverified_issuer(credential) == ISSUER:
            known = self._services.verify(credential)
            if known is None:
                raise Denied(401, "invalid_token", "the token is not valid here", "unknown service key")
        if known is not None:
            return self._unless_revoked(known)
        return self._issuer_of(credential)[0].verify(credential)

    def _unless_revoked(self, identity: Identity) -> Identity:
        before = self._state.revoked_services.get(identity.key.removeprefix("service:"))
        if identity.token_id in self._state.revoked_tokens or (before is not None and identity.issued_at <= before):
            raise Denied(401, "revoked_token", "the token was revoked", f"{identity.key}: revoked token")
        return identity

    def _issuer_of(self, credential: bytes) -> tuple[TokenVerifier, Jwks]:
        found = self._issuers.get(unverified_issuer(credential))
        if found is None:
            raise Denied(401, "invalid_token", "the token is not valid here", "unknown issuer")
        return found


def _verifier(config: JwtConfig, fetch: Callable[[], bytes], now: Callable[[], float]) -> tuple[TokenVerifier, Jwks]:
    keys = Jwks(fetch, ttl_s=config.ttl_s, gap_s=config.refresh_gap_s, max_stale_s=config.max_stale_s)
    rules = TokenRules(
        config.issuer,
        config.audience,
        frozenset(config.algorithms),
        identity_maker(config),
        config.skew_s,
        config.cache_s,
    )
    return TokenVerifier(rules, keys, now), keys
