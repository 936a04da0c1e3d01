"""Load tests of LLM endpoints, with numbers that are right and gates that CI can trust.

``bench(spec, progress)`` measures what a ``BenchSpec`` asks and returns a ``BenchReport``; ``view`` shows it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from llmops.bench.page import view
    from llmops.bench.report import BenchReport
    from llmops.bench.run import bench
    from llmops.bench.spec import BenchSpec, bench_spec

__all__ = ["BenchReport", "BenchSpec", "bench", "bench_spec", "view"]
_HOME = {
    "BenchReport": "report",
    "BenchSpec": "spec",
    "bench": "run",
    "bench_spec": "spec",
    "view": "page",
}


def __getattr__(name: str) -> Any:
    """Late, so that a worker process, which needs neither pydantic nor a view, starts fast and stays small."""
    if name not in _HOME:
        raise AttributeError(name)
    import importlib

    module = importlib.import_module(f"llmops.bench.{_HOME[name]}")
    return getattr(module, name)
