"""From the claims of a verified token to a caller."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from typing import Any, Final

from llmops.gateway.access.config import JwtConfig
from llmops.gateway.access.identity import Denied, Identity, Scopes

_NAME: Final = re.compile(r"[A-Za-z0-9._@:|/ -]{1,128}")


def identity_maker(config: JwtConfig) -> Callable[[Mapping[str, Any]], Identity]:
    """A function that reads tenant, team, subject and scopes where ``config`` says they stand."""

    def identify(claims: Mapping[str, Any]) -> Identity:
        subject = _named(claims, config.subject_claim)
        tenant = _named(claims, config.tenant_claim) or config.default_tenant
        if not subject or not tenant:
            raise Denied(403, "no_tenant", "the token does not say whom it belongs to", "no subject or tenant claim")
        return Identity(
            "jwt",
            f"jwt:{subject}",
            tenant,
            _named(claims, config.team_claim) or "",
            Scopes.of(_scopes(_at(claims, config.scope_claim), config)),
            token_id=str(claims.get("jti", ""))[:128],
            expires_at=float(claims["exp"]),
        )

    return identify


def _scopes(claim: object, config: JwtConfig) -> list[str]:
    words = claim.split() if isinstance(claim, str) else claim if isinstance(claim, list) else []
    found: list[str] = []
    for word in words:
        if isinstance(word, str):
            found += config.scopes.get(word, (word,) if config.trust_scopes else ())
    return found


def _named(claims: Mapping[str, Any], path: str) -> str | None:
    """A claim as a name; anything that is no short plain text counts as absent."""
    value = _at(claims, path)
    return value if isinstance(value, str) and _NAME.fullmatch(value) else None


def _at(claims: Mapping[str, Any], path: str) -> object:
    """A claim by its own name (which may contain dots), else by the dotted path."""
    if path in claims:
        return claims[path]
    value: object = claims
    for step in path.split("."):
        if not isinstance(value, Mapping):
            return None
        value = value.get(step)
    return value
