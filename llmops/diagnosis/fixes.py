"""Fixes with numbers: what the log says goes through the planner's limits into a flag to paste."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Final

from llmops.diagnosis.compute import COMPUTE
from llmops.diagnosis.report import Fix
from llmops.diagnosis.rules import FixTemplate, Rule

_FIELD: Final = re.compile(r"\{([a-z_]+)\}")


def fixes_for(rule: Rule, values: Mapping[str, str]) -> tuple[Fix, ...]:
    """The rule's fixes with their values filled in; a fix whose number is not known is left out."""
    fixes = [fix for template in rule.fixes if (fix := _filled(template, values))]
    return tuple(fixes)


def _filled(template: FixTemplate, values: Mapping[str, str]) -> Fix | None:
    known = {name: value.strip(" .,:") for name, value in values.items()}
    if template.compute is not None:
        try:
            known |= COMPUTE[template.compute](known)
        except (KeyError, ValueError, ArithmeticError):
            return None
    wanted = _FIELD.findall(template.title) + _FIELD.findall(template.command or "")
    if any(not known.get(name) for name in wanted):
        return None
    return Fix(
        title=_FIELD.sub(lambda m: known[m[1]], template.title),
        command=_FIELD.sub(lambda m: known[m[1]], template.command) if template.command else None,
        values={name: known[name] for name in dict.fromkeys(wanted)},
    )
