"""Checks of GPUs and their driver. Each says plainly when there is no GPU to check."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from types import ModuleType
from typing import Any, Final

from llmops.diagnosis.machine.state import Check
from llmops.hardware import Host
from llmops.units import format_size

_NO_GPU: Final = "there is no NVIDIA GPU on this machine"
# Share of a card that a start with default settings wants free.
_WANTED_SHARE: Final = 0.9
# Findings of hardware detection -> tags of rules.
_TAGS: Final = {
    "nvml-mismatch": ("driver-mismatch",),
    "driver-mismatch": ("driver-mismatch",),
    "gpu-lost": ("xid",),
    "no-driver": ("no-gpu",),
    "driver-not-loaded": ("no-gpu",),
}


def driver(host: Host) -> Check:
    """Driver, NVML and CUDA, and whether they agree."""
    errors = [finding for finding in host.findings if finding.severity in ("error", "warning")]
    about = [f for f in errors if "gpu" in f.rule or "driver" in f.rule or "nvml" in f.rule or "visible" in f.rule]
    if about:
        first = about[0]
        tags = _TAGS.get(first.rule, ())
        if "version" in first.message and "mismatch" in first.rule + first.message:
            tags = ("driver-mismatch",)
        outcome = "error" if first.severity == "error" else "warning"
        return Check("driver", outcome, first.message, first.remedy, causes=tags)  # type: ignore[arg-type]  # the two of Outcome
    if not host.gpus:
        return Check("driver", "skipped", f"{_NO_GPU}; engines run on the CPU", causes=("no-gpu",))
    cuda = f", CUDA up to {host.driver.cuda[0]}.{host.driver.cuda[1]}" if host.driver.cuda else ""
    hidden = [gpu.index for gpu in host.gpus if not gpu.visible]
    if hidden and not host.usable_gpus:
        text = f"CUDA_VISIBLE_DEVICES={host.cuda_visible_devices} hides every GPU"
        return Check("driver", "error", text, "unset CUDA_VISIBLE_DEVICES", causes=("no-gpu",))
    clears = ("no-gpu", "driver-mismatch")
    return Check(
        "driver", "ok", f"driver {host.driver.version or 'unknown'}{cuda}, {len(host.gpus)} GPUs", clears=clears
    )


def memory(host: Host) -> Check:
    """Free memory of each GPU and who holds it."""
    if not host.gpus:
        return Check("gpu-memory", "skipped", _NO_GPU)
    low = [gpu for gpu in host.usable_gpus if gpu.free_bytes < _WANTED_SHARE * gpu.total_bytes]
    if not low:
        return Check("gpu-memory", "ok", "every usable GPU is at least 90 % free", clears=("gpu-occupied",))
    parts = []
    for gpu in low:
        holders = (
            ", ".join(f"{p.name or 'process'} {p.pid}" for p in gpu.processes) or "a process that is not visible here"
        )
        parts.append(
            f"GPU {gpu.index}: {format_size(gpu.free_bytes)} of {format_size(gpu.total_bytes)} free, held by {holders}"
        )
    remedy = "end left-over processes (llmops diagnose --machine --fix ends your own orphans), or choose another GPU"
    return Check("gpu-memory", "warning", "; ".join(parts), remedy, causes=("gpu-occupied",))


def ecc(host: Host) -> Check:
    """Uncorrectable memory errors and failed row remapping."""
    if not host.gpus:
        return Check("gpu-errors", "skipped", _NO_GPU)
    bad = []
    for index, nvml, handle in _handles():
        count = _ask(
            nvml.nvmlDeviceGetTotalEccErrors, handle, nvml.NVML_MEMORY_ERROR_TYPE_UNCORRECTED, nvml.NVML_VOLATILE_ECC
        )
        if count:
            bad.append(f"GPU {index}: {count} uncorrectable memory errors since the driver was loaded")
        rows = _ask(nvml.nvmlDeviceGetRemappedRows, handle)
        if rows and rows[3]:
            bad.append(f"GPU {index}: a row could not be remapped; the card must be replaced")
        elif rows and rows[2]:
            bad.append(f"GPU {index}: a row remapping waits for a reset")
    if bad:
        return Check("gpu-errors", "error", "; ".join(bad), "sudo nvidia-smi --gpu-reset -i INDEX", causes=("ecc",))
    return Check("gpu-errors", "ok", "no uncorrectable memory errors", clears=("ecc",))


def modes(host: Host) -> Check:
    """MIG and persistence mode."""
    if not host.gpus:
        return Check("gpu-modes", "skipped", _NO_GPU)
    slices = [f"{gpu.index} ({gpu.mig_profile})" for gpu in host.gpus if gpu.mig_profile]
    lazy = [str(i) for i, nvml, handle in _handles() if _ask(nvml.nvmlDeviceGetPersistenceMode, handle) == 0]
    text = f"MIG instances: {', '.join(slices)}" if slices else "MIG is off"
    if lazy:
        return Check(
            "gpu-modes", "note", f"{text}; persistence mode is off on GPU {', '.join(lazy)}", "sudo nvidia-smi -pm 1"
        )
    return Check("gpu-modes", "ok", text)


def topology(host: Host) -> Check:
    """How the GPUs reach each other."""
    if len(host.usable_gpus) < 2:
        return Check("topology", "skipped", "fewer than two usable GPUs")
    islands = host.islands()
    if len(islands) == 1:
        return Check("topology", "ok", f"all {len(host.usable_gpus)} GPUs are joined by NVLink")
    groups = " | ".join(",".join(map(str, island)) for island in islands)
    text = f"GPUs reach each other over PCIe between these groups: {groups}"
    return Check("topology", "note", text, "keep tensor parallelism inside a group", causes=("pcie-only",))


def _handles() -> Iterator[tuple[int, ModuleType, Any]]:
    """Each GPU's NVML handle, for as long as the iteration lasts."""
    import pynvml

    try:
        pynvml.nvmlInit()
    except pynvml.NVMLError:
        return
    try:
        for index in range(pynvml.nvmlDeviceGetCount()):
            with contextlib.suppress(pynvml.NVMLError):
                yield index, pynvml, pynvml.nvmlDeviceGetHandleByIndex(index)
    finally:
        with contextlib.suppress(pynvml.NVMLError):
            pynvml.nvmlShutdown()


def _ask(function: Any, *arguments: Any) -> Any:
    """An NVML answer; None where the card or the driver does not support the question."""
    import pynvml

    try:
        return function(*arguments)
    except pynvml.NVMLError:
        return None
