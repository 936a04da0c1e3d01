"""From a repository and a server to a command. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from llmops.serve.triton.locate import Server
from llmops.serve.triton.spec import TritonSpec


@dataclass(frozen=True, slots=True)
class Ports:
    """Where the server listens."""

    http: int
    grpc: int
    metrics: int


@dataclass(frozen=True, slots=True)
class TritonLaunch:
    """One server process."""

    argv: tuple[str, ...]
    env: Mapping[str, str | None]
    url: str
    grpc: str
    metrics_url: str
    deadline_s: float


def make_launch(
    spec: TritonSpec, server: Server, repository: Path, ports: Ports, *, gpu: bool, weights_bytes: int
) -> TritonLaunch:
    """What to run.

    Args:
        spec: Addresses and options.
        server: What was found.
        repository: The model repository.
        ports: Free ones.
        gpu: Whether the machine has a GPU; without one the server must not look for its metrics.
        weights_bytes: Of all models, for the deadline.
    """
    build = _container if server.kind == "container" else _local
    argv, env = build(spec, server, repository.absolute(), ports, gpu)
    host = "127.0.0.1" if spec.host in ("0.0.0.0", "::") else spec.host  # noqa: S104 - only compared with
    return TritonLaunch(
        argv=argv,
        env=env,
        url=f"http://{host}:{ports.http}",
        grpc=f"{host}:{ports.grpc}",
        metrics_url=f"http://{host}:{ports.metrics}/metrics",
        deadline_s=spec.ready_timeout_s or round(120 + weights_bytes / (20 * 1024**2), 1),
    )


Built = tuple[tuple[str, ...], Mapping[str, str | None]]


def _local(spec: TritonSpec, server: Server, repository: Path, ports: Ports, gpu: bool) -> Built:
    argv = [
        str(server.program),
        f"--model-repository={repository}",
        *([f"--backend-directory={server.backend_directory}"] if server.backend_directory else []),
        f"--http-address={spec.host}",
        f"--grpc-address={spec.host}",
        f"--metrics-address={spec.host}",
        f"--http-port={ports.http}",
        f"--grpc-port={ports.grpc}",
        f"--metrics-port={ports.metrics}",
        f"--allow-gpu-metrics={'true' if gpu else 'false'}",
        "--log-verbose=0",
        *spec.extra,
    ]
    env: dict[str, str | None] = {
        "OMP_NUM_THREADS": str(spec.threads or 1),
        "OMP_WAIT_POLICY": "PASSIVE",
        "TOKENIZERS_PARALLELISM": "false",
        "HF_HUB_OFFLINE": "1",
        # It would put other packages before those of the environment.
        "PYTHONPATH": None,
        "PYTHONHOME": None,
    }
    if server.python is not None:
        # The embedded interpreter finds its packages through the first python on the path.
        env["PATH"] = f"{server.python.parent}:/usr/local/bin:/usr/bin:/bin"
        env["VIRTUAL_ENV"] = str(server.python.parent.parent)
    if server.library_path is not None:
        env["LD_LIBRARY_PATH"] = str(server.library_path)
    return tuple(argv), env


def _container(spec: TritonSpec, server: Server, repository: Path, ports: Ports, gpu: bool) -> Built:
    public = spec.host
    argv = [
        *(str(server.program), "run", "--rm", "--init", "--shm-size=1g"),
        *(["--gpus", "all"] if gpu else []),
        *(
            "-p",
            f"{public}:{ports.http}:8000",
            "-p",
            f"{public}:{ports.grpc}:8001",
            "-p",
            f"{public}:{ports.metrics}:8002",
        ),
        *("-v", f"{repository}:/models:ro"),
        *(
            []
            if spec.model is None or spec.middle != "vllm"
            else ["-v", f"{spec.model.absolute()}:{spec.model.absolute()}:ro"]
        ),
        *("-e", f"OMP_NUM_THREADS={spec.threads or 1}"),
        str(server.image),
        *("tritonserver", "--model-repository=/models", f"--allow-gpu-metrics={'true' if gpu else 'false'}"),
        *spec.extra,
    ]
    return tuple(argv), {}
