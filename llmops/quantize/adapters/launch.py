"""Run as ``python launch.py ADAPTER JOB.json``: runs one adapter of this directory in the current interpreter."""

from __future__ import annotations

import importlib
import importlib.util
import sys
from pathlib import Path

_PACKAGE = "llmops_adapters"


def main() -> None:
    """Make this directory importable under a name that cannot hide an installed package, and run the adapter."""
    here = Path(__file__).resolve().parent
    # Python puts the script's directory first on the path, where a file here could shadow a library.
    sys.path[:] = [entry for entry in sys.path if Path(entry or ".").resolve() != here]
    spec = importlib.util.spec_from_file_location(
        _PACKAGE, here / "__init__.py", submodule_search_locations=[str(here)]
    )
    assert spec is not None
    assert spec.loader is not None
    package = importlib.util.module_from_spec(spec)
    sys.modules[_PACKAGE] = package
    spec.loader.exec_module(package)
    jobs = importlib.import_module(f"{_PACKAGE}.job")
    adapter = importlib.import_module(f"{_PACKAGE}.{sys.argv[1]}")
    jobs.run(adapter.main, Path(sys.argv[2]))


if __name__ == "__main__":
    main()
