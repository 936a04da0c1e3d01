"""How a person is told what was found: everywhere in the same words."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final

from llmops.findings import Finding
from llmops.report.document import Text, Tone

_TONES: Final[dict[str, Tone]] = {"error": "bad", "warning": "warn", "note": "plain", "ok": "good"}


def told(findings: Iterable[Finding]) -> list[Text]:
    """A line each, the worst first, with its hint below it, as errors have on stderr."""
    worst = list(_TONES)
    texts: list[Text] = []
    for finding in sorted(findings, key=lambda each: worst.index(each.severity)):
        texts.append(Text(f"{finding.severity}: {finding.message}", _TONES[finding.severity]))
        if finding.remedy:
            texts.append(Text(f"hint: {finding.remedy}", "dim"))
    return texts
