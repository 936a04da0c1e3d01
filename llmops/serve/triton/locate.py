"""Find a Triton server: on the path, in the nvidia-pytriton wheel of the engine's environment, or as a container image."""

from __future__ import annotations

import os
import shutil
import sysconfig
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Literal

from llmops.engines import environment, interpreter
from llmops.errors import LlmopsError, MachineError, UsageError
from llmops.serve.triton.spec import TritonSpec
from llmops.settings import settings

# The line of images that carries all backends of a release; a site names its own with --image.
IMAGE: Final = "nvcr.io/nvidia/tritonserver:26.09-py3"
VLLM_IMAGE: Final = "nvcr.io/nvidia/tritonserver:26.09-vllm-python-py3"
IMAGE_BACKENDS: Final = frozenset({"python", "onnxruntime", "tensorrt", "pytorch", "openvino", "identity", "repeat"})
_LIBRARY_DIRS: Final = (
    "/usr/lib/x86_64-linux-gnu",
    "/usr/lib/aarch64-linux-gnu",
    "/usr/lib64",
    "/usr/lib",
    "/usr/local/lib",
    "/lib",
)


@dataclass(frozen=True, slots=True)
class Server:
    """A server that can be started.

    Attributes:
        kind: ``path`` a tritonserver on the path; ``wheel`` the one inside nvidia-pytriton; ``container`` an image.
        program: tritonserver, or docker or podman.
        backends: What it has; None when only the start will tell.
        backend_directory: For ``--backend-directory``.
        python: Interpreter whose packages the Python backend uses.
        library_path: Where libpython lies, when not in the system's own places.
    """

    kind: Literal["path", "wheel", "container"]
    program: Path
    backends: frozenset[str] | None
    backend_directory: Path | None = None
    python: Path | None = None
    library_path: Path | None = None
    image: str | None = None


def find_server(spec: TritonSpec) -> Server:
    """The first of the three that is there.

    Raises:
        MachineError: None is, or the one asked for lacks something.
        UsageError: ``--server`` names no program.
    """
    if spec.server is not None:
        if not os.access(spec.server, os.X_OK):
            raise UsageError(f"--server {spec.server}: not a program", "give the path of tritonserver")
        return _on_path(spec.server)
    if spec.mode in ("auto", "local"):
        found = shutil.which("tritonserver")
        if found and spec.engine_python is None:
            return _on_path(Path(found))
        try:
            return _in_wheel(spec)
        except LlmopsError as error:
            if spec.mode == "local" or spec.engine_python is not None or environment("triton").state != "missing":
                raise
            missing = error
    program = shutil.which("docker") or shutil.which("podman")
    if program:
        image = spec.image or (VLLM_IMAGE if spec.middle == "vllm" else IMAGE)
        return Server(
            "container", Path(program), IMAGE_BACKENDS | ({"vllm"} if "vllm" in image else set()), image=image
        )
    if spec.mode == "docker":
        raise MachineError("neither docker nor podman is on the path", "install one, or: llmops engines install triton")
    raise MachineError(
        f"there is no Triton server: no tritonserver on the path, {missing.message}, neither docker nor podman",
        "llmops engines install triton",
    )


def _on_path(program: Path) -> Server:
    directory = program.resolve().parent.parent / "backends"
    names = frozenset(p.name for p in directory.iterdir() if p.is_dir()) if directory.is_dir() else None
    return Server("path", program, names, directory if names else None)


def _in_wheel(spec: TritonSpec) -> Server:
    python = interpreter("triton", spec.engine_python)
    found = sorted(python.parent.parent.glob("lib/python3*/site-packages/pytriton/tritonserver"))
    if not found or not (found[0] / "bin" / "tritonserver").is_file():
        raise MachineError(
            f"{python} has no nvidia-pytriton with a server in it", "llmops engines install triton --again"
        )
    bundle = found[0]
    version = bundle.parent.parent.parent.name.removeprefix("python")
    stub = bundle / "python_backend_stubs" / version / "triton_python_backend_stub"
    if not stub.is_file():
        have = ", ".join(sorted(p.name for p in stub.parent.parent.iterdir()))
        raise MachineError(
            f"the server's Python backend has no stub for Python {version}", f"make the environment with Python {have}"
        )
    return Server(
        "wheel",
        bundle / "bin" / "tritonserver",
        frozenset({"python"}),
        _backends(bundle, stub, version),
        python,
        _library(version),
    )


def _backends(bundle: Path, stub: Path, version: str) -> Path:
    """The wheel keeps the stub apart; the server wants it beside the backend's library, and both executable."""
    for program in (bundle / "bin" / "tritonserver", stub):
        if not os.access(program, os.X_OK):
            program.chmod(program.stat().st_mode | 0o111)
    directory = settings().state_dir / "triton" / f"backends-{version}"
    target = directory / "python"
    target.mkdir(parents=True, exist_ok=True)
    for source in (*(bundle / "backends" / "python").iterdir(), stub):
        link = target / source.name
        if not (link.is_symlink() and link.readlink() == source):
            link.unlink(missing_ok=True)
            link.symlink_to(source)
    return directory


def _library(version: str) -> Path | None:
    """The stub is linked to libpython: where it is, None for the system's own places.

    Raises:
        MachineError: It is nowhere.
    """
    name = f"libpython{version}.so.1.0"
    if any((Path(place) / name).exists() for place in _LIBRARY_DIRS):
        return None
    own = Path(str(sysconfig.get_config_var("LIBDIR") or "/nonexistent"))
    if (own / name).exists():
        return own
    raise MachineError(
        f"the Python backend needs {name}, which is not on this machine", f"apt-get install libpython{version}"
    )
