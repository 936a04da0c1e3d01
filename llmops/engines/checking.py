"""``llmops engines list`` and ``check``: what is there, whether it can be imported, what fits with what."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Final

from llmops.engines.catalog import ENGINES, EngineSpec, engine
from llmops.engines.environments import environment, interpreter, outdated
from llmops.engines.recipe import installed_version
from llmops.errors import LlmopsError, OutsideError
from llmops.findings import Finding
from llmops.process import Command, start, tail
from llmops.progress import Progress

PROBE: Final = Path(__file__).with_name("probe.py")
PROBE_TIMEOUT_S: Final = 300.0


@dataclass(frozen=True, slots=True)
class Pin:
    """One requirement of an installed distribution against what is installed."""

    distribution: str
    requires: str
    specifier: str
    installed: str | None
    fits: bool
    left_out: bool = False


@dataclass(frozen=True, slots=True)
class EngineCheck:
    """What an engine's interpreter answered."""

    engine: str
    python: str
    python_version: str
    version: str | None
    import_error: str | None
    import_s: float
    versions: dict[str, str | None] = field(default_factory=dict)
    pins: tuple[Pin, ...] = ()

    @property
    def works(self) -> bool:
        """Whether the engine can be imported."""
        return self.import_error is None

    def findings(self) -> tuple[Finding, ...]:
        """A failed import is an error, an unmet requirement a warning (an import may well work without it)."""
        found = []
        if self.import_error is not None:
            remedy = f"llmops engines install {self.engine}" if ENGINES[self.engine].home == "environment" else None
            found.append(Finding("engine-import", "error", f"{self.engine}: {self.import_error}", remedy))
        for pin in self.pins:
            if not pin.fits and not pin.left_out:
                have = f"{pin.installed} is installed" if pin.installed else "it is not installed"
                text = f"{self.engine}: {pin.distribution} requires {pin.requires}{pin.specifier}; {have}"
                found.append(Finding("engine-pin", "warning", text))
        return tuple(found)


@dataclass(frozen=True, slots=True)
class EngineRow:
    """One line of ``llmops engines list``.

    Attributes:
        outdated: Why a whole environment is not what is asked for now; None when it is.
    """

    name: str
    state: str
    purpose: str
    where: str
    version: str | None
    outdated: str | None = None


@dataclass(frozen=True, slots=True)
class ListReport:
    """All engines."""

    ok: bool
    findings: tuple[Finding, ...]
    engines: tuple[EngineRow, ...]


@dataclass(frozen=True, slots=True)
class CheckReport:
    """The checked engines; ``ok`` when each can be imported."""

    ok: bool
    findings: tuple[Finding, ...]
    engines: tuple[EngineCheck, ...]


def list_engines() -> ListReport:
    """What is there, without importing anything."""
    rows = tuple(_row(spec) for spec in ENGINES.values())
    findings = tuple(
        Finding(
            "engine-outdated", "note", f"{row.name} works, but {row.outdated}", f"llmops engines install {row.name}"
        )
        for row in rows
        if row.outdated
    )
    return ListReport(True, findings, rows)


def _row(spec: EngineSpec) -> EngineRow:
    if spec.home == "environment":
        there = environment(spec.name)
        version = installed_version(there.path, spec.distribution) or installed_version(there.path, spec.alias or "")
        change = outdated(there) if there.state == "ready" else None
        return EngineRow(spec.name, there.state, spec.purpose, str(there.path), version, change)
    from importlib import metadata

    try:
        interpreter(spec.name)
        return EngineRow(spec.name, "ready", spec.purpose, "beside llmops", metadata.version(spec.distribution))
    except (LlmopsError, metadata.PackageNotFoundError):
        return EngineRow(spec.name, "missing", spec.purpose, "beside llmops", None)


def check(name: str | None, progress: Progress, engine_python: Path | None = None) -> CheckReport:
    """Import one engine, or each that is there, in its own interpreter.

    Raises:
        UsageError: No such engine.
        MachineError: The named engine is not installed.
        OutsideError: Its interpreter does not answer.
    """
    specs = [engine(name)] if name else [spec for spec in ENGINES.values() if _row(spec).state == "ready"]
    checks = []
    for spec in specs:
        progress.phase(f"importing {spec.name}")
        checks.append(probe(spec, interpreter(spec.name, engine_python)))
    findings = tuple(finding for each in checks for finding in each.findings())
    broken = [] if name else [row for row in list_engines().engines if row.state == "broken"]
    findings += tuple(
        Finding("engine-broken", "error", f"{row.name}: the environment in {row.where} is not whole",
                f"llmops engines install {row.name}")
        for row in broken
    )  # fmt: skip
    return CheckReport(not any(each.severity == "error" for each in findings), findings, tuple(checks))


def probe(spec: EngineSpec, python: Path) -> EngineCheck:
    """Ask one interpreter.

    Raises:
        OutsideError: It gives no answer.
    """
    distributions = [spec.distribution, *([spec.alias] if spec.alias else []), *spec.beside]
    job = json.dumps({"modules": spec.modules, "distributions": distributions})
    with TemporaryDirectory(prefix="llmops-probe-") as scratch:
        log = Path(scratch) / "log"
        # -I: neither PYTHONPATH nor the user's site may stand in for what the environment lacks.
        command = Command((str(python), "-I", str(PROBE), job), log, {"HF_HUB_OFFLINE": "1"}, cwd=Path(scratch))
        with start(command, pipe_stdout=True) as child:
            answer = child.stdout.readline()
            code = child.wait(PROBE_TIMEOUT_S)
        if not answer:
            last = (tail(log, 1) or [f"exit code {code}"])[0]
            raise OutsideError(f"{python} does not answer: {last}", f"llmops engines install {spec.name}")
    return _parse(spec, python, json.loads(answer))


def _parse(spec: EngineSpec, python: Path, answer: dict[str, object]) -> EngineCheck:
    import msgspec

    versions = msgspec.convert(answer["versions"], dict[str, str | None])
    rows = msgspec.convert(answer["matrix"], list[dict[str, str | bool | None]])
    pins = tuple(
        Pin(
            str(row["distribution"]),
            str(row["requires"]),
            str(row["specifier"]),
            None if row["installed"] is None else str(row["installed"]),
            bool(row["fits"]),
            left_out=row["installed"] is None and str(row["requires"]).lower() in spec.skip,
        )
        for row in rows
    )
    error = answer["import_error"]
    return EngineCheck(
        engine=spec.name,
        python=str(python),
        python_version=str(answer["python"]),
        version=versions.get(spec.distribution) or (versions.get(spec.alias) if spec.alias else None),
        import_error=None if error is None else str(error),
        import_s=float(str(answer["import_s"])),
        versions=versions,
        pins=pins,
    )
