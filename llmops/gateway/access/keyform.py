"""The form of a virtual key: ``sk-llmops-`` + 8 characters that name it + 34 secret characters + 6 of a checksum.

The checksum lets a mistyped or cut key be told from a wrong one without a look-up, and lets secret scanners recognise
leaked keys without false alarms.
"""

from __future__ import annotations

import secrets
import zlib
from hashlib import sha256
from typing import Final

PREFIX: Final = "sk-llmops-"
_ALPHABET: Final = "0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz"
_NAME_ALPHABET: Final = "23456789abcdefghjkmnpqrstuvwxyz"
NAME_CHARS: Final = 8
SECRET_CHARS: Final = 34  # log2(62) * 34 = 202 bits
CHECK_CHARS: Final = 6
LENGTH: Final = len(PREFIX) + NAME_CHARS + SECRET_CHARS + CHECK_CHARS


def new_key() -> tuple[str, str]:
    """A fresh key and its name (the eight characters that may be shown)."""
    name = "".join(secrets.choice(_NAME_ALPHABET) for _ in range(NAME_CHARS))
    body = PREFIX + name + "".join(secrets.choice(_ALPHABET) for _ in range(SECRET_CHARS))
    return body + checksum(body), name


def checksum(body: str) -> str:
    """CRC-32 of the key without its last six characters, in base 62."""
    value = zlib.crc32(body.encode())
    text = ""
    for _ in range(CHECK_CHARS):
        value, digit = divmod(value, 62)
        text = _ALPHABET[digit] + text
    return text


def well_formed(key: str) -> bool:
    """Whether length, prefix and checksum are right."""
    return len(key) == LENGTH and key.startswith(PREFIX) and checksum(key[:-CHECK_CHARS]) == key[-CHECK_CHARS:]


def name_of(key: bytes) -> bytes:
    """The name inside a key, not yet verified."""
    return key[len(PREFIX) : len(PREFIX) + NAME_CHARS]


def digest(key: bytes) -> bytes:
    """What is stored instead of the key. A plain hash suffices: the key has 202 random bits, no dictionary holds it."""
    return sha256(key).digest()


class Digester:
    """Makes the digests of one connection's credentials, which are nearly always the same one again.

    What is remembered is this connection's own, and only as long as it is open.
    """

    def __init__(self) -> None:
        self._key = b""
        self._digest = b""

    def digest(self, key: bytes) -> bytes:
        """As ``digest``."""
        if key != self._key or not key:
            self._digest = sha256(key).digest()
            self._key = key
        return self._digest
