"""What an engine's own start-up log says of its memory, and how that compares with the plan. Pure text in, values out."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass, fields
from typing import Final

from llmops.findings import Finding
from llmops.planning.types import ModelPlan

_NUMBER = r"(-?[\d.,]*\d)"
# Field -> what vLLM 0.6 to 0.32 prints, newest wording first. The first occurrence counts: of several workers rank 0's.
_PATTERNS: Final[dict[str, tuple[str, ...]]] = {
    "version": (r"LLM engine \(v(\d+\.\d+\.\d+)", r"API server version (\d+\.\d+\.\d+)"),
    "total_gib": (r"Free memory on device(?: \S+)? \([\d.]+/(?P<v>[\d.]+) GiB\) on startup",
                  r"total_gpu_memory \((?P<v>[\d.]+)GiB\)"),
    "free_gib": (r"Free memory on device(?: \S+)? \((?P<v>[\d.]+)/[\d.]+ GiB\) on startup",),
    "weights_gib": (rf"[Mm]odel loading took {_NUMBER} Gi?B", rf"Loading model weights took {_NUMBER} Gi?B",
                    rf"usage is {_NUMBER} GiB for weight", rf"model weights take {_NUMBER}\s*GiB"),
    "activation_gib": (rf"{_NUMBER} GiB for peak activation", rf"activation peak memory takes {_NUMBER}\s*GiB",
                       rf"torch peak memory increase\D*{_NUMBER}"),
    "non_torch_gib": (rf"{_NUMBER} GiB for non-torch memory", rf"non_torch_memory takes {_NUMBER}\s*GiB",
                      rf"non-torch forward increase memory\D*{_NUMBER}"),
    "cudagraph_gib": (rf"CUDA graph pool memory: {_NUMBER} GiB", rf"Graph capturing finished in \d+ secs?, took {_NUMBER} GiB"),
    "kv_cache_gib": (rf"Available KV cache memory: {_NUMBER} GiB", rf"reserved for KV Cache is {_NUMBER}\s*GiB"),
    "kv_tokens": (rf"KV cache size: {_NUMBER} tokens", rf"KV cache holds {_NUMBER} tokens"),
    "max_concurrency": (rf"Maximum concurrency for [\d,]+ tokens per request: {_NUMBER}x",),
}  # fmt: skip


@dataclass(frozen=True, slots=True)
class BootMemory:
    """What one start logged; None where the log does not say. GiB are those of one device."""

    version: str | None = None
    total_gib: float | None = None
    free_gib: float | None = None
    weights_gib: float | None = None
    activation_gib: float | None = None
    non_torch_gib: float | None = None
    cudagraph_gib: float | None = None
    kv_cache_gib: float | None = None
    kv_tokens: int | None = None
    max_concurrency: float | None = None

    @property
    def complete(self) -> bool:
        """Whether it has every term of the account, as debug logs have."""
        return None not in (self.weights_gib, self.activation_gib, self.non_torch_gib, self.kv_cache_gib)


def read_boot(lines: Iterable[str]) -> BootMemory:
    """Collect what a log of vLLM says of memory; lines of other kinds are passed over."""
    found: dict[str, str] = {}
    waiting = {name: [re.compile(p) for p in patterns] for name, patterns in _PATTERNS.items()}
    for line in lines:
        if not waiting:
            break
        for name in list(waiting):
            match = next((m for pattern in waiting[name] if (m := pattern.search(line))), None)
            if match:
                found[name] = match.groupdict().get("v") or match[1]
                del waiting[name]
    values: dict[str, str | float | int] = {}
    for name, text in found.items():
        values[name] = text if name == "version" else _number(text, whole=name == "kv_tokens")
    return BootMemory(**values)  # type: ignore[arg-type]  # each value has its field's type by construction


@dataclass(frozen=True, slots=True)
class Difference:
    """One term, as planned and as logged."""

    term: str
    planned: float
    logged: float

    @property
    def percent(self) -> float:
        """How far the plan was off, in percent of what was logged."""
        return 100 * (self.planned - self.logged) / self.logged if self.logged else 0.0


def compare(plan: ModelPlan, boot: BootMemory) -> tuple[Difference, ...]:
    """Every term that both state."""
    pairs = [(field.name, getattr(plan.memory, field.name, None), getattr(boot, field.name)) for field in fields(boot)]
    pairs += [
        ("kv_tokens", plan.kv_tokens, boot.kv_tokens),
        ("max_concurrency", plan.max_concurrency, boot.max_concurrency),
    ]
    return tuple(
        Difference(name, float(planned), float(logged))
        for name, planned, logged in pairs
        if name not in ("version", "free_gib") and planned is not None and logged is not None
    )


def findings_of(differences: Iterable[Difference], *, limit_gib: float = 1.0) -> tuple[Finding, ...]:
    """A note for each term in GiB that was planned wrongly by more than ``limit_gib``."""
    return tuple(
        Finding(
            "plan-differs",
            "note",
            f"{d.term.removesuffix('_gib')}: {d.logged:.2f} GiB, planned {d.planned:.2f}",
            "the next plan of this model here uses what was measured",
        )
        for d in differences
        if d.term.endswith("_gib") and abs(d.planned - d.logged) > limit_gib
    )


def _number(text: str, *, whole: bool) -> float | int:
    plain = text.replace(",", "")
    return int(float(plain)) if whole else float(plain)
