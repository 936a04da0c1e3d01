"""The ``access:`` part of ``gateway.yaml``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Final, Literal, Self
from urllib.parse import urlsplit

from pydantic import BaseModel, ConfigDict, Field, model_validator

Algorithm = Literal["RS256", "RS384", "RS512", "ES256", "ES384", "ES512", "EdDSA", "Ed25519"]
DEFAULT_ALGORITHMS: Final[tuple[Algorithm, ...]] = ("RS256", "ES256", "EdDSA", "Ed25519")
_LOOPBACK: Final = ("localhost", "127.0.0.1", "::1")


class Form(BaseModel):
    """Unknown keys are errors; nothing changes after reading."""

    model_config = ConfigDict(frozen=True, extra="forbid")


class JwtConfig(Form):
    """Bearer tokens of an identity provider.

    ``scopes`` maps a scope of the token to scopes here; a token's scope that is not listed counts only where
    ``trust_scopes`` is set. Claims may be dotted paths (``org.id``).
    """

    jwks_url: str
    issuer: Annotated[str, Field(min_length=1)]
    audience: Annotated[str, Field(min_length=1)]
    algorithms: Annotated[tuple[Algorithm, ...], Field(min_length=1)] = DEFAULT_ALGORITHMS
    ttl_s: Annotated[float, Field(ge=1, le=86_400)] = 3600.0
    refresh_gap_s: Annotated[float, Field(ge=1)] = 30.0
    max_stale_s: Annotated[float, Field(ge=0)] = 86_400.0
    skew_s: Annotated[float, Field(ge=0, le=300)] = 30.0
    cache_s: Annotated[float, Field(ge=0, le=60)] = 60.0
    subject_claim: str = "sub"
    scope_claim: str = "scope"
    tenant_claim: str = "tenant"
    team_claim: str = "team"
    default_tenant: str | None = None
    scopes: dict[str, tuple[str, ...]] = Field(default_factory=dict)
    trust_scopes: bool = False

    @model_validator(mode="after")
    def _fetched_safely(self) -> Self:
        parts = urlsplit(self.jwks_url)
        local = parts.scheme == "http" and parts.hostname in _LOOPBACK
        if (parts.scheme != "https" and not local) or not parts.hostname:
            raise ValueError("jwks_url must be https, or http on this machine")
        return self


class AccessConfig(Form):
    """Who may call. ``callers`` is the database of ``llmops callers`` and of service tokens' public keys."""

    callers: Path | None = None
    jwt: tuple[JwtConfig, ...] = ()
    vault: Path | None = None
    master: str | None = None
    """Where the vault's master key comes from: ``env:NAME``, ``file:PATH`` or ``command:PROGRAM ARG…``."""
