"""The public keys of an issuer, kept in memory: read without waiting, refreshed off the hot path."""

from __future__ import annotations

import asyncio
import json
import logging
import time
from collections.abc import Callable
from typing import Any, Final

from joserfc.jwk import ECKey, OKPKey, RSAKey

from llmops.gateway.access.identity import safe_text

PublicKey = RSAKey | ECKey | OKPKey
MAX_JWKS_BYTES: Final = 1 << 20
MAX_KEYS: Final = 100
FETCH_TIMEOUT_S: Final = 5.0
MIN_RSA_BITS: Final = 2048

_KINDS: Final[dict[str, type[RSAKey | ECKey | OKPKey]]] = {"RSA": RSAKey, "EC": ECKey, "OKP": OKPKey}
_CURVE_OF: Final = {"ES256": "P-256", "ES384": "P-384", "ES512": "P-521"}
_log = logging.getLogger(__name__)


class Jwks:
    """Keys by ``kid``.

    A key set is fresh for ``ttl_s``. Afterwards it is refreshed in the background and goes on being used, for at most
    ``max_stale_s`` more, so that an outage of the issuer does not become one of the gateway. An unknown ``kid`` may ask
    for a refresh earlier, but not more often than each ``gap_s``: strangers must not be able to drive the issuer.
    """

    def __init__(
        self,
        fetch: Callable[[], bytes],
        *,
        ttl_s: float = 3600.0,
        gap_s: float = 30.0,
        max_stale_s: float = 86_400.0,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._fetch = fetch
        self._ttl_s = ttl_s
        self._gap_s = gap_s
        self._max_stale_s = max_stale_s
        self._clock = clock
        self._keys: dict[str, tuple[PublicKey, str | None]] = {}
        self._fetched_at: float | None = None
        self._tried_at: float | None = None
        self._running: asyncio.Task[bool] | None = None

    @property
    def usable(self) -> bool:
        """Whether there are keys that may still be trusted."""
        return self._fetched_at is not None and self._clock() - self._fetched_at <= self._ttl_s + self._max_stale_s

    @property
    def due(self) -> bool:
        """Whether the keys are older than their time to live (or absent), and a try is allowed now."""
        old = self._fetched_at is None or self._clock() - self._fetched_at > self._ttl_s
        return old and self.may_refresh

    @property
    def may_refresh(self) -> bool:
        """Whether the last try is long enough ago."""
        return self._tried_at is None or self._clock() - self._tried_at >= self._gap_s

    def key(self, kid: str | None, algorithm: str) -> PublicKey | None:
        """The key for a token's header, only if it is of the kind that the algorithm needs.

        A header without ``kid`` finds a key only where exactly one fits.
        """
        if kid is None:
            fitting = [key for key, own in self._keys.values() if _fits(key, own, algorithm)]
            return fitting[0] if len(fitting) == 1 else None
        found = self._keys.get(kid)
        return found[0] if found is not None and _fits(*found, algorithm) else None

    def knows(self, kid: str | None) -> bool:
        """Whether a key of that name is here, of whatever kind."""
        return kid is None or kid in self._keys

    async def refresh(self) -> bool:
        """Fetch now unless it was tried a moment ago; concurrent callers share one fetch. True when keys were read."""
        if self._running is not None:
            return await asyncio.shield(self._running)
        if not self.may_refresh:
            return False
        self._tried_at = self._clock()
        self._running = asyncio.create_task(self._load())
        try:
            return await asyncio.shield(self._running)
        finally:
            self._running = None

    def load(self, document: bytes) -> None:
        """Replace the keys by those of a JWKS document.

        Raises:
            ValueError: It is none, is too large, or has no usable key.
        """
        keys = parse_jwks(document)
        if not keys:
            raise ValueError("no usable signing key in it")
        self._keys = keys
        self._fetched_at = self._clock()

    async def _load(self) -> bool:
        try:
            self.load(await asyncio.to_thread(self._fetch))
        except Exception as error:  # noqa: BLE001 - whatever the issuer does, the gateway goes on with the keys it has
            _log.warning("cannot refresh the token issuer's keys: %s", safe_text(str(error)))
            return False
        return True


def parse_jwks(document: bytes) -> dict[str, tuple[PublicKey, str | None]]:
    """Name -> (public key, its own algorithm) of each key fit for verifying; symmetric and weak keys are left out.

    Raises:
        ValueError: The document is no JWKS or too large.
    """
    if len(document) > MAX_JWKS_BYTES:
        raise ValueError("the key set is larger than 1 MiB")
    try:
        listed = json.loads(document)["keys"]
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise ValueError("it is no JSON Web Key Set") from error
    if not isinstance(listed, list) or len(listed) > MAX_KEYS:
        raise ValueError("it is no JSON Web Key Set, or has too many keys")
    keys: dict[str, tuple[PublicKey, str | None]] = {}
    for index, row in enumerate(listed):
        key = _public_key(row)
        if key is not None:
            own = row.get("alg")
            keys[str(row.get("kid", f"#{index}"))] = (key, own if isinstance(own, str) else None)
    return keys


def _public_key(row: Any) -> PublicKey | None:
    if not isinstance(row, dict) or row.get("use", "sig") != "sig" or "verify" not in row.get("key_ops", ["verify"]):
        return None
    kind = _KINDS.get(row.get("kty", ""))
    if kind is None:  # "oct" too: a shared secret in a public document verifies nothing
        return None
    public = {name: value for name, value in row.items() if name in ("kty", "crv", "x", "y", "n", "e", "kid")}
    try:
        key = kind.import_key(public)
    except Exception:  # noqa: BLE001 - one bad row must not take the others away
        return None
    if isinstance(key, RSAKey) and key.public_key.key_size < MIN_RSA_BITS:
        return None
    return key


def _fits(key: PublicKey, own: str | None, algorithm: str) -> bool:
    if own is not None and own != algorithm and {own, algorithm} != {"EdDSA", "Ed25519"}:
        return False
    if isinstance(key, RSAKey):
        return algorithm.startswith("RS")
    if isinstance(key, ECKey):
        return key.curve_name == _CURVE_OF.get(algorithm)
    return algorithm in ("EdDSA", "Ed25519") and key.curve_name == "Ed25519"


def http_fetch(url: str) -> Callable[[], bytes]:
    """A function that reads a JWKS document: no redirects, bounded in time and size."""

    def fetch() -> bytes:
        import httpx

        with (
            httpx.Client(timeout=FETCH_TIMEOUT_S, follow_redirects=False) as client,
            client.stream("GET", url, headers={"accept": "application/json"}) as response,
        ):
            if response.status_code != 200:
                raise ValueError(f"{url} answered {response.status_code}")
            document = bytearray()
            for piece in response.iter_bytes():
                document += piece
                if len(document) > MAX_JWKS_BYTES:
                    raise ValueError(f"{url}: the key set is larger than 1 MiB")
            return bytes(document)

    return fetch
