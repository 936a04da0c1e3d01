"""What the engine itself says of its memory, beside what was planned; kept as calibration for this machine."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import psutil

from llmops.planning import calibration
from llmops.planning.coefficients import DEFAULT_VERSION
from llmops.planning.readback import BootMemory, compare, read_boot
from llmops.planning.types import ModelPlan
from llmops.units import GIB


@dataclass(frozen=True, slots=True)
class Term:
    """One quantity as planned and as the engine reports it."""

    name: str
    planned: float | None
    reported: float

    @property
    def off_percent(self) -> float | None:
        """By how much the report differs from the plan."""
        return round(100 * (self.reported / self.planned - 1), 1) if self.planned else None


@dataclass(frozen=True, slots=True)
class ReadBack:
    """A start's own figures.

    Attributes:
        taken_gib: Main memory of all its processes when it was ready; None on GPUs, where the log says more.
    """

    boot: BootMemory
    taken_gib: float | None = None

    def terms(self, plan: ModelPlan) -> tuple[Term, ...]:
        """Each quantity that both the plan and the start state."""
        found = [Term(each.term, round(each.planned, 4), each.logged) for each in compare(plan, self.boot)]
        if self.taken_gib is not None:
            planned = round(plan.memory.weights_gib + plan.memory.non_torch_gib, 2)
            found.append(Term("memory_gib", planned, round(self.taken_gib, 2)))
        return tuple(found)


def read_back(lines: Iterable[str], plan: ModelPlan, pid: int | None = None) -> ReadBack:
    """Collect them from the log, and on the CPU from the processes below ``pid``."""
    return ReadBack(read_boot(lines), resident_gib(pid) if pid is not None and not plan.gpus else None)


def resident_gib(pid: int) -> float | None:
    """Main memory of a process and all below it, pages that they share counted once; None when they are gone."""
    total = 0
    try:
        root = psutil.Process(pid)
        for process in (root, *root.children(recursive=True)):
            total += process.memory_full_info().pss
    except psutil.Error:
        return None
    return total / GIB


def keep(found: ReadBack, plan: ModelPlan, *, size_bytes: int, gpu: str | None, file: Path | None = None) -> bool:
    """Store a start for the next plan of the same on this machine; False when it says too little for that.

    Args:
        found: The start's own figures.
        plan: It was started by.
        size_bytes: Of the model's weights.
        gpu: Name of the card; None on the CPU.
        file: Of the measurements; None: this machine's.
    """
    version = calibration.on_cpu(plan.engine, plan.engine_version) if gpu is None else None
    key = calibration.key_of(
        plan,
        size_bytes=size_bytes,
        gpu=gpu or calibration.CPU,
        engine_version=version or plan.engine_version or DEFAULT_VERSION,
    )
    if gpu is not None:
        measured = calibration.measurement(key, found.boot, plan)
    else:
        measured = calibration.cpu_measurement(key, plan, found.taken_gib) if found.taken_gib else None
    if measured is not None:
        calibration.record(file or calibration.default_path(), measured)
    return measured is not None
