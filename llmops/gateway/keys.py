"""Callers: the keys of the config, of which only digests are kept, and what ``access/`` knows beside them."""

from __future__ import annotations

import hashlib
import logging
import os
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from llmops.errors import AccessError
from llmops.gateway.access import ANONYMOUS, CallerLimits, Denied, Identity, Scopes, pick_credential
from llmops.gateway.access.keyform import Digester
from llmops.gateway.config import Gateway, Key, Limits
from llmops.gateway.limits import Limiter, LimiterMaker
from llmops.gateway.refusal import Refusal

if TYPE_CHECKING:
    from llmops.gateway.access.access import Access
    from llmops.gateway.money import Payer

_log = logging.getLogger("llmops.gateway")
_MAX_CALLERS = 10_000


@dataclass(eq=False)
class Caller:
    """Who asks, and what that one may."""

    identity: Identity
    limiter: Limiter | None
    admin: bool
    payer: Payer | None = None

    @property
    def name(self) -> str:
        """The stable name of its key."""
        return self.identity.key

    @property
    def tenant(self) -> str:
        """Whose caches and budgets these are."""
        return self.identity.tenant

    def may_use(self, model: str) -> bool:
        """Whether this caller may ask for a model."""
        return self.identity.scopes.allows_model(model)


class Keyring:
    """Finds the caller of a request. Without keys everyone is the same caller (and ``refuse_open`` keeps strangers out)."""

    def __init__(self, config: Gateway, limiter: LimiterMaker) -> None:
        self._limiter = limiter
        static = {_digest_of(key): _identity(key) for key in config.keys}
        self.access = _access(config)
        self._callers: dict[str, Caller] = {}
        self._by_digest = {digest: self._caller(identity) for digest, identity in static.items()}
        self._anyone = Caller(ANONYMOUS, None, admin=True)

    def identify(self, authorization: bytes | None, api_key: bytes | None, digester: Digester) -> Caller | None:
        """The caller of a request, by ``Authorization: Bearer`` or ``x-api-key``; None: ask ``identify_slowly``.

        Args:
            authorization: The header's value.
            api_key: The header's value.
            digester: The connection's.

        Raises:
            Refusal: 401, without saying what was wrong with the credential, nor repeating it.
        """
        if not self._by_digest and self.access is None:
            return self._anyone
        try:
            secret = pick_credential(authorization, api_key)
            if secret is not None and self._by_digest:
                # By digest: an attacker cannot steer a digest byte by byte, so the look-up's timing says nothing.
                caller = self._by_digest.get(digester.digest(secret))
                if caller is not None:
                    return caller
            if self.access is not None:
                identity = self.access.check(secret, digester)
                return None if identity is None else self._caller(identity)
        except Denied as denied:
            raise refused(denied) from None
        if secret is None:
            message = "no API key was given; send it as 'Authorization: Bearer KEY'"
            raise refused(Denied(401, "missing_api_key", message, "no credential"))
        raise refused(Denied(401, "invalid_api_key", "the API key is not valid", "unknown key"))

    async def identify_slowly(self, authorization: bytes | None, api_key: bytes | None) -> Caller:
        """``identify`` for a token whose issuer's keys must be fetched first.

        Raises:
            Refusal: As ``identify``; 503 when the issuer does not answer.
        """
        assert self.access is not None
        try:
            secret = pick_credential(authorization, api_key)
            assert secret is not None
            return self._caller(await self.access.check_slowly(secret))
        except Denied as denied:
            raise refused(denied) from None

    def _caller(self, identity: Identity) -> Caller:
        """One caller object, with its limits, for each name; renewed when its scopes or limits changed."""
        known = self._callers.get(identity.key)
        if known is not None and known.identity is identity:
            return known
        limits = Limits(
            requests_per_minute=identity.limits.requests_per_minute,
            tokens_per_minute=identity.limits.tokens_per_minute,
            concurrent=identity.limits.concurrent,
        )
        same = known is not None and known.identity.limits == identity.limits
        limiter = known.limiter if same and known is not None else None
        if limiter is None and limits.any:
            limiter = self._limiter(limits, f"key {identity.key}")
        if len(self._callers) >= _MAX_CALLERS:
            self._callers.clear()
        made = self._callers[identity.key] = Caller(identity, limiter, admin="admin" in identity.scopes.words)
        return made


def refused(denied: Denied, message: str | None = None, param: str | None = None) -> Refusal:
    """The answer to a caller who is denied something, which is logged here and nowhere else."""
    _log.warning("%s", denied.log_line)
    return Refusal(
        denied.status, message or denied.message, code=denied.code, param=param, retry_after_s=denied.retry_after_s
    )


def _access(config: Gateway) -> Access | None:
    if config.access is None:
        return None
    from llmops.gateway.access.access import Access

    return Access(config.access)


def read_secret(env: str | None, file: Path | None, whose: str) -> str | None:
    """A secret from the environment or a file.

    Raises:
        AccessError: It was named but is not there.
    """
    if env is not None:
        value = os.environ.get(env, "").strip()
        if not value:
            raise AccessError(f"{whose}: the environment variable {env} is not set", f"export {env}=…")
        return value
    if file is not None:
        try:
            value = file.read_text(encoding="utf-8").strip()
        except OSError as error:
            raise AccessError(f"{whose}: cannot read {file}: {error.strerror}", "check key_file") from error
        if not value:
            raise AccessError(f"{whose}: {file} is empty", "put the key into it")
        return value
    return None


def _digest_of(key: Key) -> bytes:
    if key.sha256 is not None:
        return bytes.fromhex(key.sha256)
    secret = read_secret(key.env, key.file, f"key {key.name!r}")
    assert secret is not None
    return hashlib.sha256(secret.encode()).digest()


def _identity(key: Key) -> Identity:
    """A key of the config: it may do everything with its models."""
    scopes = ["chat", "embeddings", *(f"models:{model}" for model in key.models)]
    limits = CallerLimits(key.limits.requests_per_minute, key.limits.tokens_per_minute, key.limits.concurrent)
    return Identity("key", key.name, key.tenant, "", Scopes.of([*scopes, *(["admin"] if key.admin else [])]), limits)
