"""From what was said to why it failed: match the rules, then let causes explain symptoms and other causes away."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Final

from llmops.diagnosis.machine.state import MachineReport
from llmops.diagnosis.rules import Anchor, Rule, RuleBook
from llmops.diagnosis.scan import Hit, Scanned
from llmops.diagnosis.speakers import Speaker

ABSTAIN_BELOW: Final = 0.4
MOST_EVIDENCE: Final = 5
# An excerpt of fewer lines was chosen by someone, who kept the warning for a reason.
SHORT: Final = 40
# Of the lines found in a file, the share that must name a service before the services are told apart.
MIXED: Final = 0.8
# What the state of the machine adds to, and takes from, the confidence in a cause.
CONFIRMED: Final = 0.04
CONTRADICTED: Final = 0.15


@dataclass(slots=True)
class Candidate:
    """A rule that matched, before causes are weighed against each other."""

    rule: Rule
    confidence: float
    hits: list[Hit]
    values: dict[str, str]
    detail: str | None = None
    explained: list[str] = field(default_factory=list)

    @property
    def first(self) -> tuple[int, float]:
        """Where it was first said."""
        return min((hit.file, hit.order) for hit in self.hits)


@dataclass(frozen=True, slots=True)
class Resolved:
    """Causes in order, the symptoms that no cause explains, and what shows that the run failed."""

    causes: tuple[Candidate, ...]
    failures: tuple[Hit, ...]


class Facts:
    """The hits of all files, by phrase, with the start-up phases of each process."""

    def __init__(self, book: RuleBook, scanned: Iterable[Scanned]) -> None:
        self.files = list(scanned)
        self.by_phrase: dict[str, list[Hit]] = defaultdict(list)
        for file in self.files:
            for hit in file.hits:
                self.by_phrase[hit.phrase].append(hit)
        for hits in self.by_phrase.values():
            hits.sort(key=lambda h: (h.file, h.order))
        self.book = book
        self._marks = self._phase_marks(book)
        self._mixed = self._of_services()
        self._of_speaker: dict[tuple[int, Speaker], list[tuple[float, str]]] = {}
        self.engine = self._engine()

    def hits(self, names: tuple[str, ...]) -> list[Hit]:
        """All hits of phrases or groups."""
        return [hit for phrase in self.book.phrases(names) for hit in self.by_phrase.get(phrase, ())]

    def ready_after(self, hit: Hit) -> bool:
        """Whether the server became ready after a line."""
        return any(order >= hit.order and phase == "ready" for order, phase in self._phases_for(hit))

    def _engine(self) -> dict[str, str]:
        """The engine that wrote most of the log, where it shows."""
        counts = {
            name.removeprefix("engine-"): len(self.hits((f"@{name}",)))
            for name in self.book.groups
            if name.startswith("engine-")
        }
        best = max(counts, key=lambda name: counts[name], default="")
        return {"engine": best} if counts.get(best) else {}

    def phase(self, hit: Hit) -> str | None:
        """The phase in which a line was written: that of the last mark before it."""
        return next((phase for order, phase in reversed(self._phases_for(hit)) if order <= hit.order), None)

    def _phases_for(self, hit: Hit) -> list[tuple[float, str]]:
        """The phases that its process went through: what the same service said, less what sibling workers did."""
        key = hit.file, hit.speaker
        if key not in self._of_speaker:
            marks = self._marks.get(hit.file, ())
            self._of_speaker[key] = [(order, phase) for order, phase, said in marks if self._concerns(said, hit)]
        return self._of_speaker[key]

    def _concerns(self, said: Speaker, hit: Hit) -> bool:
        """Whether what one process says can tell of another's line in the same file."""
        apart = hit.file in self._mixed and said.service != hit.speaker.service
        return not apart and not said.is_sibling(hit.speaker)

    def close(self, names: tuple[str, ...], hit: Hit, within: int) -> list[Hit]:
        """What was said near a line, by its own process or by one that is no sibling of it."""
        return [
            h
            for h in self.hits(names)
            if h.file == hit.file and abs(h.line - hit.line) <= within and self._concerns(h.speaker, hit)
        ]

    def _phase_marks(self, book: RuleBook) -> dict[int, list[tuple[float, str, Speaker]]]:
        marks: dict[int, list[tuple[float, str, Speaker]]] = defaultdict(list)
        for mark in book.phases:
            for phrase in book.phrases(mark.says):
                for hit in self.by_phrase.get(phrase, ()):
                    marks[hit.file].append((hit.order, mark.phase, hit.speaker))
        for found in marks.values():
            found.sort(key=lambda mark: mark[:2])
        return marks

    def _of_services(self) -> frozenset[int]:
        """The files in which almost every line names its service."""
        return frozenset(
            index
            for index, file in enumerate(self.files)
            if file.hits and sum(bool(h.speaker.service) for h in file.hits) >= MIXED * len(file.hits)
        )


def resolve(book: RuleBook, scanned: Iterable[Scanned], machine: MachineReport | None = None) -> Resolved:
    """Weigh everything that was found, with the state of the machine where it is known."""
    facts = Facts(book, scanned)
    failures = [
        hit
        for symptom in book.symptoms
        if symptom.failure
        for hit in facts.hits(symptom.says)
        if hit.level == "loud" or symptom.any_level
    ]
    # What breaks while a server is being stopped is no reason for anything.
    failures = [hit for hit in failures if facts.phase(hit) != "shutdown"]
    found = [c for rule in book.rules if (c := _match(rule, facts, failing=bool(failures)))]
    if machine is not None:
        for candidate in found:
            candidate.confidence = _with_machine(candidate, machine)
    causes = _explain_away([candidate for candidate in found if candidate.confidence >= ABSTAIN_BELOW])
    for symptom in book.symptoms:
        if causes and facts.hits(symptom.says):
            causes[0].explained.append(symptom.text)
    failures.sort(key=lambda h: (h.file, h.order))
    return Resolved(tuple(causes), tuple(failures))


def _with_machine(candidate: Candidate, machine: MachineReport) -> float:
    """A little surer when the machine shows the same, clearly less sure when it shows the opposite."""
    tags = frozenset(candidate.rule.machine)
    if tags & machine.signals:
        return min(0.99, candidate.confidence + CONFIRMED)
    if tags and tags <= machine.cleared:
        return candidate.confidence - CONTRADICTED
    return candidate.confidence


def _match(rule: Rule, facts: Facts, *, failing: bool) -> Candidate | None:
    best: Candidate | None = None
    for anchor in rule.anchors:
        found = _anchored(rule, anchor, facts, failing=failing)
        if found is None:
            continue
        if best is None:
            best = found
        elif found.confidence > best.confidence:
            found.hits += best.hits
            found.values = best.values | found.values
            best = found
        else:
            best.hits += found.hits
            best.values = found.values | best.values
    return best


def _anchored(rule: Rule, anchor: Anchor, facts: Facts, *, failing: bool) -> Candidate | None:
    """The anchor's lines, the surest first, with what stands near them in support."""
    weighed = [
        (anchor.confidence * _weight(anchor, hit, facts, failing=failing), hit)
        for hit in facts.hits(anchor.says)
        if _fits(rule, anchor, hit, facts, failing=failing)
    ]
    weighed = [(weight, hit) for weight, hit in weighed if weight >= ABSTAIN_BELOW]
    if not weighed:
        return None
    weighed.sort(key=lambda pair: (-pair[0], pair[1].file, pair[1].order))
    hits = [hit for _, hit in weighed]
    close = {id(h): h for hit in hits for h in facts.close(anchor.near, hit, anchor.within)}
    near = sorted(close.values(), key=lambda h: (h.file, h.order))
    support = near[:1] + facts.hits(anchor.needs)[:2]
    values = facts.engine | _values([*hits, *near])
    return Candidate(rule, weighed[0][0], hits + support, values, anchor.detail)


def _weight(anchor: Anchor, hit: Hit, facts: Facts, *, failing: bool) -> float:
    """How much a line counts, by the level it was logged at: a healthy server warns of much that never happens."""
    if anchor.any_level or hit.level == "loud":
        return 1.0
    file = facts.files[hit.file]
    if file.lines < SHORT and facts.phase(hit) not in ("ready", "serving"):
        return 0.75 if hit.level == "warning" else 0.42
    return 0.55 if failing and hit.level == "warning" else 0.0


def _values(hits: list[Hit]) -> dict[str, str]:
    values: dict[str, str] = {}
    for hit in hits:
        for name, value in hit.values.items():
            values.setdefault(name, value)
    return values


def _fits(rule: Rule, anchor: Anchor, hit: Hit, facts: Facts, *, failing: bool) -> bool:
    """Whether all that the anchor asks of the rest of the log holds for this line."""
    if (rule.start_only or anchor.silent_end) and facts.ready_after(hit):
        return False
    if anchor.phases and facts.phase(hit) not in anchor.phases:
        return False
    if any(not facts.hits((need,)) for need in anchor.needs) or (anchor.forbids and facts.hits(anchor.forbids)):
        return False
    if anchor.near and not facts.close(anchor.near, hit, anchor.within):
        return False
    if facts.close(anchor.not_near, hit, anchor.within):
        return False
    return not anchor.silent_end or (not failing and _ends_with(hit, facts.files[hit.file], anchor.within))


def _ends_with(hit: Hit, file: Scanned, lines: int) -> bool:
    """Whether the log says nothing, or next to nothing, after a line."""
    if file.newest_first:
        return hit.line <= lines
    return bool(file.tail) and hit.line >= file.tail[-lines:][0][0]


def _explain_away(found: list[Candidate]) -> list[Candidate]:
    """Drop what a surer or equally sure cause explains; order the rest by confidence, then by who spoke first."""
    present: Mapping[str, Candidate] = {c.rule.cause: c for c in found}
    gone: set[str] = set()
    for candidate in sorted(found, key=lambda c: -c.confidence):
        if candidate.rule.cause in gone:
            continue
        weak = () if candidate.rule.last_resort else (c.rule.cause for c in found if c.rule.last_resort)
        for other in (*candidate.rule.explains, *weak):
            if other in present and other not in gone and other != candidate.rule.cause:
                gone.add(other)
                candidate.explained.append(present[other].rule.title)
    kept = [c for c in found if c.rule.cause not in gone]
    return sorted(kept, key=lambda c: (-c.confidence, c.rule.severity != "fatal", c.first))
