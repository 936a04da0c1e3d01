"""What ``llmops config show`` prints."""

from __future__ import annotations

from dataclasses import dataclass

from llmops.findings import Finding
from llmops.report.document import Document, Table, Text
from llmops.settings import Setting, config_files, settle


@dataclass(frozen=True, slots=True)
class ConfigReport:
    """Every setting with its origin."""

    settings: tuple[Setting, ...]
    ok: bool = True
    findings: tuple[Finding, ...] = ()


def collect() -> ConfigReport:
    """Settle every setting."""
    return ConfigReport(settle())


def view(report: ConfigReport, *, origin: bool) -> Document:
    """A table of settings; origins on request."""
    columns = ("setting", "value", "origin") if origin else ("setting", "value", "meaning")
    rows = tuple(
        (each.name, _shown(each.value), each.origin if origin else each.description) for each in report.settings
    )
    looked = ", ".join(f"{path}{'' if path.is_file() else ' (absent)'}" for path in config_files())
    return Document("", (Table(columns, rows), Text(f"Files looked at: {looked}", "dim")))


def _shown(value: object) -> str:
    if isinstance(value, dict):
        return ", ".join(f"{name}={each}" for name, each in value.items()) or "-"
    return "-" if value is None else str(value).lower() if isinstance(value, bool) else str(value)
