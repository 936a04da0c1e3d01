"""The rules as data: causes with the messages that prove them, read from the YAML files beside this module."""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import cache
from importlib import resources
from typing import Any, Final

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from llmops.diagnosis.scan import Vocabulary

PHASES: Final = (
    "import", "config", "weights", "profile", "kv-cache", "graphs", "ready", "serving", "shutdown",
)  # fmt: skip
FAMILY_ORDER: Final = (
    "gpu-memory", "host-resources", "serve-config", "model", "gpu-capability", "driver", "python-env", "gpu-hardware",
    "kernel-fault", "distributed", "hub", "kubernetes", "tensorrt-triton", "cloud-api", "quantize-export", "observability",
)  # fmt: skip


class _Record(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class Anchor(_Record):
    """One way in which a cause shows.

    Attributes:
        says: Phrases or ``@groups``; any of them is the anchor.
        needs: Each of these must occur somewhere in the log.
        forbids: None of these may occur anywhere in the log.
        near: One of these must occur within ``within`` lines.
        not_near: None of these within ``within`` lines.
        within: Distance in lines for ``near`` and ``not_near``.
        phases: The start-up phases in which the anchor counts; empty for any.
        silent_end: The log shows no failure, and ends within ``within`` lines of the anchor.
        any_level: A line at INFO proves as much as one at ERROR.
        detail: Said in place of the rule's explanation when this anchor is the one that matched.
        confidence: 0 to 1.
    """

    says: tuple[str, ...] = Field(min_length=1)
    needs: tuple[str, ...] = ()
    forbids: tuple[str, ...] = ()
    near: tuple[str, ...] = ()
    not_near: tuple[str, ...] = ()
    within: int = 60
    phases: tuple[str, ...] = ()
    silent_end: bool = False
    any_level: bool = False
    detail: str | None = None
    confidence: float = Field(default=0.95, gt=0, le=1)


class FixTemplate(_Record):
    """A fix whose ``{values}`` are captured or computed; it is left out when one is missing, unless it has none."""

    title: str
    command: str | None = None
    compute: str | None = None


class Examples(_Record):
    """Logs that the rule must, and must not, answer."""

    positive: tuple[str, ...] = Field(min_length=1)
    negative: tuple[str, ...] = Field(min_length=1)


class Rule(_Record):
    """A cause.

    ``start_only``: it can only stop a server from starting, so a server that became ready later did without (a retry with
    less succeeded, or a supervisor started it again). ``last_resort``: any other cause explains it.
    """

    cause: str
    family: str
    title: str
    explanation: str
    severity: str = "fatal"
    start_only: bool = False
    last_resort: bool = False
    engines: tuple[str, ...] = ()
    anchors: tuple[Anchor, ...] = Field(min_length=1)
    explains: tuple[str, ...] = ()
    fixes: tuple[FixTemplate, ...] = Field(min_length=1)
    link: str | None = None
    machine: tuple[str, ...] = ()
    examples: Examples


class Symptom(_Record):
    """A message that is never a cause.

    ``failure`` says that the log is of a failed run; ``any_level`` that it does so whatever level it was logged at, as
    when a supervisor repeats at INFO what a child printed.
    """

    symptom: str
    text: str
    says: tuple[str, ...]
    failure: bool = True
    any_level: bool = False


class PhaseMark(_Record):
    """Messages with which a phase begins."""

    phase: str
    says: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class RuleBook:
    """All rules, with every phrase of theirs compiled into one vocabulary."""

    rules: tuple[Rule, ...]
    symptoms: tuple[Symptom, ...]
    phases: tuple[PhaseMark, ...]
    groups: dict[str, tuple[str, ...]] = field(default_factory=dict)
    vocabulary: Vocabulary = field(default_factory=lambda: Vocabulary(()))

    def phrases(self, names: tuple[str, ...]) -> tuple[str, ...]:
        """``names`` with each ``@group`` replaced by its phrases."""
        found: list[str] = []
        for name in names:
            if name.startswith("@"):
                found += self.phrases(self.groups[name[1:]])
            else:
                found.append(name)
        return tuple(found)

    def rule(self, cause: str) -> Rule | None:
        """The rule of a slug, or None."""
        return next((rule for rule in self.rules if rule.cause == cause), None)


@cache
def rule_book() -> RuleBook:
    """The rules that ship with llmops."""
    folder = resources.files("llmops.diagnosis") / "rules"
    records: dict[str, list[Any]] = {"rules": [], "symptoms": [], "phases": [], "groups": []}
    for file in sorted(folder.iterdir(), key=lambda f: f.name):
        if file.name.endswith(".yaml"):
            for kind, entries in _read(file.read_text("utf-8"), file.name).items():
                records[kind] += entries
    return build(records)


def build(records: dict[str, list[Any]]) -> RuleBook:
    """Make a rule book of plain records.

    Raises:
        ValueError: A record is malformed, or names a group, a phase or a family that does not exist.
    """
    rules = tuple(_valid(Rule, r, "cause") for r in records["rules"])
    symptoms = tuple(_valid(Symptom, r, "symptom") for r in records["symptoms"])
    phases = tuple(_valid(PhaseMark, r, "phase") for r in records["phases"])
    groups = {g["group"]: tuple(g["says"]) for g in records["groups"]}
    plain = RuleBook(rules, symptoms, phases, groups)
    texts: set[str] = set()
    for rule in rules:
        for anchor in rule.anchors:
            for names in (anchor.says, anchor.needs, anchor.forbids, anchor.near, anchor.not_near):
                texts.update(plain.phrases(names))
    for named in (*symptoms, *phases):
        texts.update(plain.phrases(named.says))
    for group, says in groups.items():
        if group.startswith("engine-"):
            texts.update(says)
    return RuleBook(tuple(sorted(rules, key=_by_family)), symptoms, phases, groups, Vocabulary(texts))


def _by_family(rule: Rule) -> tuple[int, str]:
    return FAMILY_ORDER.index(rule.family), rule.cause


def _valid(kind: type[Any], record: Any, key: str) -> Any:
    try:
        return kind.model_validate(record)
    except ValidationError as error:
        raise ValueError(f"rule {record.get(key)!r}: {error}") from error


def _read(text: str, name: str) -> dict[str, list[Any]]:
    loader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)(text)
    try:
        content = loader.get_single_data()
    except yaml.YAMLError as error:
        raise ValueError(f"{name}: {error}") from error
    finally:
        loader.dispose()
    if not isinstance(content, dict):
        raise TypeError(f"{name}: not a mapping of rules, symptoms, phases or groups")
    return content
