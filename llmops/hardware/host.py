"""A machine as planning sees it: detected, read from a file, or described on paper."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from llmops.findings import Finding
from llmops.units import GIB

Vendor = Literal["nvidia", "amd"]
# Fastest first. ``pcie-switch`` stays below one PCIe switch; ``numa`` stays in a socket; ``system`` crosses sockets.
LinkKind = Literal["nvlink", "pcie-switch", "pcie-host", "numa", "system", "unknown"]


@dataclass(frozen=True, slots=True)
class GpuProcess:
    """A process that holds memory of a GPU; ``used_bytes`` is None where the driver does not say."""

    pid: int
    name: str | None
    used_bytes: int | None


@dataclass(frozen=True, slots=True)
class Gpu:
    """One device that a program can use: a whole card or one MIG instance.

    Attributes:
        index: Number to put in CUDA_VISIBLE_DEVICES.
        total_bytes: Memory as the driver reports it (an "80 GB" H100 has 79.19 GiB for programs).
        free_bytes: Free now; equals total for a machine on paper.
        compute_capability: Such as (9, 0); None for other vendors or when unknown.
        visible: False when CUDA_VISIBLE_DEVICES hides it.
        problem: Why it cannot be used, such as "has fallen off the bus".
    """

    index: int
    name: str
    uuid: str
    total_bytes: int
    free_bytes: int
    compute_capability: tuple[int, int] | None
    vendor: Vendor = "nvidia"
    visible: bool = True
    mig_profile: str | None = None
    parent_uuid: str | None = None
    pci_bus_id: str | None = None
    processes: tuple[GpuProcess, ...] = ()
    problem: str | None = None

    @property
    def total_gib(self) -> float:
        """Memory in GiB as the driver reports it."""
        return self.total_bytes / GIB

    @property
    def free_gib(self) -> float:
        """Free memory in GiB."""
        return self.free_bytes / GIB

    @property
    def usable(self) -> bool:
        """Visible and without a problem."""
        return self.visible and self.problem is None


@dataclass(frozen=True, slots=True)
class Link:
    """How two GPUs (by index) reach each other; ``lanes`` is the number of NVLinks."""

    a: int
    b: int
    kind: LinkKind
    lanes: int = 0


@dataclass(frozen=True, slots=True)
class Driver:
    """Driver and the newest CUDA it supports; None where not found."""

    version: str | None = None
    cuda: tuple[int, int] | None = None
    nvml: str | None = None


@dataclass(frozen=True, slots=True)
class Cpu:
    """Processors that this process may use.

    Attributes:
        allowed: Logical processors in the affinity mask.
        quota: Cores that the cgroup grants; None without a limit.
        free: Whole cores to start threads on now: allowed, quota and load considered, at least 1.
        features: Instruction sets that matter to engines: avx2, avx512, avx512_bf16, amx, neon.
    """

    model: str
    logical: int
    physical: int
    allowed: int
    quota: float | None
    load_1m: float
    free: int
    features: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Memory:
    """Main memory in bytes. ``available_bytes`` respects the cgroup limit."""

    total_bytes: int
    available_bytes: int
    limit_bytes: int | None
    swap_bytes: int = 0


@dataclass(frozen=True, slots=True)
class Disk:
    """Free space of the file system that holds ``path``; ``purpose`` says why it is listed."""

    purpose: str
    path: str
    free_bytes: int
    total_bytes: int


@dataclass(frozen=True, slots=True)
class Limits:
    """What commonly stops an engine: shared memory and open files. None where unknown."""

    shm_total_bytes: int | None = None
    shm_free_bytes: int | None = None
    nofile_soft: int | None = None
    nofile_hard: int | None = None


@dataclass(frozen=True, slots=True)
class Host:
    """A machine. ``source`` says where the facts come from: ``detected``, ``paper`` or a file's name."""

    name: str
    source: str
    os: str
    cpu: Cpu
    memory: Memory
    limits: Limits
    gpus: tuple[Gpu, ...] = ()
    links: tuple[Link, ...] = ()
    driver: Driver = Driver()
    disks: tuple[Disk, ...] = ()
    container: bool = False
    wsl: bool = False
    cuda_visible_devices: str | None = None
    findings: tuple[Finding, ...] = ()

    @property
    def usable_gpus(self) -> tuple[Gpu, ...]:
        """GPUs that a program started here can use."""
        return tuple(gpu for gpu in self.gpus if gpu.usable)

    def islands(self) -> tuple[tuple[int, ...], ...]:
        """Usable GPU indices grouped by NVLink, largest group first; a GPU without NVLink is a group of one."""
        usable = [gpu.index for gpu in self.usable_gpus]
        group = {index: index for index in usable}
        for link in self.links:
            if link.kind == "nvlink" and link.a in group and link.b in group:
                old, new = sorted((group[link.a], group[link.b]))[::-1]
                group = {index: new if leader == old else leader for index, leader in group.items()}
        members: dict[int, list[int]] = {}
        for index, leader in group.items():
            members.setdefault(leader, []).append(index)
        return tuple(sorted((tuple(sorted(m)) for m in members.values()), key=lambda m: (-len(m), m)))
