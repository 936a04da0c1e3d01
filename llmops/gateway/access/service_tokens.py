"""Tokens that one service shows to another: signed with Ed25519, short-lived, scoped.

The private key lies in the vault; the gateway holds only the public one, from the caller database.
"""

from __future__ import annotations

import json
import secrets
import time
from collections.abc import Mapping
from typing import Any, Final

from joserfc import jwt
from joserfc.jwk import OKPKey

from llmops.errors import UsageError
from llmops.gateway.access.callers import CallerDatabase, check_names, check_scopes
from llmops.gateway.access.identity import Identity, Scopes
from llmops.gateway.access.jwks import PublicKey
from llmops.gateway.access.tokens import TokenRules
from llmops.gateway.access.vault import Vault

ISSUER: Final = "llmops"
AUDIENCE: Final = "llmops-gateway"
ALGORITHM: Final = "Ed25519"
MAX_TTL_S: Final = 24 * 3600.0
DEFAULT_TTL_S: Final = 900.0


def issue(
    database: CallerDatabase,
    vault: Vault,
    service: str,
    scopes: tuple[str, ...],
    *,
    tenant: str = "default",
    team: str = "",
    ttl_s: float = DEFAULT_TTL_S,
) -> tuple[str, Mapping[str, Any]]:
    """A token and its claims. The first call makes the signing key.

    Raises:
        UsageError: A name, a scope or the lifetime is out of range.
        AccessError: The vault cannot be opened with the master key that is set.
    """
    check_names(service, tenant, team)
    listed = check_scopes(scopes)
    if not 1 <= ttl_s <= MAX_TTL_S:
        raise UsageError("a service token lives between 1 s and 24 h", "for example --ttl 15m")
    kid = database.newest_service_key() or rotate_key(database, vault)
    private = OKPKey.import_key(json.loads(vault.reveal(_vault_name(kid))))
    now = int(time.time())
    claims: dict[str, Any] = {
        "iss": ISSUER,
        "aud": AUDIENCE,
        "sub": service,
        "jti": secrets.token_hex(12),
        "iat": now,
        "nbf": now,
        "exp": now + int(ttl_s),
        "scope": " ".join(listed),
        "tenant": tenant,
        "team": team,
    }
    return jwt.encode({"alg": ALGORITHM, "kid": kid}, dict(claims), private, algorithms=[ALGORITHM]), claims


def rotate_key(database: CallerDatabase, vault: Vault) -> str:
    """A new signing key; tokens of the older ones stay valid for as long as a token can live. Returns its ``kid``."""
    kid = secrets.token_hex(6)
    key = OKPKey.generate_key("Ed25519", {"kid": kid})
    vault.put(_vault_name(kid), json.dumps(key.as_dict(private=True)), internal=True)
    public = json.dumps(key.as_dict(private=False))
    database.add_service_key(kid, public, retire_others_at=time.time() + MAX_TTL_S)
    return kid


class ServiceKeys:
    """The public keys of a snapshot, as a ``KeySource``."""

    def __init__(self, rows: Mapping[str, str]) -> None:
        self._keys = {kid: OKPKey.import_key(json.loads(public)) for kid, public in rows.items()}

    @property
    def usable(self) -> bool:
        return bool(self._keys)

    def knows(self, kid: str | None) -> bool:
        return kid in self._keys

    def key(self, kid: str | None, algorithm: str) -> PublicKey | None:
        return self._keys.get(kid or "") if algorithm == ALGORITHM else None


def rules() -> TokenRules:
    """What a service token must be."""
    return TokenRules(ISSUER, AUDIENCE, frozenset((ALGORITHM,)), identify)


def identify(claims: Mapping[str, Any]) -> Identity:
    """The caller of a verified service token."""
    return Identity(
        "service",
        f"service:{claims['sub']}",
        str(claims["tenant"]),
        str(claims.get("team", "")),
        Scopes.of(str(claims["scope"]).split()),
        token_id=str(claims["jti"]),
        expires_at=float(claims["exp"]),
        issued_at=float(claims["iat"]),
    )


def _vault_name(kid: str) -> str:
    return f"_service-signing-{kid}"
