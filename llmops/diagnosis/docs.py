"""``python -m llmops.diagnosis.docs > docs/diagnose.md``: the page of all causes, written from the rules."""

from __future__ import annotations

import sys
from itertools import groupby
from typing import Final

from llmops.diagnosis.rules import Rule, rule_book

_HEAD: Final = """\
# Causes that `llmops diagnose` knows

This page is written from the rules: change `llmops/diagnosis/rules/*.yaml`, then
`python -m llmops.diagnosis.docs > docs/diagnose.md`.

`llmops diagnose LOG` names the first cause below that the log proves, with the lines that prove it. Names in braces are numbers
that are read from the log or computed from it.
"""


def render() -> str:
    """The whole page."""
    parts = [_HEAD]
    for family, rules in groupby(rule_book().rules, key=lambda rule: rule.family):
        parts.append(f"\n## {family}\n")
        parts += [_entry(rule) for rule in rules]
    return "".join(parts)


def _entry(rule: Rule) -> str:
    lines = [f"\n### {rule.cause}\n", f"**{rule.title}.** {' '.join(rule.explanation.split())}\n"]
    lines += [f"- {fix.title}" + (f": `{fix.command}`" if fix.command else "") for fix in rule.fixes]
    example = " ".join(rule.examples.positive[0].split())
    shown = example if len(example) <= 200 else f"{example[:197]}…"
    lines.append(f"\nLooks like: `{shown.replace('`', chr(39))}`")
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    sys.stdout.write(render())
