"""Decisions for one model on this machine: the engine, then the planner's numbers for it."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from llmops.checkpoint import ModelFacts, read_model
from llmops.engines import interpreter
from llmops.errors import UsageError
from llmops.findings import Finding
from llmops.hardware.host import Host
from llmops.planning.types import EngineName, ModelPlan
from llmops.serve.choose import Choice, choose_engine
from llmops.serve.launch import Launch, launch
from llmops.serve.preflight import check_files, free_port
from llmops.serve.sizing import size
from llmops.serve.spec import ServeSpec


@dataclass(frozen=True, slots=True)
class Decision:
    """Everything that is settled before the launch."""

    facts: ModelFacts
    choice: Choice
    plan: ModelPlan
    python: Path
    launch: Launch

    @property
    def plan_findings(self) -> tuple[Finding, ...]:
        """Warnings of the checkpoint that matter to its clients."""
        if self.facts.tokenizer.present and self.facts.tokenizer.chat_template is None:
            text = "the model has no chat template: /v1/chat/completions will refuse, /v1/completions works"
            return (Finding("chat-template-missing", "warning", text, "--chat-template FILE"),)
        return ()

    @property
    def engine(self) -> EngineName:
        """The engine's name."""
        return self.choice.engine


def decide(spec: ServeSpec, host: Host) -> Decision:
    """Read the model, choose, plan, check. Starts nothing.

    Raises:
        UsageError: The model or an option is wrong.
        MachineError: The engine is not installed, the port is taken, or the model does not fit.
    """
    if not spec.model.exists():
        raise UsageError(f"there is no model {spec.model}", "give a checkpoint directory or a .gguf file")
    facts = read_model(spec.model.absolute())
    choice = choose_engine(facts, spec.engine, gpus=len(host.usable_gpus))
    if spec.loras and choice.engine != "vllm":
        raise UsageError(f"the engine {choice.engine} serves no LoRA adapters", "--engine vllm")
    check_files(spec, facts)
    python = interpreter(choice.engine, spec.engine_python)
    port = free_port(spec.host, spec.port)
    plan = size(spec, facts, host, choice.engine, port)
    return Decision(facts, choice, plan, python, launch(spec, facts, plan, python, port))
