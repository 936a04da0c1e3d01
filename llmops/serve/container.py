"""vLLM from a container image: the same arguments, with the model's files mounted where they are. Pure but for the look-up."""

from __future__ import annotations

import re
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Final

from llmops.errors import MachineError
from llmops.planning.argv import DEVICES
from llmops.planning.types import ModelPlan
from llmops.serve.spec import ServeSpec

INSIDE_PORT: Final = 8000
# Read from the environment of docker itself, so that no secret stands in its arguments.
_PASSED_ON: Final = ("VLLM_API_KEY",)


def program() -> Path:
    """docker, or podman.

    Raises:
        MachineError: Neither is on the path.
    """
    found = shutil.which("docker") or shutil.which("podman")
    if found is None:
        raise MachineError("--image needs docker or podman, and neither is on the path", "llmops engines install vllm")
    return Path(found)


def version_of(image: str) -> str | None:
    """The release that an image's tag names, such as ``0.19.0``."""
    match = re.search(r":v?(\d+\.\d+\.\d+)", image)
    return match[1] if match else None


def command(
    spec: ServeSpec, plan: ModelPlan, docker: Path, port: int, *, serve: tuple[str, ...], env: Mapping[str, str | None]
) -> tuple[str, ...]:
    """``docker run`` of an image with ``vllm``.

    Args:
        spec: With ``image``.
        plan: Says which GPUs.
        docker: The program.
        port: Of this machine, at ``spec.host``.
        serve: The engine's own arguments, from ``serve`` on.
        env: Its variables.
    """
    variables = {name: value for name, value in env.items() if name not in DEVICES and value is not None}
    mounted = [spec.model.absolute(), *(Path(lora.path).absolute() for lora in spec.loras)]
    mounted += [spec.chat_template.absolute()] if spec.chat_template else []
    host = f"[{spec.host}]" if ":" in spec.host else spec.host
    return (
        *(str(docker), "run", "--rm", "--init"),
        *("--shm-size", f"{max(2, 4 * plan.tensor_parallel)}g"),
        *_gpus(docker, plan),
        *("--publish", f"{host}:{port}:{INSIDE_PORT}"),
        *(word for path in dict.fromkeys(mounted) for word in ("--volume", f"{path}:{path}:ro")),
        *(word for name, value in sorted(variables.items()) for word in ("--env", f"{name}={value}")),
        *(word for name in _PASSED_ON if spec.api_key_env for word in ("--env", name)),
        *("--entrypoint", "vllm", str(spec.image)),
        *_inside(serve),
    )


def _gpus(docker: Path, plan: ModelPlan) -> tuple[str, ...]:
    if not plan.gpus:
        return ()
    indices = plan.replica_gpus(0)
    if docker.name == "podman":
        return tuple(word for index in indices for word in ("--device", f"nvidia.com/gpu={index}"))
    # Docker reads the value as a line of CSV: the quotes keep its commas together.
    return ("--gpus", f'"device={",".join(map(str, indices))}"')


def _inside(serve: tuple[str, ...]) -> tuple[str, ...]:
    """Listening on all of the container's own addresses, of which only the published port is reachable."""
    words = list(serve)
    words[words.index("--host") + 1] = "0.0.0.0"  # noqa: S104 - inside the container
    words[words.index("--port") + 1] = str(INSIDE_PORT)
    return tuple(words)
