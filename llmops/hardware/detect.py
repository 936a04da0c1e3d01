"""``detect``: the machine that this process runs on. Never raises; what is wrong is a finding of the Host."""

from __future__ import annotations

import contextlib
import os
import platform
import resource
import shutil
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

from llmops.findings import Finding
from llmops.hardware import amd, nvidia
from llmops.hardware.cpu import read_cpu, read_memory
from llmops.hardware.host import Disk, Gpu, Host, Limits
from llmops.units import GIB, format_size

_SMALL_SHM = GIB  # tensor-parallel workers and NCCL exchange data through it; containers start with 64 MiB
_FEW_FILES = 4096


def detect(root: Path = Path("/"), environment: Mapping[str, str] | None = None, *, sample_s: float = 0.2) -> Host:
    """Describe this machine.

    Args:
        root: Where /proc, /sys and /dev are looked for.
        environment: Instead of ``os.environ``.
        sample_s: How long the processors' load is sampled.
    """
    environment = os.environ if environment is None else environment
    found = nvidia.probe(root)
    gpus, complaint = apply_visibility(found.gpus, environment.get("CUDA_VISIBLE_DEVICES"))
    gpus = (*gpus, *amd.probe(root, first_index=len(gpus)))
    limits = _limits(root)
    findings = [*found.findings, *complaint, *_limit_findings(limits, len([gpu for gpu in gpus if gpu.usable]))]
    version = _read(root / "proc/version").lower()
    return Host(
        name=platform.node() or "this machine",
        source="detected",
        os=f"{platform.system()} {platform.release()}",
        cpu=read_cpu(root, sample_s=sample_s),
        memory=read_memory(root),
        limits=limits,
        gpus=gpus,
        links=found.links,
        driver=found.driver,
        disks=tuple(_disks(environment)),
        container=_in_container(root),
        wsl="microsoft" in version,
        cuda_visible_devices=environment.get("CUDA_VISIBLE_DEVICES"),
        findings=tuple(findings),
    )


def apply_visibility(gpus: tuple[Gpu, ...], setting: str | None) -> tuple[tuple[Gpu, ...], tuple[Finding, ...]]:
    """Mark the GPUs that CUDA_VISIBLE_DEVICES hides, by CUDA's own rules.

    The list ends at the first entry that names nothing; a UUID may be shortened to any unique beginning.
    """
    if setting is None:
        return gpus, ()
    visible: set[int] = set()
    complaint: tuple[Finding, ...] = ()
    for entry in (item.strip() for item in setting.split(",")):
        named = [gpu.index for gpu in gpus if _names(entry, gpu)]
        if len(named) != 1:
            if entry and entry != "-1":
                message = (
                    f"CUDA_VISIBLE_DEVICES={setting}: {entry!r} names no GPU here; it and all after it are ignored"
                )
                complaint = (Finding("visible-devices", "warning", message, "list existing indices: llmops gpus"),)
            break
        visible.update(named)
    return tuple(replace(gpu, visible=gpu.index in visible) for gpu in gpus), complaint


def _names(entry: str, gpu: Gpu) -> bool:
    if entry.isdigit():
        return int(entry) == gpu.index
    return len(entry) > 4 and gpu.uuid.lower().startswith(entry.lower())


def _limits(root: Path) -> Limits:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    total = free = None
    with contextlib.suppress(OSError):
        usage = shutil.disk_usage(root / "dev/shm")
        total, free = usage.total, usage.free
    return Limits(total, free, soft, hard)


def _limit_findings(limits: Limits, gpus: int) -> list[Finding]:
    findings = []
    if gpus > 1 and limits.shm_total_bytes is not None and limits.shm_total_bytes < _SMALL_SHM:
        size = format_size(limits.shm_total_bytes)
        message = f"shared memory (/dev/shm) has only {size}; several GPUs working together need more"
        findings.append(Finding("small-shm", "warning", message, "docker run --shm-size=8g … or --ipc=host"))
    if limits.nofile_soft is not None and limits.nofile_soft < _FEW_FILES:
        message = f"only {limits.nofile_soft} open files are allowed; a busy server needs more"
        findings.append(Finding("few-open-files", "note", message, "ulimit -n 65536"))
    return findings


def _disks(environment: Mapping[str, str]) -> list[Disk]:
    home = Path(environment.get("HOME", "/"))
    places = [
        ("model cache", Path(environment.get("HF_HOME") or home / ".cache/huggingface")),
        ("temporary files", Path(environment.get("TMPDIR", "/tmp"))),  # noqa: S108 - it is only measured
        ("working directory", Path.cwd()),
    ]
    disks = []
    for purpose, place in places:
        there = next((path for path in (place, *place.absolute().parents) if path.exists()), Path("/"))
        with contextlib.suppress(OSError):
            usage = shutil.disk_usage(there)
            disks.append(Disk(purpose, str(place), usage.free, usage.total))
    return disks


def _in_container(root: Path) -> bool:
    marks = (root / ".dockerenv", root / "run/.containerenv")
    return any(mark.exists() for mark in marks) or "kubepods" in _read(root / "proc/1/cgroup")


def _read(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8", errors="replace")
    except OSError:
        return ""
