"""NVIDIA GPUs through NVML: whole cards and MIG instances, links, processes, and what is wrong when it fails."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any, Final

from llmops.findings import Finding
from llmops.hardware.host import Driver, Gpu, GpuProcess, Link, LinkKind

# NVML's common-ancestor levels (nvmlGpuTopologyLevel_t) in our words.
_LEVELS: Final[dict[int, LinkKind]] = {
    0: "pcie-switch", 10: "pcie-switch", 20: "pcie-switch", 30: "pcie-host", 40: "numa", 50: "system",
}  # fmt: skip
_MAX_NVLINKS: Final = 18
# Return codes of nvmlInit (nvmlReturn_t) that name a cause.
_DRIVER_NOT_LOADED, _NO_PERMISSION, _LIBRARY_NOT_FOUND, _MISMATCH, _IS_LOST = 9, 4, 12, 18, 15


_NO_DRIVER: Final = Driver()


@dataclass(frozen=True, slots=True)
class Nvidia:
    """What NVML says; no GPUs and a finding when it cannot be asked."""

    gpus: tuple[Gpu, ...] = ()
    links: tuple[Link, ...] = ()
    driver: Driver = _NO_DRIVER
    findings: tuple[Finding, ...] = ()


def probe(root: Path = Path("/")) -> Nvidia:
    """Ask NVML; never raises."""
    try:
        import pynvml
    except ImportError as error:
        message = f"the NVML binding cannot be imported: {error}"
        return Nvidia(
            findings=_only_with_gpu(root, Finding("nvml-binding", "warning", message, "pip install nvidia-ml-py"))
        )
    if not hasattr(pynvml, "nvmlDeviceGetMigDeviceHandleByIndex"):
        message = f"an old pynvml ({getattr(pynvml, '__file__', '')}) hides the NVML binding of nvidia-ml-py"
        remedy = "pip uninstall -y pynvml && pip install --force-reinstall nvidia-ml-py"
        return Nvidia(findings=(Finding("nvml-shadowed", "warning", message, remedy),))
    try:
        pynvml.nvmlInit()
    except pynvml.NVMLError as error:
        return Nvidia(driver=_driver_from_proc(root), findings=_explain_init(int(error.value), root))
    try:
        return _ask(pynvml)
    finally:
        with contextlib.suppress(pynvml.NVMLError):
            pynvml.nvmlShutdown()


def _ask(nvml: ModuleType) -> Nvidia:
    driver = Driver(
        version=_try(nvml, nvml.nvmlSystemGetDriverVersion),
        cuda=_cuda(_try(nvml, nvml.nvmlSystemGetCudaDriverVersion_v2)),
        nvml=_try(nvml, nvml.nvmlSystemGetNVMLVersion),
    )
    findings: list[Finding] = []
    handles: list[Any] = []
    gpus: list[Gpu] = []
    for number in range(_try(nvml, nvml.nvmlDeviceGetCount) or 0):
        try:
            handle = nvml.nvmlDeviceGetHandleByIndex(number)
            found = list(_devices(nvml, handle, len(gpus)))
        except nvml.NVMLError as error:
            lost = int(error.value) == _IS_LOST
            what = "has fallen off the bus" if lost else str(error)
            remedy = "reset or reboot the machine; look for Xid in: dmesg | grep -i xid" if lost else None
            findings.append(Finding("gpu-lost" if lost else "gpu-error", "error", f"GPU {number} {what}", remedy))
            found = [(None, Gpu(len(gpus), "unknown", "", 0, 0, None, problem=what))]
        handles += [handle for handle, _ in found]
        gpus += [gpu for _, gpu in found]
    return Nvidia(tuple(gpus), tuple(_links(nvml, handles)), driver, tuple(findings))


def _devices(nvml: ModuleType, handle: Any, next_index: int) -> Iterator[tuple[Any, Gpu]]:
    """The card itself, or its MIG instances when it is divided: the parent cannot be used then."""
    mode = _try(nvml, nvml.nvmlDeviceGetMigMode, handle)
    if not mode or mode[0] != 1:
        yield handle, _gpu(nvml, handle, next_index)
        return
    parent = nvml.nvmlDeviceGetUUID(handle)
    capability = _try(nvml, nvml.nvmlDeviceGetCudaComputeCapability, handle)
    index = next_index
    for slot in range(_try(nvml, nvml.nvmlDeviceGetMaxMigDeviceCount, handle) or 0):
        instance = _try(nvml, nvml.nvmlDeviceGetMigDeviceHandleByIndex, handle, slot)
        if instance is not None:
            yield instance, _gpu(nvml, instance, index, parent=parent, capability=capability)
            index += 1


def _gpu(
    nvml: ModuleType, handle: Any, index: int, *, parent: str | None = None, capability: tuple[int, int] | None = None
) -> Gpu:
    total, free = _memory(nvml, handle)
    name = nvml.nvmlDeviceGetName(handle)
    pci = _try(nvml, nvml.nvmlDeviceGetPciInfo, handle)
    bus = getattr(pci, "busId", None)
    return Gpu(
        index=index,
        name=name,
        uuid=nvml.nvmlDeviceGetUUID(handle),
        total_bytes=total,
        free_bytes=free,
        compute_capability=capability or _try(nvml, nvml.nvmlDeviceGetCudaComputeCapability, handle),
        mig_profile=name.rpartition("MIG ")[2] if parent else None,
        parent_uuid=parent,
        pci_bus_id=bus.decode() if isinstance(bus, bytes) else bus,
        processes=tuple(_processes(nvml, handle)),
    )


def _memory(nvml: ModuleType, handle: Any) -> tuple[int, int]:
    """Total that programs can have, and free. Version 2 of the call tells the driver's own reserve apart."""
    second = _try(nvml, nvml.nvmlDeviceGetMemoryInfo, handle, nvml.nvmlMemory_v2)
    if second is not None:
        return int(second.total - second.reserved), int(second.free)
    first = nvml.nvmlDeviceGetMemoryInfo(handle)
    return int(first.total), int(first.free)


def _processes(nvml: ModuleType, handle: Any) -> Iterator[GpuProcess]:
    import psutil

    found = _try(nvml, nvml.nvmlDeviceGetComputeRunningProcesses, handle)
    if found is None:
        found = _try(nvml, nvml.nvmlDeviceGetComputeRunningProcesses_v2, handle)
    for entry in found or ():
        name = None
        with contextlib.suppress(psutil.Error, OSError):
            name = psutil.Process(entry.pid).name()
        yield GpuProcess(int(entry.pid), name, int(entry.usedGpuMemory) if entry.usedGpuMemory else None)


def _links(nvml: ModuleType, handles: list[Any]) -> Iterator[Link]:
    for a, first in enumerate(handles):
        for b in range(a + 1, len(handles)):
            if first is None or handles[b] is None:
                continue
            second = handles[b]
            lanes = _nvlinks(nvml, first, second)
            if lanes:
                yield Link(a, b, "nvlink", lanes)
                continue
            level = _try(nvml, nvml.nvmlDeviceGetTopologyCommonAncestor, first, second)
            yield Link(a, b, _LEVELS.get(level, "unknown") if level is not None else "unknown")


def _nvlinks(nvml: ModuleType, first: Any, second: Any) -> int:
    """Active NVLinks between two cards: to each other directly, or both to the switch that joins them."""
    active = [n for n in range(_MAX_NVLINKS) if _try(nvml, nvml.nvmlDeviceGetNvLinkState, first, n) == 1]
    if not active:
        return 0
    status = _try(nvml, nvml.nvmlDeviceGetP2PStatus, first, second, nvml.NVML_P2P_CAPS_INDEX_NVLINK)
    if status is not None:
        return len(active) if status == nvml.NVML_P2P_STATUS_OK else 0
    other = _try(nvml, nvml.nvmlDeviceGetPciInfo, second)
    remotes = [_try(nvml, nvml.nvmlDeviceGetNvLinkRemotePciInfo, first, n) for n in active]
    if other is None or not any(remotes):
        # Links are up and nothing says where they lead: on servers with NVLink all cards of a kind are joined.
        return len(active) if _try(nvml, nvml.nvmlDeviceGetNvLinkState, second, active[0]) == 1 else 0
    return sum(remote is not None and remote.busId == other.busId for remote in remotes)


def _try(nvml: ModuleType, call: Any, *arguments: Any) -> Any:
    """The call's answer; None where this driver or card does not know it. A lost card is an error of its own."""
    try:
        return call(*arguments)
    except nvml.NVMLError as error:
        if int(error.value) == _IS_LOST:
            raise
        return None
    except (AttributeError, getattr(nvml, "NVMLLibraryMismatchError", AttributeError)):
        return None  # the binding, or the driver's library, is older than the call


def _cuda(number: Any) -> tuple[int, int] | None:
    return (number // 1000, number % 1000 // 10) if isinstance(number, int) and number else None


def _driver_from_proc(root: Path) -> Driver:
    import re

    try:
        text = (root / "proc/driver/nvidia/version").read_text(encoding="utf-8", errors="replace")
    except OSError:
        return Driver()
    found = re.search(r"Kernel Module(?: for \S+)?\s+([\d.]+)", text)
    return Driver(version=found[1] if found else None)


def has_device_files(root: Path) -> bool:
    """Whether the kernel driver made its device files, so that there is a card."""
    return any((root / "dev").glob("nvidia[0-9]*"))


def _only_with_gpu(root: Path, finding: Finding) -> tuple[Finding, ...]:
    return (finding,) if has_device_files(root) else ()


def _explain_init(code: int, root: Path) -> tuple[Finding, ...]:
    """Why NVML does not start. Without any trace of a card there is nothing to explain: a machine without GPU."""
    if code == _MISMATCH:
        message = "the NVIDIA driver's library and kernel module have different versions (it was updated while loaded)"
        return (Finding("driver-mismatch", "error", message, "reboot, or reload the nvidia kernel modules"),)
    if code == _DRIVER_NOT_LOADED:
        message = "the NVIDIA library is installed but its kernel driver is not loaded"
        return (
            Finding("driver-not-loaded", "error", message, "sudo modprobe nvidia; then check: dmesg | grep -i nvidia"),
        )
    if code == _NO_PERMISSION:
        message = "this user may not talk to the NVIDIA driver"
        return (Finding("driver-permission", "error", message, "check the rights of /dev/nvidia*"),)
    if code == _LIBRARY_NOT_FOUND:
        message = (
            "there is a GPU (/dev/nvidia*) but not the driver's library: the container lacks the utility capability"
        )
        remedy = "docker run --gpus all -e NVIDIA_DRIVER_CAPABILITIES=compute,utility …"
        return _only_with_gpu(root, Finding("container-without-nvml", "error", message, remedy))
    return (
        Finding("nvml-error", "error", f"NVML does not start (code {code})", "nvidia-smi shows what the driver says"),
    )
