"""Which process wrote a line: logs of several services, and of several workers of one service, are often one file."""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import lru_cache
from typing import Final

_SERVICE: Final = re.compile(r"\[?(?P<name>(?:pod/)?[A-Za-z][\w./-]{0,80}?)(?:\s{0,40}[|│]\s|\]\s)")
_WORKER: Final = re.compile(
    r"\((?P<name>[A-Za-z][\w:.#-]{1,60}?)(?:_[A-Z]{2,3}\d+)*\s(?:[\w.:-]{1,40}\s)?pid=\d+[^)]{0,60}\)"
    r"|\[(?P<rank>rank|Rank|RANK)\s?\d+\]"
    r"|\s(?P<parallel>(?:DP|TP|PP|EP|CP)\d+)(?:\s(?:DP|TP|PP|EP|CP)\d+)*\]"
    r"|\[\d+,(?P<mpi>\d+)\]<std(?:err|out)>"
)


@dataclass(frozen=True, slots=True)
class Speaker:
    """The writer of a line.

    Attributes:
        service: Compose service or pod; empty where lines name none.
        kind: What its workers have in common, such as ``Worker``; empty where the line names no process.
        name: This worker's own name, such as ``(Worker_TP1 pid=7)``.
    """

    service: str = ""
    kind: str = ""
    name: str = ""

    def is_sibling(self, other: Speaker) -> bool:
        """Whether two workers do the same side by side, so that the one's progress says nothing of the other's."""
        return bool(self.kind) and self.kind == other.kind and self.name != other.name


NOBODY: Final = Speaker()


@lru_cache(maxsize=256)
def speaker(line: str) -> Speaker:
    """Who wrote ``line``, from what stands before its message."""
    head = line[:240]
    service = _SERVICE.match(head)
    worker = _WORKER.search(head)
    if worker is None:
        return Speaker(service["name"] if service else "")
    kind = worker["name"] or worker["rank"] or ("mpi" if worker["mpi"] else "parallel")
    return Speaker(service["name"] if service else "", kind, worker.group())
