"""``llmops gateway check``: is a config right, and, live, do its providers answer to its keys."""

from __future__ import annotations

import asyncio
import os
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from llmops.errors import AccessError
from llmops.findings import Finding
from llmops.gateway.config import Gateway, load
from llmops.gateway.upstream import PoolFullError
from llmops.http1 import TransferError
from llmops.prices import price_book
from llmops.report.document import Document, Table, Text
from llmops.report.told import told
from llmops.units import counted

if TYPE_CHECKING:
    from llmops.gateway.targets import Provider
    from llmops.progress import Progress

# The cheapest call of each dialect: it lists or greets, and generates nothing.
_CALLS: Final = {"openai": "/models", "anthropic": "/models", "gemini": "/models", "triton": "/v2/health/ready"}
_TIMEOUT_S: Final = 10.0


@dataclass(frozen=True, slots=True)
class ProviderCheck:
    """One provider: ``state`` is ``not asked``, ``ok``, or what went wrong."""

    name: str
    dialect: str
    url: str
    key: str
    state: str
    took_ms: float | None = None
    region: str | None = None


@dataclass(frozen=True, slots=True)
class CheckReport:
    """A checked config; ``hot_path`` says how this installation runs it: ``compiled`` or ``interpreted``."""

    file: str
    providers: tuple[ProviderCheck, ...]
    routes: int
    hot_path: str
    findings: tuple[Finding, ...]

    @property
    def ok(self) -> bool:
        """Whether nothing is wrong."""
        return not any(finding.severity == "error" for finding in self.findings)


def check(path: Path, *, live: bool, progress: Progress) -> CheckReport:
    """Check a config.

    Raises:
        UsageError: It is wrong, with file:line.
        AccessError: It would be open to strangers.
    """
    config = load(path)
    findings = [*_prices(config, path), *_unreachable(config, path)]
    rows: list[ProviderCheck] = []
    if live:
        progress.phase("asking the providers")
        rows = asyncio.run(_ask_all(config))
    for name, form in config.providers.items():
        key = form.key_env or (str(form.key_file) if form.key_file else form.key_vault or "none")
        if not live:
            if form.key_env is not None and not os.environ.get(form.key_env, "").strip():
                message = f"the environment variable {form.key_env} of provider {name!r} is not set here"
                findings.append(Finding("key-missing", "note", message, f"export {form.key_env}=…", str(path)))
            rows.append(ProviderCheck(name, form.dialect, form.base_url, key, "not asked", region=form.region))
    for row in rows:
        if row.state not in ("ok", "not asked"):
            message = f"provider {row.name!r} at {row.url}: {row.state}"
            findings.append(Finding("provider-fails", "error", message, "check base_url and key", str(path)))
    return CheckReport(str(path), tuple(rows), len(config.routes), _hot_path(), tuple(findings))


def _hot_path() -> str:
    from llmops.gateway import request

    return "interpreted" if request.__file__.endswith(".py") else "compiled"


def _prices(config: Gateway, path: Path) -> list[Finding]:
    """Models whose requests will have an unknown cost."""
    from llmops.gateway.targets import prices_as_of

    book = price_book(config.prices)
    found = []
    for route in config.routes:
        for target in route.targets:
            form = config.providers[target.provider]
            if target.model is None or form.forward_key:
                continue
            name = prices_as_of(form)
            local = form.local and name is None
            sheet = book.site_sheet(target.model, target.provider) if local else book.sheet(target.model, name)
            if sheet is None or isinstance(sheet, str):
                message = f"the price of {target.provider}/{target.model} is unknown; its cost will be shown as unknown"
                found.append(Finding("price-unknown", "warning", message, "add a row to the prices file", str(path)))
    return found


def _unreachable(config: Gateway, path: Path) -> list[Finding]:
    """Providers that no route names."""
    used = {target.provider for route in config.routes for target in route.targets}
    return [
        Finding("provider-unused", "note", f"no route uses the provider {name!r}", "add a route", str(path))
        for name, form in config.providers.items()
        if name not in used and not form.discover
    ]


async def _ask_all(config: Gateway) -> list[ProviderCheck]:
    return list(await asyncio.gather(*(_ask(config, name) for name in config.providers)))


async def _ask(config: Gateway, name: str) -> ProviderCheck:
    from llmops.gateway.site_parts import vault_of
    from llmops.gateway.targets import Provider

    form = config.providers[name]
    key = form.key_env or (str(form.key_file) if form.key_file else form.key_vault or "none")
    began = time.monotonic()
    try:
        provider = Provider(name, form, vault_of(config))
        state = await _state(provider, _CALLS[form.dialect])
        provider.kill()
    except AccessError as error:
        state = error.message.removeprefix(f"provider {name!r}: ")
    took = (time.monotonic() - began) * 1000
    return ProviderCheck(name, form.dialect, form.base_url, key, state, round(took, 1), region=form.region)


async def _state(provider: Provider, path: str) -> str:
    deadline = time.monotonic_ns() + int(_TIMEOUT_S * 1e9)
    try:
        exchange = await provider.get(provider.path(path), deadline)
        body = await exchange.whole()
    except (TransferError, PoolFullError) as error:
        return str(error) or "no connection is free"
    if exchange.status == 200 or (exchange.status in (401, 403) and provider.form.forward_key):
        return "ok"  # where the callers' own keys are used, asking for one is right
    if exchange.status in (401, 403):
        return f"it refuses the key (HTTP {exchange.status})"
    from llmops.gateway.dialects.wire import read_error

    return f"HTTP {exchange.status} {read_error(body)[0]}".strip()


def view(report: CheckReport) -> Document:
    """The providers, and what was found."""
    regions = any(row.region for row in report.providers)
    rows = tuple(
        (
            *(row.name, row.dialect, row.url, *((row.region or "-",) if regions else ()), row.key, row.state),
            "" if row.took_ms is None else f"{row.took_ms:.0f} ms",
        )
        for row in report.providers
    )
    columns = ("Provider", "Dialect", "URL", *(("Region",) if regions else ()), "Key from", "State", "Took")
    blocks: list[Any] = [Table(columns, rows, frozenset({"Took"}))]
    blocks += told(report.findings)
    said = f"{report.file} is right: {counted(report.routes, 'route')}; the hot path here is {report.hot_path}"
    verdict = Text(said, "good") if report.ok else Text("not right", "bad")
    return Document("Gateway config", tuple(blocks), verdict)
