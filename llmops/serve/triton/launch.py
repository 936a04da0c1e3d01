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
    """One server process.

    Attributes:
        container: Name of its container; None for a process of this machine.
    """

    argv: tuple[str, ...]
    env: Mapping[str, str | None]
    url: str
    grpc: str
    metrics_url: str
    deadline_s: float
    container: str | None = None


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
        container=container_name(ports) if server.kind == "container" else None,
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
    host = f"[{spec.host}]" if ":" in spec.host else spec.host
    published = {ports.http: 8000, ports.grpc: 8001, ports.metrics: 8002}
    mounts = {repository: "/models"}
    if spec.model is not None and spec.middle == "vllm":  # its files stay where they are; model.json names that place
        mounts[spec.model.absolute()] = str(spec.model.absolute())
    variables = {
        "OMP_NUM_THREADS": str(spec.threads or 1),
        "OMP_WAIT_POLICY": "PASSIVE",
        "TOKENIZERS_PARALLELISM": "false",
        "HF_HUB_OFFLINE": "1",
    }
    argv = [
        *(str(server.program), "run", "--rm", "--name", container_name(ports), "--shm-size", "1g"),
        # Docker brings its own init; podman takes one of the system, which need not be there, and the server reaps its children.
        *(() if _is_podman(server) else ("--init",)),
        *(_gpus(server) if gpu else ()),
        *(word for outside, inside in published.items() for word in ("--publish", f"{host}:{outside}:{inside}")),
        # Unlike --volume, a mount makes no empty directory where the source is missing.
        *(word for source, target in mounts.items() for word in ("--mount", _mount(source, target))),
        *(word for name, value in variables.items() for word in ("--env", f"{name}={value}")),
        str(server.image),
        *("tritonserver", "--model-repository=/models", f"--allow-gpu-metrics={'true' if gpu else 'false'}"),
        *spec.extra,
    ]
    return tuple(argv), {}


def container_name(ports: Ports) -> str:
    """By its port, which only one of them can have: what a killed client left running can be found and removed."""
    return f"llmops-triton-{ports.http}"


def _is_podman(server: Server) -> bool:
    return server.program.name == "podman"


def _gpus(server: Server) -> tuple[str, ...]:
    return ("--device", "nvidia.com/gpu=all") if _is_podman(server) else ("--gpus", "all")


def _mount(source: Path, target: str) -> str:
    """A bind mount; the engines read it as a line of CSV, in which quotes keep a comma."""
    return ",".join(
        f'"{part}"' if "," in part else part
        for part in ("type=bind", f"source={source}", f"target={target}", "readonly")
    )
