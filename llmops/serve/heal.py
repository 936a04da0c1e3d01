"""From the cause of a failed start to flags that may start. Pure."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

from llmops.serve.spec import ServeSpec

if TYPE_CHECKING:
    from llmops.diagnosis import Diagnosis

MOST_HEALS: Final = 3
# Advice may hold placeholders such as BASE_MODEL; only plain values are tried.
_PLAIN = re.compile(r"[a-z0-9_.]+")
_FIELD_OF: Final[dict[str, tuple[str, Callable[[str], Any]]]] = {
    "--max-model-len": ("max_model_len", int),
    "--max-num-seqs": ("max_num_seqs", int),
    "--gpu-memory-utilization": ("gpu_memory_utilization", float),
    "--tensor-parallel-size": ("tensor_parallel", int),
    "--dtype": ("dtype", str),
    "--kv-cache-dtype": ("kv_cache_dtype", str),
    "--quantization": ("quantization", str),
    "--max-lora-rank": ("max_lora_rank", int),
    "--port": ("port", int),
}
_FIELD_OF_VARIABLE: Final[dict[str, tuple[str, Callable[[str], Any]]]] = {
    "VLLM_CPU_KVCACHE_SPACE": ("kv_cache_gib", float),
}
_EXPORT = re.compile(r"export (\w+)=(\S+)")


@dataclass(frozen=True, slots=True)
class Correction:
    """A spec to try next, and what is different in it, as a person would type it."""

    spec: ServeSpec
    change: str


def correct(
    spec: ServeSpec, diagnosis: Diagnosis, argv: tuple[str, ...], *, gpus: int | None = None
) -> Correction | None:
    """What to try next, or None when no flag can help.

    Args:
        spec: That failed.
        diagnosis: Of the engine's log.
        argv: That was launched.
        gpus: That can be used here; None: not known.
    """
    from llmops.diagnosis import remedies

    flags = flags_of(argv)
    changes = {name: value for name, value in remedies(diagnosis, flags).items() if name.startswith("--")}
    variables = _variables(diagnosis)
    update: dict[str, Any] = {}
    extra = spec.extra
    shown: list[str] = []
    for name, value in changes.items():
        if not _PLAIN.fullmatch(value):
            continue
        extra = without_flag(extra, name)
        was = f" (was {flags[name]})" if flags.get(name) else ""
        if name == "--tensor-parallel-size" and gpus is not None and int(value) > gpus:
            update["tensor_parallel"] = None  # the plan knows what this machine has
            shown.append(f"a split that fits this machine{was}")
            continue
        if name in _FIELD_OF:
            field, kind = _FIELD_OF[name]
            update[field] = kind(value)
        else:
            extra = (*extra, name, value)
        shown.append(f"{name} {value}{was}")
    for name, value in variables.items():
        field, kind = _FIELD_OF_VARIABLE[name]
        update[field] = kind(value)
        shown.append(f"{name}={value}")
    new = spec.model_copy(update={**update, "extra": extra})
    if new == spec or not shown:
        return None
    return Correction(ServeSpec.model_validate(new.model_dump()), ", ".join(shown))


def _variables(diagnosis: Diagnosis) -> Mapping[str, str]:
    cause = diagnosis.top
    found: dict[str, str] = {}
    for fix in cause.fixes if cause else ():
        match = _EXPORT.fullmatch(fix.command or "")
        if match and match[1] in _FIELD_OF_VARIABLE and re.fullmatch(r"\d+(\.\d+)?", match[2]):
            found.setdefault(match[1], match[2])
    return found


def flags_of(argv: tuple[str, ...]) -> dict[str, str]:
    """Long flags with their values; the last of a name counts, as it does for the engines."""
    found: dict[str, str] = {}
    for word, following in zip(argv, (*argv[1:], "--"), strict=False):
        if word.startswith("--"):
            name, equals, value = word.partition("=")
            found[name] = value if equals else ("" if following.startswith("--") else following)
    return found


def without_flag(argv: tuple[str, ...], name: str) -> tuple[str, ...]:
    """``argv`` without a flag and its values."""
    kept: list[str] = []
    dropping = False
    for word in argv:
        if word.startswith("--"):
            dropping = word.partition("=")[0] == name
        if not dropping:
            kept.append(word)
    return tuple(kept)
