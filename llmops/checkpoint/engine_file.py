"""A TensorRT engine and the record beside it: whether the file is whole, and whether it may be loaded here.

An engine runs only with the library and the GPU it was built for, and says so itself only after gigabytes were read. So
``ENGINE.json`` is asked first.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from llmops.errors import MachineError, UsageError

SCHEMA: Final = "llmops.build.tensorrt/"
SUFFIXES: Final = (".plan", ".engine", ".trt")


@dataclass(frozen=True, slots=True)
class Loader:
    """What is about to load an engine.

    Attributes:
        module: ``tensorrt`` or ``tensorrt_rtx``.
        version: Of that library, as far as it is known (``10.13`` fits ``10.13.2.6``); None: not known.
        capability: Compute capability of the GPU; None: there is no GPU.
    """

    module: str
    version: str | None
    capability: tuple[int, int] | None


def record_path(engine: Path) -> Path:
    """Where the record of an engine is."""
    return engine.with_name(engine.name + ".json")


def read_record(engine: Path) -> dict[str, Any] | None:
    """The record beside an engine; None when there is none.

    Raises:
        UsageError: It cannot be read, or it is no record of an engine.
    """
    path = record_path(engine)
    if not path.is_file():
        return None
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
        right = str(found["schema"]).startswith(SCHEMA) and isinstance(found["engine"]["sha256"], str)
        right = right and isinstance(found["tensorrt"]["module"], str)
    except (ValueError, KeyError, TypeError):
        right = False
    if not right:
        raise UsageError(
            f"{path} is no record of an engine", "llmops build tensorrt writes it, together with the engine"
        )
    return dict(found)


def require_loadable(engine: Path, loader: Loader) -> None:
    """Refuse an engine before it is loaded. One without a record is let through: the library has the last word.

    Raises:
        UsageError: The file is not the one that was built, or it was built for another library or GPU.
        MachineError: There is no GPU.
    """
    record = read_record(engine)
    if record is None:
        return
    damage = damage_of(engine, record)
    if damage is not None:
        raise UsageError(f"{engine}: {damage}", "copy the engine and its record again, or llmops build tensorrt")
    other = other_graph(engine, record)
    if other is not None:
        raise UsageError(f"{engine}: {other}", "llmops build tensorrt --force builds it from the graph that is there")
    found = mismatches(record, loader)
    if loader.capability is None:
        raise MachineError(f"{engine.name} cannot be loaded: there is no GPU here", "run it on a machine with a GPU")
    if found:
        raise UsageError(
            f"{engine.name} cannot be loaded here: {'; '.join(found)}", "llmops build tensorrt builds it anew"
        )


def damage_of(engine: Path, record: Mapping[str, Any]) -> str | None:
    """How the file differs from the one that was built; None when it is the same, byte by byte."""
    built = record["engine"]
    size, wanted = engine.stat().st_size, built.get("size_bytes")
    if wanted is not None and size != wanted:
        return f"it is damaged: {size} bytes, {wanted} were built"
    if sha256(engine) != built["sha256"]:
        return "it is damaged, or another engine: its contents are not those that were built"
    return None


def other_graph(engine: Path, record: Mapping[str, Any]) -> str | None:
    """Whether the graph beside the engine is another one than it was built from."""
    made_from = record.get("onnx") or {}
    graph = engine.parent / str(made_from.get("file") or "")
    if not graph.is_file() or not made_from.get("sha256") or sha256(graph) == made_from["sha256"]:
        return None
    return f"it was built from another {graph.name} than the one beside it"


def mismatches(record: Mapping[str, Any], loader: Loader) -> list[str]:
    """Why an engine with this record must not be loaded by ``loader``; empty when it may. Pure."""
    found = []
    built = record.get("tensorrt", {})
    if built.get("module") != loader.module:
        found.append(f"it was built with {built.get('module')}, this is {loader.module}")
    elif not _same_version(str(built.get("version")), loader.version) and not record.get("version_compatible"):
        found.append(f"it was built with {loader.module} {built.get('version')}, this is {loader.version}")
    targets = [tuple(each) for each in record.get("compute_capabilities", [])]
    mine = loader.capability
    if mine is None:
        found.append("there is no GPU here")
    elif targets and mine not in targets and not (record.get("hardware_compatible") and mine >= min(targets)):
        want = ", ".join(f"{major}.{minor}" for major, minor in targets)
        found.append(f"it was built for compute capability {want}, this GPU has {mine[0]}.{mine[1]}")
    return found


def _same_version(built: str, mine: str | None) -> bool:
    """A library's file name has fewer numbers than its package: those that both have must agree."""
    if mine is None:
        return True
    pairs = zip(built.split("."), mine.split("."), strict=False)
    return all(one == other for one, other in pairs)


def sha256(path: Path) -> str:
    """Of a file's contents."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
