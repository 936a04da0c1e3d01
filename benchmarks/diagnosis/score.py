"""Score the rules on labelled logs: ``python benchmarks/diagnosis/score.py CASES.jsonl [--misses] [--half even|odd]``.

Each line of the file is an object with ``log``, ``cause`` and, where known, ``id`` and ``tricky``. Prints how often the
first finding is the labelled cause (exact), or one of its family; the mean over causes (macro); findings on logs
without a failure (false alarms); whether each line of evidence exists in its log; and the table by cause.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import time
from collections import defaultdict
from pathlib import Path

from llmops.diagnosis import Diagnosis, diagnose_text
from llmops.diagnosis.rules import rule_book


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("file", type=Path)
    parser.add_argument("--misses", action="store_true", help="show each wrong answer with the end of its log")
    parser.add_argument("--half", choices=("even", "odd"), help="only every second case, to keep the other half unseen")
    options = parser.parse_args()
    cases = [json.loads(line) for line in options.file.read_text("utf-8").splitlines() if line.strip()]
    if options.half:
        cases = cases[options.half == "odd" :: 2]
    family = {rule.cause: rule.family for rule in rule_book().rules} | {"none": "healthy"}
    exact: dict[str, list[bool]] = defaultdict(list)
    near, tricky, alarms, healthy, lost = 0, [], 0, 0, 0
    began = time.perf_counter()
    for case in cases:
        diagnosis = diagnose_text(case.get("id", "log"), case["log"])
        said = diagnosis.top.cause if diagnosis.top else "none"
        wanted = case["cause"]
        exact[wanted].append(said == wanted)
        near += family.get(said) == family.get(wanted, "?")
        if case.get("tricky"):
            tricky.append(said == wanted)
        if wanted == "none":
            healthy += 1
            alarms += said != "none"
        lost += not _evidence_exists(diagnosis, case["log"])
        if options.misses and said != wanted:
            others = ", ".join(f"{c.cause} {c.confidence}" for c in diagnosis.causes[:4])
            print(f"--- {case.get('id')} wanted {wanted}, said {said} ({others})\n{case['log'][-1200:]}\n")
    total = sum(map(len, exact.values()))
    right = sum(map(sum, exact.values()))
    macro = sum(sum(v) / len(v) for v in exact.values()) / max(1, len(exact))
    print(f"cases {total}  exact {right} ({right / total:.1%})  family {near / total:.1%}  macro {macro:.1%}")
    print(f"tricky {sum(tricky)}/{len(tricky)}  false alarms {alarms}/{healthy}  evidence not in the log {lost}")
    print(f"{(time.perf_counter() - began) / total * 1000:.1f} ms a case\n\n{'cause':32} right of")
    for cause, results in sorted(exact.items(), key=lambda kv: (sum(kv[1]) / len(kv[1]), kv[0])):
        print(f"{cause:32} {sum(results):5} {len(results):2}")
    return 0 if right == total else 1


def _evidence_exists(diagnosis: Diagnosis, log: str) -> bool:
    lines = log.split("\n")
    return all(
        e.text and e.line <= len(lines) and e.text in lines[e.line - 1] for c in diagnosis.causes for e in c.evidence
    ) and all(c.evidence for c in diagnosis.causes)


if __name__ == "__main__":
    try:
        sys.exit(main())
    except BrokenPipeError:
        # The reader (head, less) has seen enough. Python would fail once more when it closes the stream at the exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(141)
