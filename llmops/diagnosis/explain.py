"""A page on each cause, and the list of all: made of the rules, so that they cannot say something else."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from llmops.diagnosis.rules import Rule, rule_book
from llmops.errors import UsageError, did_you_mean
from llmops.findings import Finding
from llmops.report.document import Block, Code, Document, Facts, Heading, Table, Text


@dataclass(frozen=True, slots=True)
class Pages:
    """One or all rules to read. ``one`` asks for the page instead of the list."""

    rules: tuple[Rule, ...]
    one: bool = False
    ok: bool = True
    findings: tuple[Finding, ...] = ()

    def data(self) -> dict[str, Any]:
        """The JSON ``data``: the records without their matchers."""
        keep = ("cause", "family", "title", "explanation", "severity", "engines", "explains", "fixes", "link")
        return {"causes": [rule.model_dump(mode="json", include=set(keep)) for rule in self.rules]}


def page(cause: str) -> Pages:
    """The page of one cause.

    Raises:
        UsageError: There is no such cause.
    """
    rule = rule_book().rule(cause)
    if rule is None:
        known = [rule.cause for rule in rule_book().rules]
        raise UsageError(f"there is no cause {cause!r}", did_you_mean(cause, known) or "llmops diagnose --list")
    return Pages((rule,), one=True)


def every() -> Pages:
    """All causes."""
    return Pages(rule_book().rules)


def view(pages: Pages) -> Document:
    """A page, or the list by family."""
    if pages.one:
        return _page(pages.rules[0])
    rows = tuple((rule.family, rule.cause, rule.title) for rule in pages.rules)
    verdict = Text(f"{len(rows)} causes; read one with: llmops diagnose --explain CAUSE")
    return Document("Causes that llmops knows", (Table(("family", "cause", "what it is"), rows),), verdict)


def _page(rule: Rule) -> Document:
    blocks: list[Block] = [
        Facts(
            (
                ("cause", rule.cause),
                ("family", rule.family),
                ("severity", rule.severity),
                ("engines", ", ".join(rule.engines) or "any"),
            )
        ),
        Text(" ".join(rule.explanation.split())),
    ]
    blocks += [Text(anchor.detail, "dim") for anchor in rule.anchors if anchor.detail]
    blocks.append(Heading("What to do"))
    for fix in rule.fixes:
        blocks.append(Text(fix.title))
        if fix.command:
            blocks.append(Code(fix.command, "sh"))
    blocks += [Heading("How it looks"), Code(rule.examples.positive[0].strip())]
    if rule.explains:
        blocks.append(Text(f"Often seen as a consequence of it: {', '.join(rule.explains)}", "dim"))
    return Document(rule.title, tuple(blocks))
