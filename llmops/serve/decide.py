"""Decisions for one model on this machine: the engine, then the planner's numbers for it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from llmops.checkpoint import ModelFacts, read_model
from llmops.engines import engine_version, interpreter
from llmops.errors import UsageError
from llmops.extras import require_installed
from llmops.findings import Finding
from llmops.hardware.host import Host
from llmops.planning.types import ModelPlan
from llmops.serve import container
from llmops.serve.choose import Choice, choose_engine
from llmops.serve.launch import Launch, launch
from llmops.serve.online import online
from llmops.serve.preflight import check_files, check_options, check_plugin, free_port, largest_rank
from llmops.serve.sizing import Wanted, size
from llmops.serve.spec import Engine, ServeSpec


@dataclass(frozen=True, slots=True)
class Decision:
    """Everything that is settled before the launch.

    Attributes:
        gpu: Name of the cards that it runs on; None on the CPU.
        chats: Whether there is a template to make prompts of messages with.
    """

    facts: ModelFacts
    choice: Choice
    plan: ModelPlan
    python: Path
    launch: Launch
    gpu: str | None = None
    chats: bool = True

    @property
    def plan_findings(self) -> tuple[Finding, ...]:
        """Warnings of the checkpoint that matter to its clients."""
        if self.chats:
            return ()
        text = "the model has no chat template: /v1/chat/completions will refuse, /v1/completions works"
        return (Finding("chat-template-missing", "warning", text, "--chat-template FILE"),)

    @property
    def engine(self) -> Engine:
        """The engine's name."""
        return self.choice.engine


def decide(spec: ServeSpec, host: Host) -> Decision:
    """Read the model, choose, plan, check. Starts nothing.

    Raises:
        UsageError: The model or an option is wrong.
        MachineError: The engine is not installed, the port is taken, or the model does not fit.
    """
    return decide_all((spec,), host)[0]


def decide_all(specs: Sequence[ServeSpec], host: Host) -> tuple[Decision, ...]:
    """The same for several models that share the machine: their GPUs and memory are planned together.

    Raises:
        UsageError, MachineError: As :func:`decide`.
    """
    models = []
    ports: list[int] = []
    wanted: list[Wanted] = []
    for given in specs:
        spec = given
        facts = _facts(spec)
        usable = host.usable_gpus
        nvidia = all(gpu.vendor == "nvidia" for gpu in usable)
        choice = choose_engine(facts, spec.engine, gpus=len(usable), nvidia=nvidia)
        check_options(spec, choice.engine)
        word = online(spec.quantization, facts, choice.engine, gpus=len(host.usable_gpus))
        if word is not None and choice.engine == "transformers" and spec.engine_python is None:
            require_installed("bitsandbytes", f"--quantization {word}")
        spec = spec.model_copy(update={"quantization": word})
        check_files(spec, facts)
        if spec.loras and spec.max_lora_rank is None:
            spec = _absolute_adapters(spec.model_copy(update={"max_lora_rank": largest_rank(spec.loras)}))
        python = container.program() if spec.image else interpreter(choice.engine, spec.engine_python)
        version = _version(spec, choice, python)
        check_plugin(spec, facts, choice.engine, python, version)
        ports.append(_port(spec, ports))
        models.append((spec, facts, choice, python))
        wanted.append(Wanted(spec, facts, choice.engine, ports[-1], version))
    plans = size(wanted, host)
    return tuple(
        Decision(
            facts,
            choice,
            plan,
            python,
            launch(spec, facts, plan, python, port, engine=choice.engine),
            _card(host, plan),
            _chats(spec, facts, choice.engine),
        )
        for (spec, facts, choice, python), plan, port in zip(models, plans, ports, strict=True)
    )


def _version(spec: ServeSpec, choice: Choice, python: Path) -> str | None:
    return container.version_of(spec.image) if spec.image else engine_version(choice.engine, python)


def _card(host: Host, plan: ModelPlan) -> str | None:
    return next((gpu.name for gpu in host.gpus if gpu.index in plan.gpus), None)


def _chats(spec: ServeSpec, facts: ModelFacts, engine: Engine) -> bool:
    """llama.cpp takes a template of its own where a file has none; the others refuse."""
    own = facts.tokenizer.chat_template is not None or not facts.tokenizer.present
    return own or spec.chat_template is not None or engine == "llamacpp"


def _absolute_adapters(spec: ServeSpec) -> ServeSpec:
    absolute = (lora.model_copy(update={"path": str(Path(lora.path).absolute())}) for lora in spec.loras)
    return spec.model_copy(update={"loras": tuple(absolute)})


def _facts(spec: ServeSpec) -> ModelFacts:
    if not spec.model.exists():
        raise UsageError(f"there is no model {spec.model}", "give a checkpoint directory or a .gguf file")
    return read_model(spec.model.absolute())


def _port(spec: ServeSpec, taken: Sequence[int]) -> int:
    if spec.port and spec.port in taken:
        raise UsageError(f"two models ask for port {spec.port}", "give each its own, or none")
    while (port := free_port(spec.host, spec.port)) in taken:
        pass  # the system may hand out a free port that it named before
    return port
