"""Run by an engine's own interpreter as a script: import the engine, compare what is installed with what is required.

Standard library only, plus ``packaging`` where the environment has it (pip carries a copy). Prints one JSON line.
Usage: ``probe.py '{"modules": [...], "distributions": [...]}'``
"""

from __future__ import annotations

import contextlib
import importlib
import io
import json
import os
import platform
import sys
import time
from importlib import metadata
from typing import Any


def requirement_class() -> Any:
    """``packaging.requirements.Requirement`` from wherever this environment has it; None where it has not."""
    for name in ("packaging.requirements", "pip._vendor.packaging.requirements"):
        with contextlib.suppress(ImportError):
            return importlib.import_module(name).Requirement
    return None


def installed(name: str) -> str | None:
    """The version of a distribution."""
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return None


def matrix(distribution: str, parse: Any) -> list[dict[str, str | bool | None]]:
    """Each direct requirement that applies here: what is asked, what is there, whether it fits."""
    rows: list[dict[str, str | bool | None]] = []
    try:
        requires = metadata.requires(distribution) or []
    except metadata.PackageNotFoundError:
        return []
    for text in requires:
        requirement = parse(text)
        if requirement.marker is not None and not requirement.marker.evaluate({"extra": ""}):
            continue
        have = installed(requirement.name)
        fits = have is not None and requirement.specifier.contains(have, prereleases=True)
        rows.append(
            {
                "distribution": distribution,
                "requires": requirement.name,
                "specifier": str(requirement.specifier),
                "installed": have,
                "fits": fits,
            }
        )
    return rows


def import_all(modules: list[str]) -> tuple[str | None, float]:
    """Import each; returns the first failure as ``Error: text`` and the seconds it took. Output of imports is dropped."""
    began = time.monotonic()
    for module in modules:
        try:
            with contextlib.redirect_stdout(io.StringIO()):
                importlib.import_module(module)
        except BaseException as error:  # noqa: BLE001 - an engine's import may raise anything, SystemExit too
            lines = str(error).strip().splitlines() or [""]
            return f"{module}: {type(error).__name__}: {lines[0]}", time.monotonic() - began
    return None, time.monotonic() - began


def main() -> None:
    """Probe, print, end at once (some engines leave threads behind on import)."""
    job = json.loads(sys.argv[1])
    out = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    parse = requirement_class()
    failure, took = import_all(job["modules"])
    rows = [row for name in job["distributions"] for row in (matrix(name, parse) if parse else [])]
    names = {name for name in job["distributions"] if installed(name)} | {str(row["requires"]) for row in rows}
    answer = {
        "python": platform.python_version(),
        "import_error": failure,
        "import_s": round(took, 2),
        "versions": {name: installed(name) for name in sorted(names)},
        "matrix": rows,
    }
    out.write(json.dumps(answer) + "\n")
    out.flush()
    os._exit(0)


if __name__ == "__main__":
    main()
