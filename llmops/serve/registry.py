"""Servers that run detached: one JSON file each, trusted only as far as its process still is the one that wrote it."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import msgspec

from llmops.errors import UsageError, did_you_mean
from llmops.settings import settings


class Entry(msgspec.Struct, frozen=True, kw_only=True):
    """What a server wrote about itself when it was ready.

    Attributes:
        serve_pid: The llmops process that supervises the engine.
        started: That process's start in clock ticks since boot, so that a pid used again is not taken for it.
        boot: Identity of the boot in which those ticks count.
    """

    url: str
    model: str
    engine: str
    pid: int
    serve_pid: int
    started: int
    boot: str
    log: str
    ready_s: float
    ready_at: float


@dataclass(frozen=True, slots=True)
class Server:
    """One known server.

    Attributes:
        entry: None while it starts.
        alive: Whether its supervising process is there.
    """

    name: str
    file: Path
    entry: Entry | None
    alive: bool


def directory() -> Path:
    """Where the files are."""
    return settings().state_dir / "servers"


def name_for(served_name: str) -> str:
    """A server's name from its model's, which may have characters that a file name should not."""
    return re.sub(r"[^A-Za-z0-9._-]+", "-", served_name).strip("-.") or "server"


def file_of(name: str) -> Path:
    """The file of a server.

    Raises:
        UsageError: The name could leave the directory.
    """
    if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}", name):
        raise UsageError(f"{name!r} cannot name a server", "use letters, digits, '.', '_' and '-'")
    return directory() / f"{name}.json"


def identity(pid: int) -> tuple[int, str] | None:
    """Start ticks and boot of a process; None when it is gone or a zombie."""
    try:
        stat = Path(f"/proc/{pid}/stat").read_text(encoding="ascii", errors="replace").rpartition(")")[2].split()
        boot = Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip()
    except OSError:
        return None
    return None if stat[0] == "Z" else (int(stat[19]), boot)


def own_identity() -> dict[str, int | str]:
    """The fields that make this process recognisable."""
    started, boot = identity(os.getpid()) or (0, "")
    return {"serve_pid": os.getpid(), "started": started, "boot": boot}


def read(path: Path) -> Server:
    """One file; what cannot be read is a dead server."""
    try:
        entry = msgspec.json.decode(path.read_bytes(), type=Entry)
    except (OSError, msgspec.DecodeError):
        return Server(path.stem, path, None, alive=False)
    return Server(path.stem, path, entry, alive=identity(entry.serve_pid) == (entry.started, entry.boot))


def servers() -> tuple[Server, ...]:
    """All that are known, dead ones too."""
    return tuple(_all())


def _all() -> Iterator[Server]:
    for path in sorted(directory().glob("*.json")):
        yield read(path)


def find(name: str) -> Server:
    """A server by its name.

    Raises:
        UsageError: None has it.
    """
    path = file_of(name)
    if not path.exists():
        known = [server.name for server in servers()]
        raise UsageError(f"there is no server {name!r}", did_you_mean(name, known) if known else "llmops ps")
    return read(path)


def forget(server: Server) -> None:
    """Remove the file of a dead server."""
    server.file.unlink(missing_ok=True)


def encode(entry: dict[str, object]) -> str:
    """The file's text, checked to be readable again."""
    text = json.dumps(entry)
    msgspec.json.decode(text, type=Entry)
    return text + "\n"


def encode_fleet(servers: list[tuple[str, str, str]]) -> str:
    """The ready file of several servers: (model, url, log) each."""
    listed = [{"model": model, "url": url, "log": log} for model, url, log in servers]
    return json.dumps({"servers": listed, **own_identity()}) + "\n"
