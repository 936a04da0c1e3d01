"""Reports of the gateway's commands, for people."""

from __future__ import annotations

from typing import TYPE_CHECKING

from llmops.report.document import Document, Facts, Text
from llmops.units import format_duration

if TYPE_CHECKING:
    from llmops.gateway.server import ServedReport


def served(report: ServedReport) -> Document:
    """What a gateway did until it was stopped."""
    rows = (
        ("Address", report.url),
        ("Requests", f"{report.requests:,}"),
        ("Time", format_duration(report.seconds)),
    )
    return Document("Gateway", (Facts(rows),), Text("ended in good order; every accepted request was answered", "good"))
