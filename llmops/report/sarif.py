"""SARIF 2.1.0 for code-scanning views: findings that name a file. The rest goes to JUnit and the summary."""

from __future__ import annotations

import hashlib
import os
from pathlib import Path

import msgspec

from llmops.findings import Finding

_LEVEL = {"error": "error", "warning": "warning", "note": "note", "ok": "none"}


def render(verb: str, findings: tuple[Finding, ...], version: str) -> str:
    """One run of the tool ``llmops`` with the findings that have a file."""
    located = [finding for finding in findings if finding.file and finding.severity != "ok"]
    rules = sorted({finding.rule for finding in located})
    document = {
        "$schema": "https://json.schemastore.org/sarif-2.1.0.json",
        "version": "2.1.0",
        "runs": [
            {
                "tool": {"driver": {"name": "llmops", "version": version, "rules": [{"id": rule} for rule in rules]}},
                "automationDetails": {"id": f"llmops/{verb}/"},
                "results": [_result(finding) for finding in located],
            }
        ],
    }
    return msgspec.json.format(msgspec.json.encode(document), indent=2).decode()


def _result(finding: Finding) -> dict[str, object]:
    assert finding.file is not None
    text = finding.message + (f" {finding.remedy}" if finding.remedy else "")
    location: dict[str, object] = {"artifactLocation": {"uri": _relative(finding.file)}}
    if finding.line:
        location["region"] = {"startLine": finding.line} | ({"startColumn": finding.column} if finding.column else {})
    print_ = hashlib.sha256(f"{finding.rule}\0{_relative(finding.file)}\0{finding.message}".encode()).hexdigest()[:32]
    return {
        "ruleId": finding.rule,
        "level": _LEVEL[finding.severity],
        "message": {"text": text},
        "locations": [{"physicalLocation": location}],
        "partialFingerprints": {"llmops/v1": print_},
    }


def _relative(file: str) -> str:
    path = Path(file)
    if path.is_absolute() and path.is_relative_to(Path.cwd()):
        path = path.relative_to(Path.cwd())
    return path.as_posix() if not path.is_absolute() else Path(os.path.relpath(path)).as_posix()
