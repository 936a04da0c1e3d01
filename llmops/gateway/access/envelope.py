"""The envelope of a vault's value: AES-256-GCM under a data key of its own, and that key wrapped by master keys."""

from __future__ import annotations

import base64
import secrets
import time
from typing import Any, Final

import msgspec
from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from llmops.gateway.access.master import MasterKey

FORMAT: Final = 1
_NONCE_BYTES: Final = 12


class Version(msgspec.Struct):
    """One version of an entry in the file: ``value`` and each of ``wraps`` are base64 of a nonce and what it sealed."""

    version: int
    created: float
    value: str
    wraps: dict[str, str]


class File(msgspec.Struct):
    """The form of the whole file, to check one that is read. ``rotation`` is master key ids, ``from`` and ``to``."""

    format: int
    entries: dict[str, list[Version]]
    rotation: dict[str, str] | None


def seal(name: str, number: int, value: bytes, master: MasterKey) -> dict[str, Any]:
    """A new version of an entry, opened by one master key."""
    key = secrets.token_bytes(32)
    nonce = secrets.token_bytes(_NONCE_BYTES)
    sealed = AESGCM(key).encrypt(nonce, value, _bound("value", name, number))
    return {
        "version": number,
        "created": time.time(),
        "value": _text(nonce + sealed),
        "wraps": {master.id: wrap(name, number, key, master)},
    }


def open_value(name: str, version: dict[str, Any], master: MasterKey) -> bytes:
    """The value in a version of an entry.

    Raises:
        InvalidTag: It is not what was sealed under this name, version and master key.
        KeyError: The master key has no wrapping in it.
        ValueError: It is not base64.
    """
    sealed = base64.b64decode(version["value"])
    key = unwrap(name, version, master)
    return AESGCM(key).decrypt(sealed[:_NONCE_BYTES], sealed[_NONCE_BYTES:], _bound("value", name, version["version"]))


def opens(name: str, version: dict[str, Any], master: MasterKey) -> bool:
    """Whether a master key opens a version of an entry."""
    try:
        open_value(name, version, master)
    except (InvalidTag, KeyError, ValueError):
        return False
    return True


def wrap(name: str, number: int, key: bytes, master: MasterKey) -> str:
    """A data key, wrapped by a master key."""
    nonce = secrets.token_bytes(_NONCE_BYTES)
    return _text(nonce + AESGCM(master.wrapping).encrypt(nonce, key, _bound("key", name, number)))


def unwrap(name: str, version: dict[str, Any], master: MasterKey) -> bytes:
    """The data key of a version; raises as ``open_value``."""
    wrapped = base64.b64decode(version["wraps"][master.id])
    return AESGCM(master.wrapping).decrypt(
        wrapped[:_NONCE_BYTES], wrapped[_NONCE_BYTES:], _bound("key", name, version["version"])
    )


def _bound(what: str, name: str, number: int) -> bytes:
    """What the ciphertext is bound to, so that entries cannot be exchanged for each other inside the file."""
    return f"llmops vault {FORMAT}\0{what}\0{name}\0{number}".encode()


def _text(raw: bytes) -> str:
    return base64.b64encode(raw).decode()
