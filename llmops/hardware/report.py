"""What ``llmops gpus`` reports, and how it is shown."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from llmops.errors import UsageError
from llmops.findings import Finding
from llmops.hardware.detect import detect
from llmops.hardware.host import Gpu, Host
from llmops.hardware.paper import host_from_gpus, read_host
from llmops.report.document import Block, Document, Facts, Table, Text
from llmops.report.told import told
from llmops.units import format_size


@dataclass(frozen=True, slots=True)
class HostReport:
    """A machine; ``ok`` is False when something is wrong with it. No GPU is nothing wrong."""

    host: Host

    @property
    def findings(self) -> tuple[Finding, ...]:
        """What is wrong with the machine."""
        return self.host.findings

    @property
    def ok(self) -> bool:
        """Whether no finding is an error."""
        return not any(finding.severity == "error" for finding in self.findings)


def choose_host(host_file: Path | None, gpu: str | None) -> Host:
    """The machine to plan for: from a file, from a list of cards, or this one.

    Raises:
        UsageError: Both are given, or what is given describes no machine.
    """
    if host_file is not None and gpu is not None:
        raise UsageError("--host and --gpu exclude each other", "keep one of the two")
    if host_file is not None:
        return read_host(host_file)
    return host_from_gpus(gpu) if gpu is not None else detect()


def show(host_file: Path | None = None, gpu: str | None = None) -> HostReport:
    """Report the chosen machine."""
    return HostReport(choose_host(host_file, gpu))


def view(report: HostReport) -> Document:
    """Tables for people."""
    host = report.host
    blocks: list[Block] = [Facts(tuple((label, text) for label, text in _rows(host) if text))]
    if host.gpus:
        columns = ("index", "name", "free", "total", "CC", "in use by")
        rows = tuple(_gpu_row(gpu) for gpu in host.gpus)
        blocks.append(Table(columns, rows, right=frozenset({"index", "free", "total"})))
    blocks += told(report.findings)
    return Document(host.name, tuple(blocks), _verdict(report))


def _verdict(report: HostReport) -> Text:
    usable = report.host.usable_gpus
    if not report.ok:
        return Text("the GPUs of this machine cannot all be used", "bad")
    if not usable:
        return Text("no GPU: models run on the CPU", "plain")
    total = sum(gpu.total_bytes for gpu in usable)
    return Text(f"{len(usable)} GPU{'s' if len(usable) > 1 else ''} with {format_size(total)}", "good")


def _rows(host: Host) -> list[tuple[str, str]]:
    cpu, memory, driver = host.cpu, host.memory, host.driver
    quota = f", quota {cpu.quota:g}" if cpu.quota else ""
    features = f"; {', '.join(cpu.features)}" if cpu.features else ""
    limit = f" (limited to {format_size(memory.limit_bytes)})" if memory.limit_bytes else ""
    cuda = f", CUDA {driver.cuda[0]}.{driver.cuda[1]}" if driver.cuda else ""
    shm = host.limits.shm_total_bytes
    return [
        ("system", host.os + (" in a container" if host.container else "") + (" (WSL)" if host.wsl else "")),
        ("processor", f"{cpu.model}; {cpu.free} of {cpu.allowed} cores free{quota}{features}"),
        ("memory", f"{format_size(memory.available_bytes)} of {format_size(memory.total_bytes)} free{limit}"),
        ("driver", f"{driver.version}{cuda}" if driver.version else ""),
        ("links", _links(host)),
        (
            "visible",
            f"CUDA_VISIBLE_DEVICES={host.cuda_visible_devices}" if host.cuda_visible_devices is not None else "",
        ),
        ("shared memory", format_size(shm) if shm is not None else ""),
        ("open files", str(host.limits.nofile_soft) if host.limits.nofile_soft is not None else ""),
        *((disk.purpose, f"{format_size(disk.free_bytes)} free at {disk.path}") for disk in host.disks),
    ]


def _links(host: Host) -> str:
    if len(host.usable_gpus) < 2:
        return ""
    islands = [island for island in host.islands() if len(island) > 1]
    if not islands:
        kinds = sorted({link.kind for link in host.links})
        return f"no NVLink ({', '.join(kinds)})" if kinds else "unknown"
    return "NVLink joins " + "; ".join(", ".join(map(str, island)) for island in islands)


def _gpu_row(gpu: Gpu) -> tuple[str, ...]:
    capability = ".".join(map(str, gpu.compute_capability)) if gpu.compute_capability else "-"
    state = gpu.problem or ("hidden" if not gpu.visible else "")
    users = ", ".join(f"{p.name or 'pid'} {p.pid}" for p in gpu.processes[:3])
    return (
        str(gpu.index),
        gpu.name,
        format_size(gpu.free_bytes),
        format_size(gpu.total_bytes),
        capability,
        state or users or "-",
    )
