"""The TensorRT engine of a repository: whether this server may load it here, and which shapes it takes."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, Final

from llmops.checkpoint.engine_file import Loader, read_record, require_loadable
from llmops.errors import UsageError
from llmops.hardware.host import Host
from llmops.serve.triton.locate import Server
from llmops.serve.triton.spec import Served

PLAN: Final = "model.plan"
_LIBRARY_DIRS: Final = ("/usr/lib/x86_64-linux-gnu", "/usr/lib/aarch64-linux-gnu", "/usr/lib64", "/usr/local/lib")
_LIBRARY: Final = re.compile(r"^libnvinfer\.so\.(\d+\.\d+(?:\.\d+)*)$")


def with_engine(served: Served, server: Server, host: Host) -> Served:
    """The same model within the shapes of its engine. Nothing is loaded, so nothing can fail in the server later.

    Raises:
        UsageError: The engine is damaged, or it was built for another library or GPU.
        MachineError: There is no GPU.
    """
    engine = served.directory / PLAN
    record = _require(engine, server, host)
    return served if record is None else within(served, record)


def require_engines(repository: Path, server: Server, host: Host) -> None:
    """The same question for every engine of a repository that has its record beside it.

    Raises:
        UsageError, MachineError: As :func:`with_engine`.
    """
    for engine in sorted(repository.glob(f"*/*/{PLAN}")):
        _require(engine, server, host)


def _require(engine: Path, server: Server, host: Host) -> dict[str, Any] | None:
    record = read_record(engine)
    if record is not None and record["tensorrt"]["module"] == "tensorrt_rtx":
        raise UsageError(
            f"{engine} is an engine of TensorRT-RTX, and Triton's tensorrt backend loads those of the full TensorRT only",
            "llmops build tensorrt --backend tensorrt on the machine with the GPU, or --triton-backend python",
        )
    gpu = next((gpu for gpu in host.usable_gpus if gpu.vendor == "nvidia"), None)
    require_loadable(engine, Loader("tensorrt", library_version(server), gpu.compute_capability if gpu else None))
    return record


def within(served: Served, record: Mapping[str, Any]) -> Served:
    """Rows and tokens that the engine's profiles take, all of which Triton chooses from. Pure."""
    shapes = [profile["input_ids"]["max"] for profile in record.get("profiles", []) if "input_ids" in profile]
    if not shapes:
        return served
    return replace(
        served,
        max_batch=min(served.max_batch, max(shape[0] for shape in shapes)),
        max_tokens=min(served.max_tokens, max(shape[1] for shape in shapes)),
        plan_profiles=len(record["profiles"]),
        version_compatible=bool(record.get("version_compatible")),
    )


def library_version(server: Server) -> str | None:
    """Version of the TensorRT that a server on this machine would load; None where that cannot be known before its start."""
    if server.kind != "path":
        return None
    beside = server.program.resolve().parent.parent / "lib"
    for directory in (beside, *map(Path, _LIBRARY_DIRS)):
        found = [match[1] for path in directory.glob("libnvinfer.so.*") if (match := _LIBRARY.match(path.name))]
        if found:
            return max(found, key=len)  # the links beside the library have fewer numbers
    return None
