"""The vault's master key: 256 random bits, from an environment variable, a file, or a program (a KMS client, say)."""

from __future__ import annotations

import base64
import binascii
import os
import secrets
import shlex
import stat
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from llmops.errors import AccessError, UsageError
from llmops.process import Command, start

DEFAULT_SOURCE: Final = "env:LLMOPS_MASTER_KEY"
KEY_BYTES: Final = 32
_COMMAND_TIMEOUT_S: Final = 30.0
_MAX_TEXT: Final = 4096


@dataclass(frozen=True, slots=True, repr=False)
class MasterKey:
    """A master key. ``id`` names it without telling anything about it; the bytes never leave this package."""

    id: str
    wrapping: bytes

    @classmethod
    def of(cls, raw: bytes) -> MasterKey:
        """From its 32 bytes."""
        return cls(_derive(raw, b"llmops vault: name of the key").hex()[:12], _derive(raw, b"llmops vault: wrapping"))

    def __repr__(self) -> str:
        return f"MasterKey({self.id})"


def new_master_text() -> str:
    """A fresh master key in the form that the sources give: base64 of 32 random bytes."""
    return base64.b64encode(secrets.token_bytes(KEY_BYTES)).decode()


def read_master(source: str = DEFAULT_SOURCE) -> MasterKey:
    """The master key from ``env:NAME``, ``file:PATH`` or ``command:PROGRAM ARG…``.

    Raises:
        UsageError: The source is malformed.
        AccessError: It gives no key, or a file that others may read.
    """
    kind, _, rest = source.partition(":")
    if kind == "env" and rest:
        text = os.environ.get(rest, "")
        if not text:
            raise AccessError(
                f"the master key is not set: there is no environment variable {rest}",
                "llmops keys master --to FILE makes one; then --master file:FILE, or export it",
            )
    elif kind == "file" and rest:
        text = _from_file(Path(rest).expanduser())
    elif kind == "command" and rest:
        text = _from_command(rest)
    else:
        raise UsageError(
            f"{kind!r} is no source of a master key", "write env:NAME, file:PATH or 'command:PROGRAM ARG…'"
        )
    return MasterKey.of(_decode(text, kind))


def _decode(text: str, kind: str) -> bytes:
    compact = text.strip()
    for decode in (bytes.fromhex, lambda t: base64.b64decode(t, validate=True)):
        try:
            raw = decode(compact)
        except (ValueError, binascii.Error):
            continue
        if len(raw) == KEY_BYTES:
            return raw
    raise AccessError(
        f"the master key from the {kind} source is not 32 bytes in base64 or hexadecimal",
        "llmops keys master --to FILE",
    )


def _from_file(path: Path) -> str:
    try:
        with path.open(encoding="utf-8") as file:
            mode = os.fstat(file.fileno()).st_mode
            text = file.read(_MAX_TEXT)
    except (OSError, UnicodeDecodeError) as error:
        raise AccessError(f"cannot read the master key file {path}: {type(error).__name__}") from error
    if stat.S_ISREG(mode) and mode & 0o077:
        raise AccessError(f"others may read the master key file {path}", f"chmod 600 {path}")
    return text


def _from_command(line: str) -> str:
    try:
        argv = tuple(shlex.split(line))
    except ValueError as error:
        raise UsageError(f"the master key command cannot be read: {error}") from error
    with tempfile.TemporaryDirectory() as scratch:
        log = Path(scratch) / "stderr"
        with start(Command(argv, log, grace_s=1), pipe_stdout=True) as child:
            code = child.wait(_COMMAND_TIMEOUT_S)
            text = child.stdout.read(_MAX_TEXT) if code is not None else ""
    if code != 0:
        how = "did not end in 30 s" if code is None else f"exited with {code}"
        raise AccessError(f"the master key command {argv[0]!r} {how}", "run it by hand to see why")
    return text


def _derive(raw: bytes, purpose: bytes) -> bytes:
    return HKDF(algorithm=SHA256(), length=KEY_BYTES, salt=None, info=purpose).derive(raw)
