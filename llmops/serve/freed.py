"""Before an engine is started again: the memory of the one before it must be free."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Final

from llmops.hardware import Host, detect
from llmops.planning.types import ModelPlan
from llmops.progress import Progress

LIMIT_S: Final = 60.0
POLL_S: Final = 1.0


def wait_until_freed(
    plan: ModelPlan, progress: Progress, *, look: Callable[[], Host] = detect, limit_s: float = LIMIT_S
) -> bool:
    """Wait until the plan's GPUs have free what it takes of them; the driver may need seconds after a crash.

    Args:
        plan: Of the start to come. On the CPU nothing is waited for.
        progress: Told what is waited for.
        look: Gives the machine as it is now.
        limit_s: Then the start is tried anyway, and its plan says what lacks.

    Returns:
        Whether all of it is free.
    """
    if not plan.gpus:
        return True
    deadline = time.monotonic() + limit_s
    while True:
        gpus = [gpu for gpu in look().gpus if gpu.index in plan.gpus]
        held = [gpu for gpu in gpus if gpu.free_gib < (plan.gpu_memory_utilization or 0.0) * gpu.total_gib]
        if not held or time.monotonic() >= deadline:
            return not held
        progress.phase(f"waiting for memory on GPU {', '.join(str(gpu.index) for gpu in held)}")
        time.sleep(POLL_S)
