"""The ways in: diagnose files, text, or the log of one child process."""

from __future__ import annotations

import io
import re
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Final

from llmops.diagnosis import source
from llmops.diagnosis.fixes import fixes_for
from llmops.diagnosis.machine.state import MachineReport
from llmops.diagnosis.noise import level, prefix_length
from llmops.diagnosis.report import Cause, Diagnosis, Evidence
from llmops.diagnosis.resolve import MOST_EVIDENCE, Candidate, Resolved, resolve
from llmops.diagnosis.rules import RuleBook, rule_book
from llmops.diagnosis.scan import Hit, Scanned, scan
from llmops.errors import LlmopsError
from llmops.progress import Progress, Silent

_EXCEPTION: Final = re.compile(r"[\w.]{1,120}(?:Error|Exception|Interrupt|Exit|Failure|Timeout)\b")


def diagnose_files(
    paths: Sequence[Path], progress: Progress | None = None, machine: MachineReport | None = None
) -> Diagnosis:
    """Read logs of one run and say why it failed. ``-`` is standard input.

    ``machine`` is the state of the machine it ran on: it makes causes likelier or less likely, and never invents one.

    Raises:
        UsageError: A file cannot be read.
    """
    progress = progress or Silent()
    book = rule_book()
    scanned = []
    for number, path in enumerate(paths):
        progress.phase(f"reading {'standard input' if str(path) == '-' else path}")
        with source.opened(path) as file:
            scanned.append(scan(str(path), number, file, book.vocabulary))
    return diagnosis_of(book, scanned, machine)


def diagnose_text(name: str, text: str) -> Diagnosis:
    """The same for text in memory; ``name`` stands for the file in the evidence."""
    book = rule_book()
    data = text.encode("utf-8", "surrogateescape" if "\udc80" <= max(text, default="") <= "\udcff" else "replace")
    return diagnosis_of(book, [scan(name, 0, io.BytesIO(data), book.vocabulary)])


def explain_log(path: Path) -> Cause | None:
    """Why the process that wrote this log died: the likeliest cause, or None. Never raises, whatever the log holds."""
    try:
        return diagnose_files([path]).top
    except (LlmopsError, OSError):
        return None


def diagnosis_of(book: RuleBook, scanned: Iterable[Scanned], machine: MachineReport | None = None) -> Diagnosis:
    """Rules over what was scanned."""
    files = list(scanned)
    resolved = resolve(book, files, machine)
    names = [file.name for file in files]
    causes = tuple(_cause(candidate, names) for candidate in resolved.causes)
    unexplained = () if causes else _telling(resolved, files)
    return Diagnosis(
        status="failed" if causes else "unknown" if unexplained else "healthy",
        causes=causes,
        unexplained=unexplained,
        sources=tuple(names),
        lines=sum(file.lines for file in files),
    )


def _telling(resolved: Resolved, files: list[Scanned]) -> tuple[Evidence, ...]:
    """The last lines that show the failure, and the exception with which a log ends, of whatever class."""
    seen: dict[tuple[int, int], str] = {}
    for hit in resolved.failures:
        seen.setdefault((hit.file, hit.line), hit.text)
    for number, file in enumerate(files):
        last = [(line, text) for line, text in file.tail if _ends_in_exception(text)]
        for line, text in last[-1:]:
            seen.setdefault((number, line), text)
    return tuple(Evidence(files[n].name, line, text) for (n, line), text in sorted(seen.items())[-MOST_EVIDENCE:])


def _ends_in_exception(text: str) -> bool:
    return level(text) == "loud" and _EXCEPTION.match(text[prefix_length(text) :]) is not None


def _evidence(hit: Hit, names: list[str]) -> Evidence:
    return Evidence(names[hit.file], hit.line, hit.text)


def _cause(candidate: Candidate, names: list[str]) -> Cause:
    rule = candidate.rule
    places: dict[tuple[int, int], Evidence] = {}
    for hit in candidate.hits:
        if hit.text:
            places.setdefault((hit.file, hit.line), _evidence(hit, names))
    return Cause(
        cause=rule.cause,
        family=rule.family,
        confidence=round(candidate.confidence, 2),
        title=rule.title,
        explanation=" ".join((candidate.detail or rule.explanation).split()),
        evidence=tuple(places.values())[:MOST_EVIDENCE],
        fixes=fixes_for(rule, candidate.values),
        explains=tuple(candidate.explained),
        severity=rule.severity,
    )
