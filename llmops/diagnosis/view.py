"""A diagnosis for a person."""

from __future__ import annotations

from llmops.diagnosis.report import Cause, Diagnosis, Evidence
from llmops.report.document import Block, Code, Document, Heading, Text


def view(diagnosis: Diagnosis) -> Document:
    """The cause with its proof and its fix; further causes shorter, under it."""
    blocks: list[Block] = []
    for place, cause in enumerate(diagnosis.causes):
        blocks += _cause(cause, first=place == 0)
    if diagnosis.unexplained:
        blocks += [Heading("Lines that show a failure"), Code(_lines(diagnosis.unexplained))]
        blocks.append(
            Text(
                "Give a longer log, from the first line of the start: the cause usually stands far above the end.",
                "dim",
            )
        )
    return Document(f"Diagnosis of {', '.join(diagnosis.sources) or 'nothing'}", tuple(blocks), _verdict(diagnosis))


def _cause(cause: Cause, *, first: bool) -> list[Block]:
    blocks: list[Block] = [
        Heading(f"{cause.title} [{cause.cause}, {cause.confidence:.0%}]"),
        Text(cause.explanation),
        Code(_lines(cause.evidence if first else cause.evidence[:1])),
    ]
    for fix in cause.fixes if first else cause.fixes[:1]:
        blocks.append(Text(f"Fix: {fix.title}", "good"))
        if fix.command:
            blocks.append(Code(fix.command, "sh"))
    if cause.explains:
        blocks.append(Text("Explained by it: " + "; ".join(cause.explains), "dim"))
    return blocks


def _lines(evidence: tuple[Evidence, ...]) -> str:
    return "\n".join(f"{e.file}:{e.line}: {e.text}" for e in evidence)


def _verdict(diagnosis: Diagnosis) -> Text:
    top = diagnosis.top
    if top is not None:
        return Text(f"{top.cause}: {top.title}", "bad")
    if diagnosis.status == "unknown":
        return Text("A failure is visible, its cause is not known", "warn")
    return Text(f"No known failure in {diagnosis.lines:,} lines", "good")
