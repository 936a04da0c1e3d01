"""From a plan to what is launched: argv, environment, and how to tell that it is up. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from llmops.checkpoint.facts import ModelFacts
from llmops.planning.types import EngineName, ModelPlan
from llmops.serve.spec import ServeSpec

# The child reads the key that clients must send from here.
API_KEY_VARIABLE: Final = "LLMOPS_SERVE_API_KEY"
DEFAULT_BATCH_TOKENS: Final = 512
# Slow disks and busy machines read about this much a second; torch's import alone may take a minute on them.
SLOW_READ_BYTES_S: Final = 40 * 1024**2
BASE_DEADLINE_S: Final[dict[EngineName, float]] = {"llamacpp": 60.0, "transformers": 180.0, "vllm": 300.0}


@dataclass(frozen=True, slots=True)
class Launch:
    """One engine process.

    Attributes:
        env: Over the inherited environment; None removes a variable.
        deadline_s: Until it must have answered a first request.
    """

    engine: EngineName
    argv: tuple[str, ...]
    env: Mapping[str, str | None]
    url: str
    model_name: str
    deadline_s: float

    def data(self) -> dict[str, object]:
        """For reports; the environment holds no secret, only the name of the variable does."""
        return {"argv": list(self.argv), "env": dict(self.env), "url": self.url, "deadline_s": self.deadline_s}


def launch(spec: ServeSpec, facts: ModelFacts, plan: ModelPlan, python: Path, port: int) -> Launch:
    """What to run for ``plan``.

    Args:
        spec: The user's wishes (names, address, extra flags).
        facts: Of the model.
        plan: Decisions for this machine.
        python: The engine's interpreter.
        port: A free one.
    """
    build = {"llamacpp": _llamacpp, "transformers": _transformers, "vllm": _vllm}[plan.engine]
    environment: dict[str, str | None] = {
        "PYTHONUNBUFFERED": "1",
        "PYTHONFAULTHANDLER": "1",  # a fatal signal in native code leaves its name in the log
        "NO_COLOR": "1",
        # The model is local: nothing may wait for a hub that is not there.
        "HF_HUB_OFFLINE": "1",
        "HF_HUB_DISABLE_TELEMETRY": "1",
    }
    argv, more = build(spec, plan, python, port)
    deadline = spec.ready_timeout_s or BASE_DEADLINE_S[plan.engine] + facts.size_bytes / SLOW_READ_BYTES_S
    host = "127.0.0.1" if spec.host in ("0.0.0.0", "::", "") else spec.host  # noqa: S104 - only compared with
    return Launch(
        engine=plan.engine,
        argv=(*argv, *spec.extra),
        env={**environment, **more},
        url=f"http://{f'[{host}]' if ':' in host else host}:{port}",
        model_name=spec.served_name,
        deadline_s=round(deadline, 1),
    )


Built = tuple[tuple[str, ...], Mapping[str, str | None]]


def _thread_variables(plan: ModelPlan) -> dict[str, str | None]:
    # Waiting threads must sleep: spinning ones starve the others on a machine that is not idle.
    return {"OMP_NUM_THREADS": str(plan.threads or 1), "OMP_WAIT_POLICY": "PASSIVE"}


def _common(spec: ServeSpec, plan: ModelPlan, port: int) -> tuple[str, ...]:
    return (
        *("--model", str(spec.model.absolute())),
        *("--served-model-name", spec.served_name),
        *("--host", spec.host),
        *("--port", str(port)),
        *("--max-model-len", str(plan.max_model_len)),
        *("--max-num-seqs", str(plan.max_num_seqs)),
        *(("--chat-template", str(spec.chat_template.absolute())) if spec.chat_template else ()),
    )


def _llamacpp(spec: ServeSpec, plan: ModelPlan, python: Path, port: int) -> Built:
    argv = (
        *(str(python), "-m", "llmops.serve.servers.llamacpp_server"),
        *_common(spec, plan, port),
        *("--threads", str(plan.threads or 1)),
        *("--kv-tokens", str(_kv_tokens(plan))),
    )
    return argv, {}


def _transformers(spec: ServeSpec, plan: ModelPlan, python: Path, port: int) -> Built:
    batch_tokens = min(plan.max_num_batched_tokens or DEFAULT_BATCH_TOKENS, DEFAULT_BATCH_TOKENS)
    argv = (
        *(str(python), "-m", "llmops.serve.servers.transformers_server"),
        *_common(spec, plan, port),
        *("--dtype", plan.dtype),
        *("--threads", str(plan.threads or 1)),
        *("--kv-tokens", str(_kv_tokens(plan))),
        *("--max-num-batched-tokens", str(batch_tokens)),
    )
    return argv, _thread_variables(plan)


def _kv_tokens(plan: ModelPlan) -> int:
    """At least one whole context, and no more than all sequences could use."""
    most = plan.max_model_len * plan.max_num_seqs
    return max(plan.max_model_len, min(plan.kv_tokens or most, most))


def _vllm(spec: ServeSpec, plan: ModelPlan, python: Path, port: int) -> Built:
    # The planner wrote the engine's own arguments; the address in them is where its first replica listens.
    argv = [str(python), "-m", "vllm.entrypoints.cli.main", *_at_port(plan.argv, port)]
    if plan.enforce_eager and spec.enforce_eager is False:
        argv.remove("--enforce-eager")
    if spec.chat_template:
        argv += ["--chat-template", str(spec.chat_template.absolute())]
    quiet = {"VLLM_NO_USAGE_STATS": "1", "DO_NOT_TRACK": "1", "VLLM_LOGGING_COLOR": "0"}
    return tuple(argv), {**plan.env, **quiet}


def _at_port(argv: tuple[str, ...], port: int) -> tuple[str, ...]:
    at = argv.index("--port") + 1
    return (*argv[:at], str(port), *argv[at + 1 :])
