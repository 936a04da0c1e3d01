"""``llmops engines install``: make, repair or replace an engine's environment."""

from __future__ import annotations

import fcntl
import json
import os
import shutil
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final, Literal

from llmops.engines import recipe
from llmops.engines.catalog import EngineSpec, engine, fingerprint, requirements
from llmops.engines.checking import EngineCheck, probe
from llmops.engines.environments import MARKER, Environment, environment, outdated, root
from llmops.errors import MachineError, OutsideError, UsageError
from llmops.findings import Finding
from llmops.process import run_logged, tail
from llmops.progress import Progress

Installer = Literal["auto", "uv", "pip"]
Variant = Literal["auto", "cpu", "cuda"]
FREE_BYTES: Final = 6 * 1024**3


@dataclass(frozen=True, slots=True)
class InstallReport:
    """What the installation did.

    Attributes:
        action: ``installed``, ``repaired`` (a broken one was made anew), ``updated`` (a whole one was made from other
            requirements than are asked for now), ``kept`` (it was whole), ``planned``.
        steps: The commands, in order.
    """

    ok: bool
    findings: tuple[Finding, ...]
    engine: str
    path: str
    action: str
    variant: str
    installer: str
    steps: tuple[str, ...]
    seconds: float
    check: EngineCheck | None = None


def install(
    name: str,
    progress: Progress,
    *,
    installer: Installer = "auto",
    variant: Variant = "auto",
    again: bool = False,
    dry_run: bool = False,
) -> InstallReport:
    """Make an engine's environment, or leave a whole one as it is when it was made from what is asked for now.

    Args:
        name: The engine.
        progress: Told of each step.
        installer: ``auto`` takes uv where it is on the path.
        variant: ``auto`` looks for a CUDA GPU.
        again: Make it anew even when it is whole.
        dry_run: Only say what would run.

    Raises:
        UsageError: No such engine, or one that comes with llmops itself.
        MachineError: Too little disk, or the installer is missing.
        OutsideError: A package could not be had, or the engine cannot be imported afterwards.
    """
    spec = engine(name)
    if spec.home == "base":
        raise UsageError(f"the engine {name} runs beside llmops itself", f"pip install 'llmops[{spec.extra}]'")
    cuda = variant == "cuda" or (variant == "auto" and has_cuda_gpu())
    if spec.needs_gpu and not cuda:
        raise MachineError(
            f"the engine {name} runs on NVIDIA GPUs only, and none is here", "--variant cuda, to install it anyway"
        )
    tool = _installer(installer)
    there = environment(name)
    steps = recipe.steps(spec, there.path, requirements(spec, cuda=cuda), tool, cuda=cuda)
    report = InstallReport(
        ok=True,
        findings=(),
        engine=name,
        path=str(there.path),
        action="planned",
        variant="cuda" if cuda else "cpu",
        installer=tool,
        steps=tuple(step.shown for step in steps),
        seconds=0.0,
    )
    if dry_run:
        return replace(report, findings=_outlook(there, cuda=cuda, again=again))
    with _lock(name, progress):
        return _make(spec, report, steps, progress, again=again)


def has_cuda_gpu() -> bool:
    """Whether the NVIDIA driver shows a device. Cheap: no library is loaded."""
    return Path("/proc/driver/nvidia/version").exists() and any(Path("/dev").glob("nvidia[0-9]*"))


def _make(
    spec: EngineSpec, report: InstallReport, steps: tuple[recipe.Step, ...], progress: Progress, *, again: bool
) -> InstallReport:
    began = time.monotonic()
    there = environment(spec.name)  # anew: another process may have finished while this one waited for the lock
    change = outdated(there, cuda=report.variant == "cuda") if there.state == "ready" else None
    if change is not None:
        progress.note(f"the environment in {there.path} is made anew: {change}")
    elif there.state == "ready" and not again:
        progress.phase(f"checking the environment in {there.path}")
        checked = probe(spec, there.python)
        if checked.works:
            return _done(report, "kept", checked, began)
        progress.note(f"it does not work: {checked.import_error}")
    action = "installed" if there.state == "missing" else "updated" if change else "repaired"
    _refuse_full_disk(there.path)
    log = root() / f"{spec.name}.install.log"
    log.parent.mkdir(parents=True, exist_ok=True)
    log.unlink(missing_ok=True)
    with _replacing(there, progress):
        for number, step in enumerate(steps, 1):
            progress.phase(f"[{number}/{len(steps)}] {step.what}")
            _run(step, log, report.installer)
        progress.phase("importing the engine")
        checked = probe(spec, there.python)
        if not checked.works:
            raise OutsideError(
                f"{spec.name} was installed but cannot be imported: {checked.import_error}", f"the log is {log}"
            )
        _mark(there, report, checked)
    return _done(report, action, checked, began)


@contextmanager
def _replacing(there: Environment, progress: Progress) -> Iterator[None]:
    """A whole environment is set aside while its successor is made, and comes back when that fails: without the network,
    say, an older engine is better than none. It is of use only in the place where it was made.
    """
    old = there.path.with_name(f"{there.path.name}.old")
    if there.state == "ready":
        shutil.rmtree(old, ignore_errors=True)
        there.path.rename(old)
    elif there.path.exists():
        progress.phase("removing the broken environment")
        shutil.rmtree(there.path)
    try:
        yield
    except BaseException:
        if old.exists():
            shutil.rmtree(there.path, ignore_errors=True)
            old.rename(there.path)
            progress.note(f"the earlier environment is back in {there.path}")
        raise
    progress.phase("finishing")
    shutil.rmtree(old, ignore_errors=True)


def _outlook(there: Environment, *, cuda: bool, again: bool) -> tuple[Finding, ...]:
    """What a run would find there."""
    change = outdated(there, cuda=cuda) if there.state == "ready" else None
    if there.state == "missing":
        return ()
    if there.state == "broken":
        return (
            Finding("engine-broken", "note", f"the environment in {there.path} is not whole: it would be made anew"),
        )
    if change is not None:
        return (Finding("engine-outdated", "note", f"the environment in {there.path} would be made anew: {change}"),)
    if again:
        return ()
    return (Finding("engine-kept", "note", f"the environment in {there.path} is whole and would be kept", "--again"),)


def _done(report: InstallReport, action: str, checked: EngineCheck, began: float) -> InstallReport:
    return InstallReport(
        ok=True,
        findings=checked.findings(),
        engine=report.engine,
        path=report.path,
        action=action,
        variant=report.variant,
        installer=report.installer,
        steps=report.steps,
        seconds=round(time.monotonic() - began, 1),
        check=checked,
    )


def _run(step: recipe.Step, log: Path, installer: str) -> None:
    if step.argv:
        code = run_logged(step.argv, log, env=step.env)
        if code != 0:
            raise _explain(step, log, installer, code)
    if step.act is not None:
        step.act()


def _explain(step: recipe.Step, log: Path, installer: str, code: int) -> OutsideError:
    """The installer's own last complaint as the message; the usual cause as the hint."""
    lines = [line.strip() for line in tail(log, 60) if line.strip()]
    complaint = next((line for line in reversed(lines) if "ERROR" in line or "error:" in line.lower()), "")
    text = "\n".join(lines)
    if (
        "torch==" in text
        and ("+cpu" in text)
        and ("No matching" in text or "unsatisfiable" in text or "no version" in text)
    ):
        return OutsideError(
            f"{installer} finds no CPU build of torch, which {step.what.split()[-1]} pins",
            "name an index or a directory that has it in PIP_EXTRA_INDEX_URL or PIP_FIND_LINKS (PyTorch's own CPU index)",
        )
    return OutsideError(f"{step.what} failed with exit code {code}: {complaint or 'no message'}", f"the log is {log}")


def _mark(there: Environment, report: InstallReport, checked: EngineCheck) -> None:
    spec, cuda = engine(there.engine), report.variant == "cuda"
    marker = {
        "engine": there.engine,
        "requirements": list(requirements(spec, cuda=cuda)),
        "recipe": fingerprint(spec, cuda=cuda),
        "installer": report.installer,
        "variant": report.variant,
        "version": checked.version,
        "made_by": sys.executable,
    }
    partial = there.path / f"{MARKER}.partial"
    partial.write_text(json.dumps(marker, indent=2), encoding="utf-8")
    partial.replace(there.path / MARKER)


def _installer(wanted: Installer) -> str:
    if wanted == "pip":
        return "pip"
    found = shutil.which("uv")
    if wanted == "uv" and found is None:
        raise MachineError("there is no program 'uv' on this machine", "pip install uv, or --installer pip")
    return "uv" if found else "pip"


def _refuse_full_disk(path: Path) -> None:
    existing = path
    while not existing.exists():
        existing = existing.parent
    free = shutil.disk_usage(existing).free
    if free < FREE_BYTES:
        raise MachineError(
            f"{free / 1024**3:.1f} GiB are free on the disk of {existing}; an engine needs up to 6 GiB",
            "set LLMOPS_ENGINES_DIR to a directory on another disk",
        )


@contextmanager
def _lock(name: str, progress: Progress) -> Iterator[None]:
    """One installation of an engine at a time on a machine; the kernel drops the lock when its holder dies."""
    root().mkdir(parents=True, exist_ok=True)
    descriptor = os.open(root() / f".{name}.lock", os.O_CREAT | os.O_RDWR, 0o644)
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            progress.phase("waiting for another installation of the same engine")
            fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)
