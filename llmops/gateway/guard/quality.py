"""How well the guards judge: recall and false alarms on the labelled texts that ship with llmops.

The set was written together with the rules, so its figures say that nothing broke and what is known to be missed; they are
no independent benchmark.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from llmops.gateway.guard.injection import judge
from llmops.gateway.guard.secret_rules import find

LABELLED: Final = Path(__file__).with_name("data") / "labelled.jsonl"


@dataclass(frozen=True, slots=True)
class Labelled:
    """One text of the set."""

    label: str
    lang: str
    kind: str
    text: str


@dataclass(frozen=True, slots=True)
class Quality:
    """Figures for one language, or for all."""

    lang: str
    attacks: int
    caught: int
    ordinary: int
    false_alarms: int
    false_secrets: int

    @property
    def recall(self) -> float:
        """Share of the attacks that were caught."""
        return self.caught / self.attacks if self.attacks else 1.0


def labelled() -> tuple[Labelled, ...]:
    """The whole set."""
    lines = LABELLED.read_text(encoding="utf-8").splitlines()
    return tuple(Labelled(**json.loads(line)) for line in lines)


def measure(rows: Iterable[Labelled], threshold: float, lang: str = "all") -> Quality:
    """Judge every text once."""
    chosen = [row for row in rows if lang in ("all", row.lang)]
    attacks = [row for row in chosen if row.label == "injection"]
    ordinary = [row for row in chosen if row.label == "benign"]
    return Quality(
        lang,
        len(attacks),
        sum(judge(row.text).score >= threshold for row in attacks),
        len(ordinary),
        sum(judge(row.text).score >= threshold for row in ordinary),
        sum(bool(find(row.text.encode())) for row in ordinary),
    )
