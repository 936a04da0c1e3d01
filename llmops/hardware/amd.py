"""AMD GPUs from the kernel's files alone; no ROCm library is needed."""

from __future__ import annotations

import re
from pathlib import Path

from llmops.hardware.host import Gpu

_AMD = "0x1002"


def probe(root: Path = Path("/"), *, first_index: int = 0) -> tuple[Gpu, ...]:
    """Cards that the amdgpu driver runs for computing (they need /dev/kfd); never raises."""
    if not (root / "dev/kfd").exists():
        return ()
    gpus: list[Gpu] = []
    cards = sorted((root / "sys/class/drm").glob("card[0-9]*"), key=lambda path: _digits(path.name))
    for card in cards:
        device = card / "device"
        if "-" in card.name or _text(device / "vendor") != _AMD:
            continue
        total = _number(device / "mem_info_vram_total")
        if not total:
            continue
        name = _text(device / "product_name") or f"AMD GPU {_text(device / 'device')}"
        uuid = _text(device / "unique_id") or card.name
        used = _number(device / "mem_info_vram_used") or 0
        gpus.append(Gpu(first_index + len(gpus), name, uuid, total, total - used, None, vendor="amd"))
    return tuple(gpus)


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8", errors="replace").strip()
    except OSError:
        return ""


def _number(path: Path) -> int | None:
    text = _text(path)
    return int(text) if text.isdigit() else None


def _digits(name: str) -> int:
    found = re.search(r"\d+", name)
    return int(found[0]) if found else 0
