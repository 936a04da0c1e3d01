"""``llmops gateway alerts``: the rules, their tests and the dashboard as files, checked by promtool where asked."""

from __future__ import annotations

import json
import shutil
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import yaml

from llmops.errors import MachineError, UsageError
from llmops.findings import Finding
from llmops.gateway.alerting.dashboard import PANELS, dashboard
from llmops.gateway.alerting.rules import Alert, Limits, alerts, rule_file, test_file
from llmops.process import run_logged, tail
from llmops.report.document import Document, Table, Text
from llmops.report.files import write_whole

if TYPE_CHECKING:
    from llmops.progress import Progress

RULES: Final = "llmops.rules.yml"
TESTS: Final = "llmops.rules.test.yml"
DASHBOARD: Final = "llmops-dashboard.json"
_HEAD: Final = "# Written by `llmops gateway alerts`; run it again rather than changing this file.\n"


@dataclass(frozen=True, slots=True)
class AlertsSpec:
    """Where the files go, and where alerts begin."""

    out: Path
    limits: Limits
    check: bool = False
    dry_run: bool = False


@dataclass(frozen=True, slots=True)
class AlertsReport:
    """What was written."""

    files: tuple[Path, ...]
    rules: tuple[Alert, ...]
    panels: int
    checked: bool | None
    findings: tuple[Finding, ...] = ()

    @property
    def ok(self) -> bool:
        """Whether promtool, where asked, has nothing against the rules."""
        return self.checked is not False

    def data(self) -> dict[str, Any]:
        """For the JSON document."""
        rows = [
            {"name": each.name, "expr": each.expr, "for": each.holds, "severity": each.severity} for each in self.rules
        ]
        return {
            "files": [str(path) for path in self.files],
            "alerts": rows,
            "panels": self.panels,
            "checked": self.checked,
        }


def write_alerts(spec: AlertsSpec, progress: Progress) -> AlertsReport:
    """Write the files; nothing where it is a dry run.

    Raises:
        UsageError: A limit makes no sense.
        MachineError: promtool is to check them and is not installed.
    """
    limits = spec.limits
    if not 0 < limits.error_share <= 0.5 or not 0 < limits.budget_share < 0.98:
        raise UsageError("an alert needs a share between 0 and 1", "--error-rate 0.05 --budget 0.8")
    if min(limits.p95_s, limits.usd_per_hour) <= 0:
        raise UsageError("an alert needs a positive limit", "--p95 5 --cost 100")
    found = alerts(limits)
    texts = {
        RULES: _HEAD + yaml.safe_dump(rule_file(found), sort_keys=False, width=1000, allow_unicode=True),
        TESTS: _HEAD + yaml.safe_dump(test_file(found, RULES), sort_keys=False, width=1000, allow_unicode=True),
        DASHBOARD: json.dumps(dashboard(), indent=1) + "\n",
    }
    paths = tuple(spec.out / name for name in texts)
    if spec.dry_run:
        return AlertsReport(paths, found, len(PANELS), None)
    spec.out.mkdir(parents=True, exist_ok=True)
    for path, text in zip(paths, texts.values(), strict=True):
        write_whole(path, text)
    if not spec.check:
        return AlertsReport(paths, found, len(PANELS), None)
    progress.phase("promtool checks the rules and runs their tests")
    findings = _check(spec.out)
    return AlertsReport(paths, found, len(PANELS), not findings, findings)


def _check(directory: Path) -> tuple[Finding, ...]:
    promtool = shutil.which("promtool")
    if promtool is None:
        raise MachineError("promtool is not installed", "it comes with Prometheus; the files are written")
    found = []
    with tempfile.TemporaryDirectory() as scratch:
        for words, name in ((("check", "rules"), RULES), (("test", "rules"), TESTS)):
            log = Path(scratch) / words[0]
            if run_logged((promtool, *words, str(directory / name)), log, timeout_s=120):
                said = " ".join(line.strip() for line in tail(log, 12) if line.strip())
                found.append(
                    Finding("promtool", "error", f"promtool {words[0]} rules: {said}", file=str(directory / name))
                )
    return tuple(found)


def view(report: AlertsReport) -> Document:
    """The alerts and the files."""
    rows = tuple((each.name, each.severity, each.holds, each.expr) for each in report.rules)
    blocks: list[Table | Text] = [Table(("Alert", "Severity", "For", "Expression"), rows)]
    blocks += [Text(str(path)) for path in report.files]
    blocks += [Text(finding.message, "bad") for finding in report.findings]
    what = f"{len(report.rules)} alerts, {report.panels} panels"
    if report.checked is None:
        return Document("Alerts", tuple(blocks), Text(what))
    if report.checked:
        said = f"{what}; promtool saw each alert fire, and not fire"
        return Document("Alerts", tuple(blocks), Text(said, "good"))
    return Document("Alerts", tuple(blocks), Text(f"{what}; promtool finds mistakes", "bad"))
