"""From a plan to what is launched: argv, environment, and how to tell that it is up. Pure."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from llmops.checkpoint.facts import ModelFacts
from llmops.planning.types import ModelPlan
from llmops.serve import engine_argv
from llmops.serve.engine_argv import Built
from llmops.serve.spec import Engine, ServeSpec

# The child reads the key that clients must send from here.
API_KEY_VARIABLE: Final = "LLMOPS_SERVE_API_KEY"
# Slow disks and busy machines read about this much a second; torch's import alone may take a minute on them.
SLOW_READ_BYTES_S: Final = 40 * 1024**2
BASE_DEADLINE_S: Final[dict[Engine, float]] = {
    "llamacpp": 60.0,
    "transformers": 180.0,
    "vllm": 300.0,
    "ray": 420.0,
    "trtllm": 600.0,
}
_BUILDERS: Final[dict[Engine, Callable[[ServeSpec, ModelPlan, Path, int], Built]]] = {
    "llamacpp": engine_argv.llamacpp,
    "transformers": engine_argv.transformers,
    "vllm": engine_argv.vllm,
    "ray": engine_argv.ray,
    "trtllm": engine_argv.trtllm,
}
# Ray's own front answers for the health of what stands behind it.
_HEALTH_PATHS: Final[dict[str, str]] = {"ray": "/-/healthz", "triton": "/v2/health/ready"}


@dataclass(frozen=True, slots=True)
class Launch:
    """One engine process.

    Attributes:
        env: Over the inherited environment; None removes a variable.
        deadline_s: Until it must have answered a first request.
    """

    engine: Engine
    argv: tuple[str, ...]
    env: Mapping[str, str | None]
    url: str
    model_name: str
    deadline_s: float

    @property
    def health_path(self) -> str:
        """What says 200 when the server is up."""
        return health_path(self.engine)

    def data(self) -> dict[str, object]:
        """For reports; the environment holds no secret, only the name of the variable does."""
        return {"argv": list(self.argv), "env": dict(self.env), "url": self.url, "deadline_s": self.deadline_s}


def health_path(engine: str) -> str:
    """Where an engine's server is asked for its health."""
    return _HEALTH_PATHS.get(engine, "/health")


def launch(
    spec: ServeSpec, facts: ModelFacts, plan: ModelPlan, python: Path, port: int, *, engine: Engine | None = None
) -> Launch:
    """What to run for ``plan``.

    Args:
        spec: The user's wishes (names, address, extra flags).
        facts: Of the model.
        plan: Decisions for this machine.
        python: The engine's interpreter.
        port: A free one.
        engine: That runs it; None: the plan's own.
    """
    engine = engine or plan.engine
    environment: dict[str, str | None] = {
        "PYTHONUNBUFFERED": "1",
        "PYTHONFAULTHANDLER": "1",  # a fatal signal in native code leaves its name in the log
        "NO_COLOR": "1",
        # The model is local: nothing may wait for a hub that is not there.
        "HF_HUB_OFFLINE": "1",
        "HF_HUB_DISABLE_TELEMETRY": "1",
    }
    argv, more = _BUILDERS[engine](spec, plan, python, port)
    deadline = spec.ready_timeout_s or BASE_DEADLINE_S[engine] + facts.size_bytes / SLOW_READ_BYTES_S
    host = "127.0.0.1" if spec.host in ("0.0.0.0", "::", "") else spec.host  # noqa: S104 - only compared with
    return Launch(
        engine=engine,
        # Ray hands them to vLLM with the other arguments.
        argv=argv if engine == "ray" else (*argv, *spec.extra),
        env={**environment, **more},
        url=f"http://{f'[{host}]' if ':' in host else host}:{port}",
        model_name=spec.served_name,
        deadline_s=round(deadline, 1),
    )
