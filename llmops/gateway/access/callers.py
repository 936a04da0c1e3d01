"""The database of callers: virtual keys (hashed), public keys of service tokens, revocations. One SQLite file."""

from __future__ import annotations

import contextlib
import json
import os
import re
import sqlite3
import time
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Self

from llmops.errors import MachineError, UsageError, did_you_mean
from llmops.gateway.access.identity import CallerLimits, Identity, Scopes
from llmops.gateway.access.keyform import digest, new_key

DEFAULT_SCOPES: Final = ("chat", "embeddings", "models:*")
NO_LIMITS: Final = CallerLimits()
MAX_OVERLAP_S: Final = 90 * 86_400
_NAME: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9._@-]{0,63}")
_SCOPE: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9._:/*?\[\]@-]{0,127}")
_SCHEMA: Final = """
create table if not exists callers (
  name text primary key, tenant text not null, team text not null, scopes text not null, limits text not null,
  created real not null, expires real, disabled real
) strict;
create table if not exists secrets (
  prefix text primary key, caller text not null references callers(name) on delete cascade,
  digest blob not null, created real not null, expires real
) strict;
create table if not exists service_keys (
  kid text primary key, public text not null, created real not null, retired real
) strict;
create table if not exists revoked_tokens (token text primary key, expires real not null) strict;
create table if not exists revoked_services (service text primary key, before real not null) strict;
"""


@dataclass(frozen=True, slots=True)
class Caller:
    """A caller as it is shown: never with a secret.

    Attributes:
        prefixes: Names of its keys that are valid now; two during a rotation.
    """

    name: str
    tenant: str
    team: str
    scopes: tuple[str, ...]
    limits: CallerLimits
    created: float
    expires: float | None
    disabled: float | None
    prefixes: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Secret:
    """One key of a caller, as the gateway holds it."""

    digest: bytes
    expires: float | None
    identity: Identity


@dataclass(frozen=True, slots=True)
class Snapshot:
    """Everything that the hot path needs, read at once."""

    secrets: Mapping[bytes, Secret]
    service_keys: Mapping[str, str]
    revoked_tokens: frozenset[str]
    revoked_services: Mapping[str, float]


class CallerDatabase:
    """Reads and writes the file. Use it as a context manager, or keep it open for ``changed``."""

    def __init__(self, path: Path, *, create: bool = False) -> None:
        if not create and not path.is_file():
            raise UsageError(f"there is no caller database {path}", "llmops callers add NAME makes it")
        if create:
            path.parent.mkdir(parents=True, exist_ok=True)
            os.close(os.open(path, os.O_CREAT | os.O_RDWR, 0o600))
        try:
            self._db = sqlite3.connect(path, timeout=10, isolation_level=None, check_same_thread=False)
            self._db.execute("pragma foreign_keys = on")
            self._db.executescript(_SCHEMA)
        except sqlite3.DatabaseError as error:
            raise MachineError(f"{path} cannot be used as a caller database: {error}") from error
        self._seen: object = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Give the file back."""
        self._db.close()

    def changed(self) -> bool:
        """Whether another connection wrote since the last call; costs a few microseconds."""
        version = self._db.execute("pragma data_version").fetchone()[0]
        before, self._seen = self._seen, version
        return bool(before != version)

    # ---- callers ----

    def add(
        self,
        name: str,
        *,
        tenant: str = "default",
        team: str = "",
        scopes: Iterable[str] = DEFAULT_SCOPES,
        limits: CallerLimits = NO_LIMITS,
        expires: float | None = None,
    ) -> str:
        """A new caller with one key; returns the key, which is stored nowhere.

        Raises:
            UsageError: The name is taken, or a name or scope is malformed.
        """
        check_names(name, tenant, team)
        scopes = check_scopes(scopes)
        key, prefix = new_key()
        now = time.time()
        row = (name, tenant, team, json.dumps(scopes), json.dumps(_limit_dict(limits)), now, expires)
        with self._writing():
            try:
                self._db.execute("insert into callers values (?, ?, ?, ?, ?, ?, ?, null)", row)
            except sqlite3.IntegrityError:
                raise UsageError(
                    f"there is a caller {name!r} already", f"llmops callers rotate {name} gives it a new key"
                ) from None
            self._db.execute("insert into secrets values (?, ?, ?, ?, null)", (prefix, name, digest(key.encode()), now))
        return key

    def rotate(self, name: str, overlap_s: float) -> str:
        """A new key for a caller; its older keys end after ``overlap_s``, or when they would have ended before.

        Raises:
            UsageError: There is no such caller, or the overlap is out of range.
        """
        if not 0 <= overlap_s <= MAX_OVERLAP_S:
            raise UsageError("the overlap must lie between 0 and 90 days", "for example --overlap 24h")
        key, prefix = new_key()
        now = time.time()
        with self._writing():
            self._require(name)
            self._db.execute(
                "update secrets set expires = min(coalesce(expires, ?1), ?1) where caller = ?2", (now + overlap_s, name)
            )
            self._db.execute("delete from secrets where caller = ? and expires <= ?", (name, now))
            self._db.execute("insert into secrets values (?, ?, ?, ?, null)", (prefix, name, digest(key.encode()), now))
        return key

    def revoke(self, name: str) -> None:
        """Refuse every key of a caller from now on; its name stays taken, for the ledger's sake.

        Raises:
            UsageError: There is no such caller.
        """
        with self._writing():
            self._require(name)
            self._db.execute("update callers set disabled = ? where name = ?", (time.time(), name))
            self._db.execute("delete from secrets where caller = ?", (name,))

    def list(self, now: float | None = None) -> tuple[Caller, ...]:
        """Every caller, by name."""
        at = time.time() if now is None else now
        prefixes: dict[str, list[str]] = {}
        for caller, prefix in self._db.execute(
            "select caller, prefix from secrets where expires is null or expires > ? order by created", (at,)
        ):
            prefixes.setdefault(caller, []).append(prefix)
        rows = self._db.execute("select * from callers order by name").fetchall()
        return tuple(
            Caller(r[0], r[1], r[2], tuple(json.loads(r[3])), CallerLimits(**json.loads(r[4])), r[5], r[6], r[7],
                   tuple(prefixes.get(r[0], ())))
            for r in rows
        )  # fmt: skip

    # ---- service tokens ----

    def add_service_key(self, kid: str, public: str, *, retire_others_at: float) -> None:
        """A new public key; the older ones verify until ``retire_others_at``."""
        with self._writing():
            self._db.execute("update service_keys set retired = min(coalesce(retired, ?1), ?1)", (retire_others_at,))
            self._db.execute("delete from service_keys where retired < ?", (time.time(),))
            self._db.execute("insert into service_keys values (?, ?, ?, null)", (kid, public, time.time()))

    def newest_service_key(self) -> str | None:
        """The ``kid`` that signs now."""
        row = self._db.execute(
            "select kid from service_keys where retired is null order by created desc limit 1"
        ).fetchone()
        return row[0] if row else None

    def revoke_token(self, token_id: str, expires: float) -> None:
        """Refuse one token from now on; forgotten after it would have expired anyway."""
        with self._writing():
            self._db.execute("delete from revoked_tokens where expires < ?", (time.time() - 3600,))
            self._db.execute("insert or replace into revoked_tokens values (?, ?)", (token_id, expires))

    def revoke_service(self, service: str) -> None:
        """Refuse every token of a service that was issued before now."""
        with self._writing():
            self._db.execute("insert or replace into revoked_services values (?, ?)", (service, time.time()))

    # ---- reading for the gateway ----

    def snapshot(self) -> Snapshot:
        """The present state, consistent in itself."""
        self._db.execute("begin")
        try:
            now = time.time()
            secrets = {
                row[0].encode(): Secret(row[1], _earlier(row[2], row[8]), _identity(row))
                for row in self._db.execute(
                    "select s.prefix, s.digest, s.expires, c.name, c.tenant, c.team, c.scopes, c.limits, c.expires "
                    "from secrets s join callers c on c.name = s.caller where c.disabled is null"
                )
            }
            keys = self._db.execute("select kid, public from service_keys where retired is null or retired > ?", (now,))
            services = dict(keys.fetchall())
            tokens = frozenset(row[0] for row in self._db.execute("select token from revoked_tokens"))
            revoked = dict(self._db.execute("select service, before from revoked_services").fetchall())
            return Snapshot(secrets, services, tokens, revoked)
        finally:
            self._db.execute("rollback")

    @contextlib.contextmanager
    def _writing(self) -> Iterator[None]:
        self._db.execute("begin immediate")
        try:
            yield
        except BaseException:
            self._db.execute("rollback")
            raise
        self._db.execute("commit")

    def _require(self, name: str) -> None:
        rows = self._db.execute("select name from callers where disabled is null").fetchall()
        names = [row[0] for row in rows]
        if name not in names:
            raise UsageError(f"there is no caller {name!r}", did_you_mean(name, names) or "llmops callers list")


def check_names(name: str, tenant: str, team: str) -> None:
    """Refuse names that could break a log line, a header or a path.

    Raises:
        UsageError: With the name.
    """
    for what, value in (("name", name), ("tenant", tenant), ("team", team or "x")):
        if _NAME.fullmatch(value) is None:
            raise UsageError(f"{value!r} is no {what}: letters, digits, . _ @ - and at most 64 of them")


def check_scopes(scopes: Iterable[str]) -> tuple[str, ...]:
    """The scopes, sorted and without repetition.

    Raises:
        UsageError: One is malformed, or there is none.
    """
    listed = tuple(sorted(set(scopes)))
    for scope in listed:
        if _SCOPE.fullmatch(scope) is None:
            raise UsageError(f"{scope!r} is no scope", "for example chat, embeddings, admin, models:llama-3.1-*")
    if not listed:
        raise UsageError("a caller without scopes can do nothing", "for example --scope chat --scope 'models:*'")
    return listed


def _identity(row: tuple[str, ...]) -> Identity:
    name, tenant, team, scopes, limits, expires = row[3:9]
    at = None if expires is None else float(expires)
    return Identity(
        "key", name, tenant, team, Scopes.of(json.loads(scopes)), CallerLimits(**json.loads(limits)), expires_at=at
    )


def _limit_dict(limits: CallerLimits) -> dict[str, int | None]:
    return {
        "requests_per_minute": limits.requests_per_minute,
        "tokens_per_minute": limits.tokens_per_minute,
        "concurrent": limits.concurrent,
    }


def _earlier(one: float | None, other: object) -> float | None:
    times = [float(each) for each in (one, other) if each is not None]  # type: ignore[arg-type]  # SQLite gives numbers
    return min(times) if times else None
