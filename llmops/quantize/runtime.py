"""The interpreter of an engine, and what can be known of its environment without importing anything there."""

from __future__ import annotations

import re
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from llmops.engines import environments
from llmops.errors import MachineError, UsageError, did_you_mean
from llmops.extras import available, install_hint
from llmops.quantize.methods import ENGINES, Engine, Method

_NAME: Final = re.compile(r"[\"']([A-Za-z0-9_.-]+)[\"']")
_SHOWN: Final = ("gptqmodel", "bitsandbytes", "llmcompressor", "compressed_tensors", "transformers", "torch", "optimum")


@dataclass(frozen=True, slots=True)
class Runtime:
    """Where an engine runs.

    Attributes:
        python: The interpreter.
        versions: Installed distributions that matter, by name.
        model_types: ``model_type`` values that its transformers knows; empty when that could not be read.
        engine_model_types: Those that the engine itself has a definition for; empty when it takes any.
    """

    engine: str
    python: Path
    versions: tuple[tuple[str, str], ...]
    model_types: frozenset[str]
    engine_model_types: frozenset[str]

    def version(self, name: str) -> str:
        """A version, or ``unknown``."""
        return dict(self.versions).get(name, "unknown")


def choose_engine(method: Method, wanted: str) -> Engine:
    """The engine for a method: the wanted one, else the first that is installed, else the preferred one.

    Raises:
        UsageError: There is no such engine, or it cannot make this method.
    """
    if wanted != "auto":
        if wanted not in ENGINES:
            raise UsageError(f"there is no quantiser {wanted!r}", did_you_mean(wanted, ENGINES))
        if wanted not in method.engines:
            raise UsageError(f"{wanted} cannot make {method.name}", f"use --engine {method.engines[0]} or leave it out")
        return ENGINES[wanted]
    ready = (name for name in method.engines if _installed(ENGINES[name]))
    return ENGINES[next(ready, method.engines[0])]


def find_runtime(engine: Engine, chosen: Path | None) -> Runtime:
    """The engine's interpreter with its facts.

    Raises:
        UsageError: ``chosen`` cannot be run.
        MachineError: The engine is not installed.
    """
    python = _python(engine, chosen)
    directories = tuple(site_packages(python))
    versions = dict(_versions(directories))
    if engine.module not in versions:
        raise MachineError(
            f"{engine.name} is not installed for {python}",
            f"llmops engines install {engine.name}" if engine.own_environment else install_hint(engine.module),
        )
    return Runtime(
        engine.name,
        python,
        tuple(sorted(versions.items())),
        _quoted(
            directories, "transformers/models/auto/auto_mappings.py", "transformers/models/auto/configuration_auto.py"
        ),
        _quoted(directories, "gptqmodel/models/auto.py") if engine.name == "gptqmodel" else frozenset(),
    )


def site_packages(python: Path) -> Iterator[Path]:
    """Directories in which an interpreter finds its packages."""
    if python == Path(sys.executable):
        yield from (Path(entry) for entry in sys.path if entry.endswith(("site-packages", "dist-packages")))
        return
    # Not resolved: a virtual environment's python is a link to the interpreter that made it.
    yield from sorted(python.parent.parent.glob("lib*/python3*/site-packages"))


def _python(engine: Engine, chosen: Path | None) -> Path:
    from llmops.settings import settings

    own = chosen or settings().engine_python.get(engine.name)
    if engine.own_environment:
        return environments.interpreter(engine.name, own)
    if own is not None:
        return _executable(own)
    for module in (engine.module, "transformers", *engine.needs):
        if not available(module):
            raise MachineError(
                f"quantising with {engine.name} needs the package {module!r}, which is not installed",
                install_hint(engine.module),
            )
    return Path(sys.executable)


def _executable(path: Path) -> Path:
    import os

    for candidate in (path.expanduser(), path.expanduser() / "bin" / "python"):
        if candidate.is_file() and os.access(candidate, os.X_OK):
            return candidate.absolute()
    raise UsageError(f"--engine-python {path}: not an executable", "give the python of an environment that has it")


def _installed(engine: Engine) -> bool:
    try:
        find_runtime(engine, None)
    except (MachineError, UsageError):
        return False
    return True


def _versions(directories: tuple[Path, ...]) -> Iterator[tuple[str, str]]:
    for directory in directories:
        for info in directory.glob("*.dist-info"):
            name, _, version = info.name.removesuffix(".dist-info").rpartition("-")
            if name.lower() in _SHOWN:
                yield name.lower(), version


def _quoted(directories: tuple[Path, ...], *files: str) -> frozenset[str]:
    """Every quoted word of source files: a superset of the names that a mapping in them holds."""
    words: set[str] = set()
    for directory in directories:
        for file in files:
            path = directory / file
            if path.is_file():
                words.update(_NAME.findall(path.read_text(encoding="utf-8", errors="replace")))
    return frozenset(words)
