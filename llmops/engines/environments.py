"""Where the engines' own environments are, whether they are whole, and which interpreter runs an engine."""

from __future__ import annotations

import json
import os
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Literal

from llmops.engines.catalog import EngineSpec, engine, fingerprint, requirements
from llmops.engines.recipe import installed_version
from llmops.errors import MachineError, UsageError
from llmops.extras import available, install_hint
from llmops.settings import settings

State = Literal["ready", "missing", "broken"]
# Written last. Virtual environments cannot be renamed into place, so its presence is what makes one whole.
MARKER: Final = "llmops-engine.json"


@dataclass(frozen=True, slots=True)
class Environment:
    """An engine's environment on this machine.

    Attributes:
        state: ``broken`` when it was begun and never finished, or when what it rests on is gone.
        requirements: What it was made from, when it is whole.
        installer: ``uv`` or ``pip``.
        variant: ``cpu`` or ``cuda``; empty in records of an older llmops.
        recipe: ``catalog.fingerprint`` of what it was made from; empty in records of an older llmops.
    """

    engine: str
    path: Path
    state: State
    requirements: tuple[str, ...] = ()
    installer: str = ""
    variant: str = ""
    recipe: str = ""

    @property
    def python(self) -> Path:
        """Its interpreter."""
        return self.path / "bin" / "python"


def root() -> Path:
    """The directory of all environments (setting ``engines_dir``)."""
    return settings().engines_dir.expanduser().absolute()


def environment(name: str) -> Environment:
    """The environment of an engine, as it is."""
    path = root() / name
    if not path.is_dir():
        return Environment(name, path, "missing")
    try:
        marker = json.loads((path / MARKER).read_text(encoding="utf-8"))
        made_from, installer = tuple(marker["requirements"]), str(marker["installer"])
    except (OSError, ValueError, KeyError, TypeError):
        return Environment(name, path, "broken")
    # A venv's python is a link to the interpreter that made it: gone after a system upgrade.
    state: State = "ready" if os.access(path / "bin" / "python", os.X_OK) else "broken"
    variant, recipe = str(marker.get("variant") or ""), str(marker.get("recipe") or "")
    return Environment(name, path, state, made_from, installer, variant, recipe)


def outdated(there: Environment, *, cuda: bool | None = None) -> str | None:
    """What llmops asks for now that a whole environment was not made from, in words; None when it still is what is asked for.

    Args:
        there: The environment.
        cuda: The kind that is wanted; None: the kind that it was made for.
    """
    wanted = cuda if cuda is not None else there.variant == "cuda"
    if there.variant and wanted != (there.variant == "cuda"):
        return f"it was made for {there.variant}, {'cuda' if wanted else 'cpu'} is asked for"
    spec = engine(there.engine)
    asked = requirements(spec, cuda=wanted)
    differences = [f"{each} is new" for each in asked if each not in there.requirements]
    differences += [f"{each} is gone" for each in there.requirements if each not in asked]
    if differences:
        return "its requirements changed: " + ", ".join(differences)
    if there.recipe and there.recipe != fingerprint(spec, cuda=wanted):
        return "what goes in with its requirements, or is left out, changed"
    return None


def interpreter(name: str, chosen: Path | None = None) -> Path:
    """The interpreter that runs an engine.

    Args:
        name: The engine.
        chosen: The user's own (``--engine-python``), before the setting ``engine_python`` and the engine's own place.

    Raises:
        UsageError: ``chosen`` is no executable.
        MachineError: The engine is not installed.
    """
    spec = engine(name)
    own = chosen or settings().engine_python.get(name)
    if own is not None:
        return _executable(own, name)
    if spec.home == "base":
        return _base_interpreter(spec)
    found = environment(name)
    if found.state == "ready":
        return found.python
    what = "is not installed" if found.state == "missing" else f"has a broken environment in {found.path}"
    raise MachineError(f"the engine {name} {what}", f"llmops engines install {name}")


def engine_version(name: str, python: Path) -> str | None:
    """The release of the engine itself behind an interpreter, such as ``0.32.0``; for Ray that of its vLLM.

    Read from the names of installed metadata: no interpreter is started. None where it cannot be told.
    """
    spec = engine(name)
    prefix = python.parent.parent
    names = [each for each in (spec.alias, spec.core, spec.distribution) if each]
    found = next(filter(None, (installed_version(prefix, each) for each in names)), None)
    return found.partition("+")[0] if found else None


def _executable(path: Path, name: str) -> Path:
    path = path.expanduser()
    for candidate in (path, path / "bin" / "python"):  # a directory means the environment in it
        if candidate.is_file() and os.access(candidate, os.X_OK):
            return candidate.absolute()
    raise UsageError(f"--engine-python {path}: not an executable", f"give the python of an environment that has {name}")


def _base_interpreter(spec: EngineSpec) -> Path:
    missing = [module for module in spec.modules if not available(module)]
    if missing:
        raise MachineError(f"the engine {spec.name} needs the package {missing[0]!r}", install_hint(missing[0]))
    return Path(sys.executable)
