"""The work of ``llmops callers`` and ``llmops tokens``: virtual keys and service tokens."""

from __future__ import annotations

import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from llmops.errors import UsageError
from llmops.findings import Finding
from llmops.gateway.access import service_tokens
from llmops.gateway.access.callers import DEFAULT_SCOPES, NO_LIMITS, Caller, CallerDatabase, check_names, check_scopes
from llmops.gateway.access.delivery import deliver, refuse_existing
from llmops.gateway.access.identity import CallerLimits
from llmops.gateway.access.keyform import PREFIX
from llmops.gateway.access.master import read_master
from llmops.gateway.access.provider_keys import default_vault
from llmops.gateway.access.vault import Vault
from llmops.report.document import Document, Facts, Table, Text
from llmops.settings import settings
from llmops.units import format_duration, parse_duration_s


@dataclass(frozen=True, slots=True)
class CallersReport:
    """Callers after the command; never a secret."""

    done: str
    callers: tuple[Caller, ...]
    written_to: Path | None = None
    ok: bool = True
    findings: tuple[Finding, ...] = ()


@dataclass(frozen=True, slots=True)
class TokenReport:
    """What was issued or revoked; never the token itself."""

    done: str
    claims: dict[str, Any]
    written_to: Path | None = None
    ok: bool = True
    findings: tuple[Finding, ...] = ()


@dataclass(frozen=True, slots=True)
class NewCaller:
    """A caller to be added, as typed."""

    name: str
    to: Path
    tenant: str = "default"
    team: str = ""
    scopes: tuple[str, ...] = DEFAULT_SCOPES
    limits: CallerLimits = NO_LIMITS
    expires_in: str | None = None


def default_callers() -> Path:
    """Where the caller database is when no flag and no config names it."""
    return settings().state_dir / "gateway" / "callers.sqlite"


def add_caller(new: NewCaller, database: Path | None) -> CallersReport:
    """Add a caller and write its key to ``new.to``.

    Raises:
        UsageError: The name is taken, something is malformed, or the file exists.
    """
    refuse_existing(new.to)
    check_names(new.name, new.tenant, new.team)
    check_scopes(new.scopes)
    expires = None if new.expires_in is None else time.time() + parse_duration_s(new.expires_in)
    with CallerDatabase(database or default_callers(), create=True) as db:
        key = db.add(new.name, tenant=new.tenant, team=new.team, scopes=new.scopes, limits=new.limits, expires=expires)
        deliver(new.to, key)
        return CallersReport(f"added {new.name}; its key is in {new.to}", db.list(), new.to)


def rotate_caller(name: str, to: Path, overlap: str, database: Path | None) -> CallersReport:
    """A new key for a caller; the old one stays valid for ``overlap``.

    Raises:
        UsageError: No such caller, a wrong duration, or the file exists.
    """
    refuse_existing(to)
    seconds = parse_duration_s(overlap)
    with CallerDatabase(database or default_callers()) as db:
        deliver(to, db.rotate(name, seconds))
        done = f"{name} has a new key in {to}; the old one ends in {format_duration(seconds)}"
        return CallersReport(done, db.list(), to)


def revoke_caller(name: str, database: Path | None, *, dry_run: bool) -> CallersReport:
    """Refuse a caller from now on.

    Raises:
        UsageError: No such caller.
    """
    with CallerDatabase(database or default_callers()) as db:
        if dry_run:
            if name not in [caller.name for caller in db.list() if caller.disabled is None]:
                raise UsageError(f"there is no caller {name!r}", "llmops callers list")
            return CallersReport(f"would revoke {name}", db.list())
        db.revoke(name)
        return CallersReport(f"revoked {name}; running gateways refuse it within two seconds", db.list())


def list_callers(database: Path | None) -> CallersReport:
    """Every caller."""
    with CallerDatabase(database or default_callers()) as db:
        return CallersReport("", db.list())


@dataclass(frozen=True, slots=True)
class NewToken:
    """A service token to be issued, as typed."""

    service: str
    to: Path
    scopes: tuple[str, ...]
    ttl: str = "15m"
    tenant: str = "default"
    team: str = ""


def issue_token(new: NewToken, master: str, vault: Path | None, database: Path | None) -> TokenReport:
    """Sign a token for a service and write it to ``new.to``.

    Raises:
        UsageError: A name, a scope or the lifetime is wrong, or the file exists.
        AccessError: The vault does not open.
    """
    refuse_existing(new.to)
    ttl_s = parse_duration_s(new.ttl)
    with CallerDatabase(database or default_callers(), create=True) as db:
        opened = Vault(vault or default_vault(), read_master(master))
        token, claims = service_tokens.issue(
            db, opened, new.service, new.scopes, tenant=new.tenant, team=new.team, ttl_s=ttl_s
        )
    deliver(new.to, token)
    done = f"issued a token for {new.service}, valid for {format_duration(ttl_s)}, in {new.to}"
    return TokenReport(done, dict(claims), new.to)


def revoke_token(token_id: str | None, service: str | None, database: Path | None) -> TokenReport:
    """Refuse one token by its id, or every token that a service has now.

    Raises:
        UsageError: Neither or both were given.
    """
    if (token_id is None) == (service is None):
        raise UsageError("give either --id or --service", "llmops tokens revoke --service NAME")
    with CallerDatabase(database or default_callers(), create=True) as db:
        if token_id is not None:
            db.revoke_token(token_id, time.time() + service_tokens.MAX_TTL_S)
            return TokenReport(f"revoked token {token_id}", {"jti": token_id})
        assert service is not None
        db.revoke_service(service)
        return TokenReport(f"revoked every token that {service} has now", {"sub": service})


def rotate_signing_key(master: str, vault: Path | None, database: Path | None) -> TokenReport:
    """A new signing key; tokens of the old one stay valid until they expire.

    Raises:
        AccessError: The vault does not open.
    """
    with CallerDatabase(database or default_callers(), create=True) as db:
        kid = service_tokens.rotate_key(db, Vault(vault or default_vault(), read_master(master)))
    return TokenReport(f"tokens are signed by key {kid} from now on", {"kid": kid})


def view_callers(report: CallersReport) -> Document:
    """A table of callers."""
    rows = tuple(
        (
            caller.name,
            caller.tenant,
            caller.team or "-",
            " ".join(caller.scopes),
            _limits(caller.limits),
            "revoked" if caller.disabled else ", ".join(PREFIX + prefix for prefix in caller.prefixes) or "expired",
            "never" if caller.expires is None else _date(caller.expires),
        )
        for caller in report.callers
    )
    columns = ("caller", "tenant", "team", "scopes", "limits", "key starts with", "expires")
    verdict = Text(report.done, "good") if report.done else None
    return Document("Callers", (Table(columns, rows),), verdict)


def view_token(report: TokenReport) -> Document:
    """The claims of a token."""
    facts = tuple(
        (name, _date(value) if name in ("exp", "nbf", "iat") else str(value)) for name, value in report.claims.items()
    )
    return Document("Service token", (Facts(facts),), Text(report.done, "good"))


def _limits(limits: CallerLimits) -> str:
    parts = (
        (limits.requests_per_minute, "requests/min"),
        (limits.tokens_per_minute, "tokens/min"),
        (limits.concurrent, "at once"),
    )
    return ", ".join(f"{value} {unit}" for value, unit in parts if value is not None) or "-"


def _date(at: float) -> str:
    return time.strftime("%Y-%m-%d %H:%M:%S UTC", time.gmtime(at))
