"""What stands in a log and is no event: option dumps, tables of settings, conditions that are false, good requests."""

from __future__ import annotations

import re
from functools import lru_cache
from typing import Final

# The start of a message after everything that a logger, a pod, a journal or a worker puts before it.
_PREFIX: Final = re.compile(
    r"""
      \s+
    | [│|┃║>╭╰╮╯─━]+(?=\s|$)
    | \d+\s*[|│]\s                                            # docker compose, numbered output
    | [\w.-]{1,60}\s{1,12}[|│]\s                              # compose service
    | \[?\d{4}[-/]\d\d[-/]\d\d[T\s_]\d\d:\d\d:\d\d[\d.,:]*(?:Z|\s?[+-]\d\d:?\d\d)?(?:\s?UTC)?\]?[:,]?
    | \[?(?:Mon|Tue|Wed|Thu|Fri|Sat|Sun)\s\w{3}\s{1,2}\d{1,2}\s[\d:]{8}\s\d{4}\]?
    | (?:Jan|Feb|Mar|Apr|May|Jun|Jul|Aug|Sep|Oct|Nov|Dec)\s{1,2}\d{1,2}\s[\d:]{8}(?:\s[\w.-]{1,80})?(?:\s[\w./-]{1,40}(?:\[\d+\])?:)?
    | \[?\d\d[-/]\d\d[\sT]\d\d:\d\d:\d\d[\d.,]*\]?
    | \[?\d\d/\d\d/\d{4}-\d\d:\d\d:\d\d\]?
    | \[?\d\d:\d\d:\d\d[\d.,]*\]?
    | \[\s{0,8}\d{1,9}\.\d{3,9}\]                             # kernel
    | \d{10,13}(?:\.\d+)?(?=\s)
    | [EWIF]\d{4}\s[\d:.]{8,15}\s{1,6}\d+\s[\w.-]+:\d+\]      # glog
    | \d+\.\d\d\.\d{3}\.\d{3}\s[EWID]\s                        # llama.cpp
    | \[\d{4}-\d\d-\d\d\s[\d:,]{8,12}\s[EWIDFC](?:\s\d+){2}\]  # Ray's C++ parts
    | \[(?:TensorRT-LLM|TRT-LLM|TRT)\]\s?
    | \[[EWIVF]\](?=\s)                                        # TensorRT
    | \[?(?:DEBUG|INFO|WARN(?:ING)?|ERROR|FATAL|CRITICAL|TRACE|NOTICE)\]?(?:\s*[:|-]|\b)
    | \((?:\w{1,40}\s)?(?:[\w.:-]{1,40}\s)?(?:pid|ip)=[^)]{1,80}\)
    | \([A-Z]\w{2,40}_[\w=]{1,40}(?:\s\w+=\d+)?\)
    | \[(?:rank|Rank|RANK)\s?\d+\]:?
    | \[\w{1,40}(?:[\s.:=-]\w{1,40}){0,4}(?:\.py)?:\d+\]
    | \[[\w/.-]{1,80}\.py:\d+\]
    | [\w/.-]{1,60}\.(?:py|cc|cpp|go):\d+\]
    | (?:stderr|stdout)\s[FP](?=\s)
    """,
    re.VERBOSE,
)
_NAMESPACE: Final = re.compile(
    r"Namespace\(|non-default args|server_args=|ServerArgs\(|engine (?:v\d )?with config|with config:|EngineArgs\("
    r"|LlmArgs|VllmConfig\(|ModelConfig\(|launch_server.*--help|^\s*(?:export )?(?:TRITONSERVER|NVIDIA|NCCL|VLLM)_\w+=",
    re.IGNORECASE,
)
_TABLE_ROW: Final = re.compile(r"^\s*\|\s*[\w.-]+\s*\|\s*[^|]{0,200}\s*\|\s*$")
_ERROR_WORD: Final = re.compile(r"error|fail|invalid|unavailable|exception|unable|no such", re.IGNORECASE)
_LEVEL: Final = re.compile(r".*?\b(?P<level>DEBUG|INFO|WARNING|WARN|ERROR|FATAL|CRITICAL|TRACE|NOTICE)\b", re.DOTALL)
_LETTER: Final = re.compile(
    r"(?:\[?(?P<glog>[IWEF])\d{4} |\d+\.\d\d\.\d{3}\.\d{3} (?P<llama>[EWID]) "
    r"|\[\d{4}-\d\d-\d\d [\d:,]{8,12} (?P<ray>[EWIDFC])(?: \d+){2}\]|(?:\[[\d/:,. -]{8,30}\] ?)?(?:\[TRT\] ?)?\[(?P<trt>[EWIVF])\] )"
)
_CONDITION: Final = re.compile(
    r"\b(?:Memory|Disk|PID)Pressure\b|\bNetworkUnavailable\b|^\s*(?:Initialized|Ready|ContainersReady|PodScheduled)\s+True"
)
_PIP_ROW: Final = re.compile(
    r"^\s*(?:\[pip3?\]\s*|\[conda\]\s*)?[A-Za-z0-9][\w.-]{0,60}(?:\s{2,40}|==)\d[\w.+!-]{0,40}(?:\s+[\w/-]+){0,3}\s*$"
)
_GOOD_REQUEST: Final = re.compile(r'"\s(?:2\d\d|304)\b|HTTP/\d(?:\.\d)?"?\s2\d\d\b')
_USAGE: Final = re.compile(r"^\s*(?:usage:\s|\[-{1,2}[a-z])")
_SOURCE: Final = re.compile(
    r"^\s*#(?!\s*(?:error|\w+ exited))|^\s*(?:raise|except|def|class|if|elif|assert|return|import|from|logger\.\w+\()\b"
)


@lru_cache(maxsize=256)
def prefix_length(line: str) -> int:
    """How many leading characters are a logger's, not the message's."""
    position = 0
    for _ in range(12):
        found = _PREFIX.match(line, position)
        if found is None or found.end() == position:
            break
        position = found.end()
    return position


@lru_cache(maxsize=256)
def is_no_event(line: str) -> bool:
    """Whether a line only lists settings, versions or conditions that hold no failure."""
    head = line[:4000]
    if _NAMESPACE.search(head[:600]):
        return not re.search(r"[Ee]rror[:,] |Traceback", head)
    if _CONDITION.search(head[:200]):
        # "DiskPressure  True" and evictions for it are events.
        return not re.search(r"Pressure\s+True|[Ee]vict", head)
    if _TABLE_ROW.match(head) and not _ERROR_WORD.search(head.split("|")[2] if head.count("|") > 2 else head):
        return True
    return bool(_PIP_ROW.match(head) or _GOOD_REQUEST.search(head) or _USAGE.match(head))


@lru_cache(maxsize=256)
def level(line: str) -> str:
    """``quiet`` for a line that its logger wrote at INFO or DEBUG, ``warning`` at WARNING, else ``loud``."""
    found = _LEVEL.match(line[: prefix_length(line)] + " ")
    letter = None if found else _LETTER.match(line)
    word = found["level"] if found else next(filter(None, letter.groups()), "") if letter else ""
    if word in ("INFO", "DEBUG", "TRACE", "NOTICE", "I", "D", "V"):
        return "warning" if _ERROR_WORD.search(line[:2000]) else "quiet"
    return "warning" if word in ("WARNING", "WARN", "W") else "loud"


def is_source(message: str) -> bool:
    """Whether a message is a line of program text that a traceback quotes, or a comment."""
    return bool(_SOURCE.match(message))
