"""Who may call: virtual keys, JWT bearer tokens, service tokens, and the vault of provider keys.

The way of a request through this package, in the order of ``request.py``::

    credential = pick_credential(authorization, x_api_key)      # bytes of the two headers; Denied(401)
    identity = access.check(credential)                         # memory only; Denied, or None: keys must be fetched
    if identity is None:
        identity = await access.check_slowly(credential)        # refreshes the JWKS off the event loop; Denied
    identity.require("chat")                                    # or "embeddings", "admin"; Denied(403)
    identity.require_model(model)                               # Denied(404): a model out of reach looks absent
    ... identity.tenant, .team, .key, .limits                   # for rate limits, budgets, cache keys, ledger

``access.maintain()`` is called by a timer each second or two: it sees new, rotated and revoked callers of other
processes. ``Denied`` has ``status``, ``code`` and a public ``message`` for the caller's dialect, and ``log_line`` for one
line of the log, made safe. Provider keys: ``Vault.open(path, ring_from(source)).reveal(name)`` once at start and at reload.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from llmops.gateway.access.config import AccessConfig, JwtConfig
from llmops.gateway.access.identity import ANONYMOUS, CallerLimits, Denied, Identity, Scopes, pick_credential, safe_text

if TYPE_CHECKING:
    from llmops.gateway.access.access import Access
    from llmops.gateway.access.vault import Vault

__all__ = [
    "ANONYMOUS",
    "Access",
    "AccessConfig",
    "CallerLimits",
    "Denied",
    "Identity",
    "JwtConfig",
    "Scopes",
    "Vault",
    "pick_credential",
    "safe_text",
]


def __getattr__(name: str) -> Any:
    """Tokens and the vault bring 11 MiB of cryptography, which a gateway whose keys stand in its config never needs."""
    if name == "Access":
        from llmops.gateway.access.access import Access

        return Access
    if name == "Vault":
        from llmops.gateway.access.vault import Vault

        return Vault
    raise AttributeError(name)
