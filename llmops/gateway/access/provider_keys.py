"""The work of ``llmops keys``: provider keys in the vault."""

from __future__ import annotations

import os
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from llmops.errors import UsageError
from llmops.findings import Finding
from llmops.gateway.access.delivery import deliver
from llmops.gateway.access.master import new_master_text, read_master
from llmops.gateway.access.vault import EntryState, Vault, VaultState, check_name, why_closed
from llmops.report.document import Document, Table, Text
from llmops.report.told import told
from llmops.settings import settings

_MAX_INPUT: Final = 20_000


@dataclass(frozen=True, slots=True)
class KeysReport:
    """What a command of the group did, and the state of the vault afterwards."""

    done: str
    state: VaultState | None
    findings: tuple[Finding, ...] = ()
    wrapped: int = 0

    @property
    def ok(self) -> bool:
        """Whether everything can be decrypted."""
        return not any(finding.severity == "error" for finding in self.findings)

    def data(self) -> dict[str, Any]:
        """The JSON data."""
        state = self.state
        if state is None:
            return {"done": self.done}
        return {
            "done": self.done,
            "vault": str(state.path),
            "master": state.master,
            "rotating": state.rotating,
            "wrapped": self.wrapped,
            "entries": [
                {"name": e.name, "version": e.version, "newest": e.newest, "masters": e.masters, "readable": e.readable}
                for e in state.entries
            ],
        }


def default_vault() -> Path:
    """Where the vault is when no flag and no config names it."""
    return settings().state_dir / "gateway" / "vault.json"


def set_key(name: str, source: str, vault: Path | None, master: str) -> KeysReport:
    """Store the value that ``source`` gives: ``-`` (stdin), ``env:NAME`` or ``file:PATH``.

    Raises:
        UsageError: The name, the source or the value is wrong.
        AccessError: The master key is missing or not this vault's.
    """
    check_name(name)
    path = vault or default_vault()
    opened = Vault(path, read_master(master))
    number = opened.put(name, _value(source))
    return KeysReport(f"stored {name}, version {number}", opened.state())


def list_keys(vault: Path | None) -> KeysReport:
    """Names and versions; needs no master key."""
    path = vault or default_vault()
    return KeysReport("", Vault(path, None).state())


def remove_key(name: str, vault: Path | None, *, dry_run: bool) -> KeysReport:
    """Forget a key with all its versions.

    Raises:
        UsageError: There is none of that name.
    """
    opened = Vault(vault or default_vault(), None)
    check_name(name)
    if dry_run:
        if name not in opened.names():
            raise UsageError(f"the vault has no key {name!r}", "llmops keys list")
        return KeysReport(f"would remove {name}", opened.state())
    opened.remove(name)
    return KeysReport(f"removed {name}", opened.state())


def rotate_master(new: str, master: str, vault: Path | None, *, keep_old: bool) -> KeysReport:
    """Wrap every entry by a new master key.

    Raises:
        AccessError: A master key is missing, or does not open an entry; nothing is changed then.
    """
    fresh = read_master(new)
    opened = Vault(vault or default_vault(), read_master(master))
    count = opened.rotate(fresh, finish=not keep_old)
    done = f"wrapped {count} version{'s' * (count != 1)} by master key {fresh.id}" + (
        "; the old one opens them too, until this is run without --keep-old" if keep_old else ""
    )
    return KeysReport(done, Vault(opened.path, fresh).state(), wrapped=count)


def status(vault: Path | None, master: str) -> KeysReport:
    """Whether the master key opens every entry; those that it does not are errors."""
    state = Vault(vault or default_vault(), read_master(master)).state()
    findings = [_unreadable(entry, state) for entry in state.unreadable]
    if state.rotating:
        old, new = state.rotating
        findings.append(
            Finding(
                "rotation-half-done",
                "warning",
                f"A rotation from master key {old} to {new} is not finished; both are needed until it is.",
                "llmops keys rotate --new-master SOURCE",
            )
        )
    return KeysReport("", state, tuple(findings))


def make_master(to: Path) -> KeysReport:
    """Write a new master key to a file that only its owner may read.

    Raises:
        UsageError: The file exists.
    """
    deliver(to, new_master_text())
    return KeysReport(f"wrote a new master key to {to}; keep a copy apart from the vault", None)


def view(report: KeysReport) -> Document:
    """A table of entries."""
    blocks: list[Table | Text] = []
    state = report.state
    if state is not None:
        shown = [entry for entry in state.entries if entry.newest or entry.readable is False]
        rows = tuple(
            (e.name, str(e.version), _date(e.created), ", ".join(e.masters), _readable(e.readable)) for e in shown
        )
        blocks.append(
            Table(("key", "version", "stored", "master key", "decrypts"), rows)
            if rows
            else Text(f"{state.path} holds no keys", "dim")
        )
    blocks += told(report.findings)
    verdict = Text(report.done, "good") if report.done else None
    return Document("Provider keys", tuple(blocks), verdict)


def _unreadable(entry: EntryState, state: VaultState) -> Finding:
    why, hint = why_closed(entry.name, entry.masters, state.master, state.path)
    text = f"{entry.name} version {entry.version} cannot be decrypted: {why}"
    return Finding("undecryptable-key", "error", text, hint, file=str(state.path))


def _value(source: str) -> str:
    kind, _, rest = source.partition(":")
    if source == "-":
        text = _prompted() if sys.stdin.isatty() else sys.stdin.read(_MAX_INPUT)
    elif kind == "env" and rest:
        text = os.environ.get(rest, "")
        if not text:
            raise UsageError(f"there is no environment variable {rest}, or it is empty")
    elif kind == "file" and rest:
        with Path(rest).expanduser().open(encoding="utf-8") as file:
            text = file.read(_MAX_INPUT)
    else:
        raise UsageError(
            "that is no source of a value; a value itself is never given on the command line",
            "--from - (stdin), env:NAME or file:PATH",
        )
    return text.strip()


def _prompted() -> str:
    import getpass

    return getpass.getpass("value (not shown): ", stream=sys.stderr)


def _date(at: float) -> str:
    return time.strftime("%Y-%m-%d %H:%M", time.gmtime(at))


def _readable(answer: bool | None) -> str:
    return "not tried" if answer is None else "yes" if answer else "NO"
