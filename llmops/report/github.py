"""GitHub Actions: annotations and the step summary. Commands go to stderr, which the runner parses too, so that stdout
stays one JSON document.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Final, TextIO

from llmops.findings import Finding
from llmops.masking import mask
from llmops.report.document import Document

MAX_ANNOTATIONS: Final = 10  # GitHub shows no more than 10 of each level per step
_COMMAND: Final = {"error": "error", "warning": "warning", "note": "notice"}


def active() -> bool:
    """Whether this process runs in a GitHub Actions step."""
    return os.environ.get("GITHUB_ACTIONS") == "true"


def annotate(findings: tuple[Finding, ...], stream: TextIO) -> None:
    """Write at most ten annotations, errors first."""
    order = ("error", "warning", "note")
    shown = sorted((f for f in findings if f.severity in order), key=lambda f: order.index(f.severity))
    for finding in shown[:MAX_ANNOTATIONS]:
        text = finding.message + (f"\n{finding.remedy}" if finding.remedy else "")
        stream.write(_command(_COMMAND[finding.severity], text, finding.rule, finding.file, finding.line))


def error(message: str, hint: str | None, stream: TextIO) -> None:
    """One error annotation for a command that failed."""
    stream.write(_command("error", message + (f"\nhint: {hint}" if hint else ""), "llmops"))


def summarise(document: Document) -> None:
    """Append the document to the step summary, where the runner gives one."""
    target = os.environ.get("GITHUB_STEP_SUMMARY")
    if target:
        from llmops.report import markdown

        with Path(target).open("a", encoding="utf-8") as file:
            file.write(mask(markdown.render(document)) + "\n\n")


def _command(kind: str, text: str, title: str, file: str | None = None, line: int | None = None) -> str:
    properties = [f"title={_property(title)}"]
    if file:
        properties.append(f"file={_property(file)}")
    if line:
        properties.append(f"line={line}")
    return mask(f"::{kind} {','.join(properties)}::{_data(text)}\n")


def _data(text: str) -> str:
    return text.replace("%", "%25").replace("\r", "%0D").replace("\n", "%0A")


def _property(text: str) -> str:
    return _data(text).replace(":", "%3A").replace(",", "%2C")
