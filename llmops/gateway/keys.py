"""Callers by a static list of keys. Only digests are kept."""

from __future__ import annotations

import hashlib
import os
from dataclasses import dataclass
from pathlib import Path

from llmops.errors import AccessError
from llmops.gateway.config import Gateway, Key, allows
from llmops.gateway.limits import Limiter, LimiterMaker
from llmops.gateway.refusal import Refusal


@dataclass(slots=True, eq=False)
class Caller:
    """Who asks, and what that one may."""

    name: str
    tenant: str
    models: tuple[str, ...]
    admin: bool
    limiter: Limiter | None

    def may_use(self, model: str) -> bool:
        """Whether this caller may ask for a model."""
        return self.models == ("*",) or allows(self.models, model)


class Keyring:
    """Finds the caller of a request. Without keys everyone is the same caller (and ``refuse_open`` keeps strangers out)."""

    def __init__(self, config: Gateway, limiter: LimiterMaker) -> None:
        self._by_digest = {_digest_of(key): _caller(key, limiter) for key in config.keys}
        self._anyone = Caller("anyone", "default", ("*",), admin=True, limiter=None)

    def identify(self, authorization: bytes | None, api_key: bytes | None) -> Caller:
        """The caller of a request, by ``Authorization: Bearer`` or ``x-api-key``.

        Raises:
            Refusal: 401, without saying what was wrong with the key, nor repeating it.
        """
        if not self._by_digest:
            return self._anyone
        secret = api_key
        if authorization is not None and authorization[:7].lower() == b"bearer ":
            secret = authorization[7:].strip()
        if not secret:
            raise Refusal(401, "no API key was given; send it as 'Authorization: Bearer KEY'", code="missing_api_key")
        # A look-up by digest says nothing about the key by its timing: an attacker cannot steer a digest byte by byte.
        caller = self._by_digest.get(hashlib.sha256(secret).digest())
        if caller is None:
            raise Refusal(401, "the API key is not valid", code="invalid_api_key")
        return caller


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


def _caller(key: Key, limiter: LimiterMaker) -> Caller:
    limits = limiter(key.limits, f"key {key.name}") if key.limits.any else None
    return Caller(key.name, key.tenant, key.models, key.admin, limits)
