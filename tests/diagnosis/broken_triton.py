"""Model repositories that a real Triton refuses, with its Python backend."""

from __future__ import annotations

import os
import socket
import subprocess
from pathlib import Path

CONFIG = """backend: "python"
max_batch_size: 0
input [{ name: "IN" data_type: TYPE_FP32 dims: [ -1 ] }]
output [{ name: "OUT" data_type: TYPE_FP32 dims: [ -1 ] }]
instance_group [{ kind: KIND_CPU }]
"""
MODEL = """import triton_python_backend_utils as pb_utils


class TritonPythonModel:
    def execute(self, requests):
        return [pb_utils.InferenceResponse([]) for _ in requests]
"""
CASES = {
    "module-missing": "package-version-conflict",
    "field-unknown": "triton-config-mismatch",
    "repository-missing": "triton-repository-missing",
    "port-taken": "port-in-use",
}


def fail(name: str, engine: Path, work: Path) -> Path:
    """Start Triton on a repository that is broken in one way; its log."""
    repository = work / "models"
    if name != "repository-missing":
        version = repository / "echo" / "1"
        version.mkdir(parents=True)
        config = CONFIG.replace("max_batch_size", "max_batchsize") if name == "field-unknown" else CONFIG
        (version.parent / "config.pbtxt").write_text(config)
        extra = "import a_module_that_is_not_here\n" if name == "module-missing" else ""
        (version / "model.py").write_text(extra + MODEL)
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        if name == "port-taken":
            taken.listen()
        _run(engine, repository, work, taken.getsockname()[1])
    return work / "triton.log"


def _run(engine: Path, repository: Path, work: Path, port: int) -> None:
    home = next(engine.glob("lib/python3*/site-packages/pytriton/tritonserver"))
    backend = work / "backends" / "python"
    backend.mkdir(parents=True)
    version = home.parents[2].name.removeprefix("python")
    stub = home / "python_backend_stubs" / version / "triton_python_backend_stub"
    for source in (*(home / "backends" / "python").iterdir(), stub):
        (backend / source.name).unlink(missing_ok=True)
        (backend / source.name).symlink_to(source)
    argv = [
        home / "bin" / "tritonserver", "--model-repository", repository, "--backend-directory", backend.parent,
        "--http-address", "127.0.0.1", "--http-port", port, "--allow-grpc=false", "--allow-metrics=false",
    ]  # fmt: skip
    env = os.environ | {"LD_LIBRARY_PATH": str(home / "lib"), "PATH": f"{engine / 'bin'}:{os.environ['PATH']}"}
    with (work / "triton.log").open("wb") as log:
        done = subprocess.run(
            [str(part) for part in argv], stdout=log, stderr=subprocess.STDOUT, env=env, timeout=120, check=False
        )
    assert done.returncode != 0
