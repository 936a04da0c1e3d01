"""What a run ran on: enough to read its figures by, nothing that names the machine or its user."""

from __future__ import annotations

import os
import platform
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from llmops import __version__
from llmops.units import format_size

_PACKAGES = ("torch", "transformers", "gptqmodel", "bitsandbytes", "xllamacpp")


def describe_machine() -> tuple[tuple[str, str], ...]:
    """Label and value pairs."""
    import psutil

    cores = len(os.sched_getaffinity(0))
    rows = [
        ("processor", f"{_processor()}, {cores} core{'s' if cores != 1 else ''} usable"),
        ("memory", format_size(psutil.virtual_memory().total)),
        ("system", f"{platform.system()} {platform.release()}, Python {platform.python_version()}"),
        ("llmops", __version__),
    ]
    for package in _PACKAGES:
        try:
            rows.append((package, version(package)))
        except PackageNotFoundError:
            continue
    return tuple(rows)


def _processor() -> str:
    try:
        for line in Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    except OSError:
        pass
    return platform.machine()
