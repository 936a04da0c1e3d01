"""Processors and memory that this process may really use: affinity, cgroup quota and limit, load."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from llmops.hardware.host import Cpu, Memory

# Flags of /proc/cpuinfo that decide which kernels an engine can use.
_FEATURES: Final = {
    "avx2": "avx2", "avx512f": "avx512", "avx512_bf16": "avx512_bf16", "avx512_vnni": "avx512_vnni",
    "amx_tile": "amx", "amx_bf16": "amx_bf16", "asimd": "neon", "sve": "sve", "i8mm": "i8mm",
}  # fmt: skip
_UNLIMITED: Final = 2**60  # cgroup v1 states "no limit" as a number near 2**63


def free_cores(allowed: int, quota: float | None, load: float, busy: float) -> int:
    """Whole cores to start threads on: those allowed, less what others keep busy; at least 1.

    The load average lags and a short sample misses pauses, so only what both show counts as busy.
    """
    granted = min(float(allowed), quota) if quota else float(allowed)
    return max(1, round(granted - min(load, busy, granted)))


def read_cpu(root: Path = Path("/"), *, sample_s: float = 0.2) -> Cpu:
    """Describe the processors; samples their use for ``sample_s`` seconds."""
    import psutil

    info = _text(root / "proc/cpuinfo")
    logical = os.cpu_count() or 1
    allowed = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else logical
    load = os.getloadavg()[0]
    quota = cpu_quota(root)
    busy = load
    # A quiet machine needs no look: what the load average does not show does not count.
    if sample_s and free_cores(allowed, quota, load, busy) < free_cores(allowed, quota, 0.0, 0.0):
        busy = psutil.cpu_percent(interval=sample_s) / 100 * logical
    model = re.search(r"^(?:model name|Model|CPU part)\s*:\s*(.+)$", info, re.MULTILINE)
    flags = re.search(r"^(?:flags|Features)\s*:\s*(.+)$", info, re.MULTILINE)
    present = set(flags[1].split()) if flags else set()
    return Cpu(
        model=model[1].strip() if model else "unknown",
        logical=logical,
        physical=psutil.cpu_count(logical=False) or logical,
        allowed=allowed,
        quota=quota,
        load_1m=round(load, 2),
        free=free_cores(allowed, quota, load, busy),
        features=tuple(name for flag, name in _FEATURES.items() if flag in present),
    )


def read_memory(root: Path = Path("/")) -> Memory:
    """Describe main memory within the tightest cgroup limit."""
    import psutil

    machine, swap = psutil.virtual_memory(), psutil.swap_memory()
    limit, used = memory_limit(root)
    available = machine.available
    if limit is not None:
        available = min(available, max(0, limit - used))
    return Memory(machine.total, available, limit if limit is not None and limit < machine.total else None, swap.total)


def cpu_quota(root: Path) -> float | None:
    """Cores granted by the tightest cgroup above this process; None without a limit."""
    quotas = []
    for group in _groups(root, "cpu"):
        if match := re.match(r"(\d+)\s+(\d+)", _text(group / "cpu.max")):
            quotas.append(int(match[1]) / max(1, int(match[2])))
        period, share = _number(group / "cpu.cfs_period_us"), _number(group / "cpu.cfs_quota_us")
        if period and share and share > 0:
            quotas.append(share / period)
    return min(quotas, default=None)


def memory_limit(root: Path) -> tuple[int | None, int]:
    """The tightest memory limit in bytes and what is used under it, page cache that can go not counted."""
    tightest: tuple[int | None, int] = (None, 0)
    for group in _groups(root, "memory"):
        limit = _number(group / "memory.max") or _number(group / "memory.limit_in_bytes")
        if not limit or limit >= _UNLIMITED or (tightest[0] is not None and limit >= tightest[0]):
            continue
        used = _number(group / "memory.current") or _number(group / "memory.usage_in_bytes") or 0
        cache = re.search(r"^(?:total_)?inactive_file (\d+)", _text(group / "memory.stat"), re.MULTILINE)
        tightest = (limit, max(0, used - (int(cache[1]) if cache else 0)))
    return tightest


def _groups(root: Path, controller: str) -> Iterator[Path]:
    """The process's cgroup directories for a controller and all above them, v1 and v2."""
    base = root / "sys/fs/cgroup"
    for line in _text(root / "proc/self/cgroup").splitlines():
        _, _, rest = line.partition(":")
        names, _, path = rest.partition(":")
        if controller in names.split(","):
            mount = next((base / name for name in (names, controller) if (base / name).is_dir()), None)
        elif not names:
            mount = base if (base / "cgroup.controllers").exists() else base / "unified"
        else:
            continue
        if mount is None or not mount.is_dir():
            continue
        # In a container the path is the host's and is not mounted here; then the mount itself is our group.
        inner = mount / path.lstrip("/")
        group = inner if inner.is_dir() else mount
        while True:
            yield group
            if group == mount or mount not in group.parents:
                break
            group = group.parent


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8", errors="replace")
    except OSError:
        return ""


def _number(path: Path) -> int | None:
    text = _text(path).strip()
    return int(text) if re.fullmatch(r"-?\d+", text) else None
