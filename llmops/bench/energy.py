"""Energy of the local GPUs by NVML's total-energy counter, less what they use when idle."""

from __future__ import annotations

import time
from dataclasses import dataclass
from types import ModuleType
from typing import Any, Final

from llmops.http1 import Origin

_LOCAL: Final = ("127.0.0.1", "localhost", "::1")
_IDLE_S: Final = 2.0
_MIN_WINDOW_S: Final = 2.0


@dataclass(slots=True)
class Meter:
    """Reads the counters; ``idle_w`` is measured before the load."""

    nvml: ModuleType
    handles: list[Any]
    idle_w: float = 0.0
    began_mj: int = 0
    began_s: float = 0.0

    def total_mj(self) -> int:
        """Millijoules since the driver was loaded, all GPUs together."""
        return sum(self.nvml.nvmlDeviceGetTotalEnergyConsumption(handle) for handle in self.handles)

    def measure_idle(self, seconds: float = _IDLE_S) -> None:
        """Watch the counters for a while without load."""
        start, at = self.total_mj(), time.monotonic()
        time.sleep(seconds)
        self.idle_w = max(0, self.total_mj() - start) / 1000 / (time.monotonic() - at)

    def begin(self) -> None:
        """The load begins."""
        self.began_mj, self.began_s = self.total_mj(), time.monotonic()

    def end(self, output_tokens: int) -> dict[str, Any] | None:
        """What the load used; None where the window is too short for the counter to move."""
        seconds = time.monotonic() - self.began_s
        joules = max(0, self.total_mj() - self.began_mj) / 1000
        if seconds < _MIN_WINDOW_S or joules <= 0:
            return {"joules": None, "words": f"n/a (a window of {seconds:.1f} s is too short for the counter)"}
        above = max(0.0, joules - self.idle_w * seconds)
        each = above / output_tokens if output_tokens else None
        return {
            "joules": round(joules, 3),
            "idle_w": round(self.idle_w, 2),
            "joules_above_idle": round(above, 3),
            "joules_per_output_token": round(each, 6) if each is not None else None,
            "gpus": len(self.handles),
            "words": f"{joules:.0f} J, {above:.0f} J above idle ({self.idle_w:.0f} W)"
            + (f", {each:.3g} J an output token" if each is not None else ""),
        }


def is_local(url: str) -> bool:
    """Whether the URL names this machine."""
    try:
        return Origin.of(url)[0].host in _LOCAL
    except ValueError:
        return False


def meter(url: str) -> Meter | None:
    """A meter when the server is on this machine and its GPUs have the counter; else None."""
    if not is_local(url):
        return None
    try:
        import pynvml

        pynvml.nvmlInit()
        handles = [pynvml.nvmlDeviceGetHandleByIndex(i) for i in range(pynvml.nvmlDeviceGetCount())]
        found = Meter(pynvml, handles)
        found.total_mj()
    except (ImportError, OSError):
        return None
    except pynvml.NVMLError:  # no driver, or a GPU older than Volta
        return None
    return found if handles else None
