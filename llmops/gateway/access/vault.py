"""Provider keys at rest: each value under a data key of its own, each data key wrapped by a master key.

One JSON file. Every change writes a whole new file beside it, flushes it to disk and renames it, under a lock, so that a
reader or a crash sees the old state or the new one. Rotation of the master key adds a second wrapping to each entry (one
write an entry, so it can be killed and run again), and only when all entries have both does it drop the old ones: until
then either master key opens everything.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import msgspec
from cryptography.exceptions import InvalidTag

from llmops.errors import AccessError, UsageError, did_you_mean
from llmops.gateway.access import envelope
from llmops.gateway.access.master import MasterKey

KEPT_VERSIONS: Final = 3
MAX_VALUE_BYTES: Final = 16_384
_NAME: Final = re.compile(r"[a-z0-9][a-z0-9._-]{0,63}")
_INTERNAL_NAME: Final = re.compile(r"_[a-z0-9._-]{1,63}")


@dataclass(frozen=True, slots=True)
class EntryState:
    """One version of one entry, as it may be shown.

    Attributes:
        masters: Ids of the master keys that open it.
        readable: Whether the given master key decrypts it; None when none was given.
    """

    name: str
    version: int
    newest: bool
    created: float
    masters: tuple[str, ...]
    readable: bool | None


@dataclass(frozen=True, slots=True)
class VaultState:
    """What ``llmops keys status`` shows."""

    path: Path
    entries: tuple[EntryState, ...]
    rotating: tuple[str, str] | None
    master: str | None

    @property
    def unreadable(self) -> tuple[EntryState, ...]:
        """Versions that the given master key does not decrypt."""
        return tuple(entry for entry in self.entries if entry.readable is False)


class Vault:
    """The file and a master key to open it. Values are decrypted on demand and kept nowhere."""

    def __init__(self, path: Path, master: MasterKey | None, *, on_step: Callable[[str], None] | None = None) -> None:
        self.path = path
        self._master = master
        self._on_step = on_step or (lambda _step: None)  # the crash tests stop the process here

    # ---- values ----

    def put(self, name: str, value: str, *, internal: bool = False) -> int:
        """Store ``value`` as the newest version of ``name``; returns the version. Three versions are kept.

        Raises:
            UsageError: The name or the value is malformed.
            AccessError: No master key, or one that does not open this vault.
        """
        check_name(name, internal=internal)
        if not value or len(value.encode()) > MAX_VALUE_BYTES or "\n" in value.strip() or not value.isprintable():
            raise UsageError(f"the value for {name!r} is empty, too long, or has control characters")
        with self._changing() as data:
            master = self._fitting_master(data)
            versions = data["entries"].setdefault(name, [])
            number = versions[-1]["version"] + 1 if versions else 1
            versions.append(envelope.seal(name, number, value.encode(), master))
            del versions[:-KEPT_VERSIONS]
        return number

    def reveal(self, name: str) -> str:
        """The newest value of ``name``.

        Raises:
            AccessError: There is none, or the master key does not open it.
        """
        data = self._read()
        versions = data["entries"].get(name)
        if not versions:
            shown = [each for each in data["entries"] if not each.startswith("_")]
            raise AccessError(
                f"the vault has no key {name!r}", did_you_mean(name, shown) or f"llmops keys set {name} stores one"
            )
        if self._master is None:
            raise AccessError("the vault needs its master key", "--master env:NAME, file:PATH or command:…")
        try:
            return envelope.open_value(name, versions[-1], self._master).decode()
        except (InvalidTag, KeyError, ValueError) as error:
            why, hint = why_closed(name, tuple(versions[-1]["wraps"]), self._master.id, self.path)
            raise AccessError(f"the key {name!r} cannot be decrypted: {why}", hint) from error

    def names(self) -> tuple[str, ...]:
        """The names of provider keys, sorted."""
        return tuple(sorted(name for name in self._read()["entries"] if not name.startswith("_")))

    def remove(self, name: str) -> None:
        """Forget a name with all its versions.

        Raises:
            UsageError: There is none.
        """
        with self._changing() as data:
            if name not in data["entries"]:
                shown = [each for each in data["entries"] if not each.startswith("_")]
                raise UsageError(f"the vault has no key {name!r}", did_you_mean(name, shown) or "llmops keys list")
            del data["entries"][name]

    def state(self) -> VaultState:
        """Every version of every entry, and whether the given master key opens it."""
        data = self._read()
        rotation = data["rotation"]
        entries = tuple(
            EntryState(
                name,
                version["version"],
                version is versions[-1],
                version["created"],
                tuple(sorted(version["wraps"])),
                None if self._master is None else envelope.opens(name, version, self._master),
            )
            for name, versions in sorted(data["entries"].items())
            for version in versions
        )
        moving = (rotation["from"], rotation["to"]) if rotation else None
        return VaultState(self.path, entries, moving, self._master.id if self._master else None)

    # ---- rotation of the master key ----

    def rotate(self, new: MasterKey, *, finish: bool = True) -> int:
        """Wrap everything by ``new``; the given master key is the old one. Returns how many versions were wrapped.

        Without ``finish`` both keys open the vault afterwards, for as long as gateways with the old one run; calling
        it again with ``finish`` drops the old wrappings. A killed rotation is simply run again, with the same keys.

        Raises:
            AccessError: The old master key does not open an entry (nothing is changed), or another rotation is half done.
            UsageError: Both master keys are the same.
        """
        if self._master is None:
            raise AccessError("rotation needs the present master key", "--master env:NAME, file:PATH or command:…")
        if new.id == self._master.id:
            raise UsageError("the new master key is the present one", "llmops keys master --to FILE makes a new one")
        old = self._master
        self._begin_rotation(old, new)
        wrapped = 0
        while self._wrap_one(old, new):
            wrapped += 1
        if finish:
            self._finish_rotation(new)
        return wrapped

    def _begin_rotation(self, old: MasterKey, new: MasterKey) -> None:
        with self._changing("begin") as data:
            under_way = data["rotation"]
            if under_way and under_way != {"from": old.id, "to": new.id}:
                raise AccessError(
                    f"a rotation from master key {under_way['from']} to {under_way['to']} is half done",
                    "finish it with those two keys first",
                )
            for name, versions in data["entries"].items():
                for version in versions:
                    if not (envelope.opens(name, version, old) or envelope.opens(name, version, new)):
                        raise AccessError(
                            f"{name!r} version {version['version']} opens with neither master key",
                            f"llmops keys status; llmops keys remove {name} if it is lost",
                        )
            data["rotation"] = {"from": old.id, "to": new.id}

    def _wrap_one(self, old: MasterKey, new: MasterKey) -> bool:
        """Add the new wrapping to one version that lacks it; False when none does."""
        with self._changing("wrap") as data:
            for name, versions in data["entries"].items():
                for version in versions:
                    if not envelope.opens(name, version, new):
                        key = envelope.unwrap(name, version, old)
                        version["wraps"][new.id] = envelope.wrap(name, version["version"], key, new)
                        return True
            return False

    def _finish_rotation(self, new: MasterKey) -> None:
        with self._changing("finish") as data:
            for name, versions in data["entries"].items():
                for version in versions:
                    if not envelope.opens(name, version, new):  # written by a gateway of the old key a moment ago
                        raise AccessError(
                            f"{name!r} is not wrapped by the new master key yet", "run the rotation again"
                        )
                    version["wraps"] = {new.id: version["wraps"][new.id]}
            data["rotation"] = None

    # ---- the file ----

    def _read(self) -> dict[str, Any]:
        try:
            text = self.path.read_text(encoding="utf-8")
        except FileNotFoundError:
            return {"format": envelope.FORMAT, "rotation": None, "entries": {}}
        try:
            data = json.loads(text)
            sound = msgspec.convert(data, envelope.File).format == envelope.FORMAT
        except (ValueError, msgspec.ValidationError):
            sound = False
        if not sound:
            raise AccessError(
                f"{self.path} is no vault of this version", "restore it from a backup, or name another file"
            )
        return dict(data)

    @contextlib.contextmanager
    def _changing(self, step: str = "write") -> Iterator[dict[str, Any]]:
        self.path.parent.mkdir(parents=True, exist_ok=True)
        lock = os.open(self.path.with_name(self.path.name + ".lock"), os.O_CREAT | os.O_RDWR | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(lock, fcntl.LOCK_EX)
            data = self._read()
            before = json.dumps(data)
            yield data
            after = json.dumps(data, indent=1)
            if json.dumps(data) != before:
                self._replace(after, step)
        finally:
            os.close(lock)

    def _replace(self, text: str, step: str) -> None:
        for left_by_a_crash in self.path.parent.glob(f".{self.path.name}.*.partial"):
            left_by_a_crash.unlink(missing_ok=True)
        partial = self.path.with_name(f".{self.path.name}.{os.getpid()}.partial")
        self._on_step(f"{step}: before the new file")
        try:
            descriptor = os.open(partial, os.O_CREAT | os.O_WRONLY | os.O_TRUNC | os.O_CLOEXEC, 0o600)
            with os.fdopen(descriptor, "w", encoding="utf-8") as file:
                file.write(text)
                file.flush()
                self._on_step(f"{step}: written, not flushed")
                os.fsync(file.fileno())
            self._on_step(f"{step}: before the rename")
            partial.replace(self.path)
        finally:
            partial.unlink(missing_ok=True)
        directory = os.open(self.path.parent, os.O_RDONLY)
        try:
            os.fsync(directory)
        finally:
            os.close(directory)
        self._on_step(f"{step}: renamed")

    # ---- which master keys wrap a new entry ----

    def _fitting_master(self, data: dict[str, Any]) -> MasterKey:
        """The given master key, if it opens this vault: two keys in one vault by mistake would lose entries later."""
        if self._master is None:
            raise AccessError("the vault needs its master key", "--master env:NAME, file:PATH or command:…")
        versions = [(name, versions[-1]) for name, versions in data["entries"].items()]
        if versions and not any(envelope.opens(name, version, self._master) for name, version in versions):
            raise AccessError(
                f"the master key given ({self._master.id}) opens nothing in {self.path}",
                "give the one it was made with; llmops keys status shows its id",
            )
        return self._master


def why_closed(name: str, masters: tuple[str, ...], given: str | None, path: Path) -> tuple[str, str]:
    """Why a version of an entry that is wrapped by ``masters`` does not open with the one given, and what to do."""
    again = f"llmops keys set {name}"
    if given in masters:
        return f"it has been changed in {path}", f"restore that file from a backup, or store the key again: {again}"
    return f"it is wrapped by master key {', '.join(masters)}, given was {given}", f"give that one, or: {again}"


def check_name(name: str, *, internal: bool = False) -> None:
    """Refuse names that could not be shown or typed.

    Raises:
        UsageError: With the name.
    """
    if (_INTERNAL_NAME if internal else _NAME).fullmatch(name) is None:
        raise UsageError(f"{name!r} is no name for a key", "small letters, digits, . _ - (at most 64), as in openai")
