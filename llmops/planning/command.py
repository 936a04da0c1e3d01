"""What ``llmops plan`` runs: reads the facts, then plans."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from llmops.checkpoint.reader import read_model
from llmops.engines import engine_version, environment
from llmops.errors import UsageError
from llmops.findings import Finding
from llmops.hardware.report import choose_host
from llmops.planning import calibration
from llmops.planning.plan import plan
from llmops.planning.types import LoraSpec, PlanSpec, ServePlan


@dataclass(frozen=True, slots=True)
class PlanReport:
    """A plan with how it is to be shown."""

    plan: ServePlan
    explain: bool = False

    @property
    def ok(self) -> bool:
        """Whether every model fits."""
        return self.plan.ok

    @property
    def findings(self) -> tuple[Finding, ...]:
        """What does not fit, and what is tight."""
        return self.plan.findings

    def data(self) -> dict[str, Any]:
        """The plan as JSON."""
        return {"host": self.plan.host, "models": self.plan.models}


def make_plan(
    models: Sequence[Path],
    options: dict[str, Any],
    *,
    loras: Sequence[str] = (),
    host_file: Path | None = None,
    gpu: str | None = None,
    explain: bool = False,
) -> PlanReport:
    """Read models and machine, then plan.

    Args:
        models: Paths as ``read_model`` takes them.
        options: Fields of ``PlanSpec``; None leaves the decision open.
        loras: Adapters as ``NAME=DIR``.
        host_file: A machine described in a file.
        gpu: A machine as a list of cards.
        explain: Show every term of the memory account.

    Raises:
        UsageError: A path is no model, an option is impossible, or the machine's description is wrong.
        MachineError: The machine cannot run the engine or the kind of model.
    """
    adapters = tuple(parse_lora(text) for text in loras)
    rank = max((_rank(adapter) for adapter in adapters), default=None)
    spec = make_spec({**options, "loras": adapters, "max_lora_rank": rank})
    facts = [read_model(path) for path in models]
    host = choose_host(host_file, gpu)
    if host.source == "detected" and spec.engine_version is None:
        spec = spec.model_copy(update={"engine_version": _installed_vllm()})
    measured = calibration.load(calibration.default_path()) if host.source == "detected" else ()
    return PlanReport(plan(spec, facts, host, measured=measured), explain)


def _installed_vllm() -> str | None:
    """The release in vLLM's environment of this machine: its memory rules are the ones that will hold."""
    there = environment("vllm")
    return engine_version("vllm", there.python) if there.state == "ready" else None


def make_spec(options: dict[str, Any]) -> PlanSpec:
    """A validated spec from options; None values are left out.

    Raises:
        UsageError: A value is out of range or not one of the choices.
    """
    given = {name: value for name, value in options.items() if value is not None}
    try:
        return PlanSpec(**given)
    except ValidationError as error:
        first = error.errors()[0]
        field = str(first["loc"][0]) if first["loc"] else "option"
        flag = "--" + {"goal": "for"}.get(field, field).replace("_", "-")
        raise UsageError(f"{flag} {first.get('input')!r}: {first['msg']}", "llmops plan --help") from error


def parse_lora(text: str) -> LoraSpec:
    """``NAME=DIR`` as an adapter.

    Raises:
        UsageError: It has another form.
    """
    name, equals, path = text.partition("=")
    if not (name and equals and path):
        raise UsageError(f"--lora {text!r} has no name", "write it as --lora NAME=DIR")
    return LoraSpec(name=name, path=path)


def _rank(adapter: LoraSpec) -> int:
    facts = read_model(Path(adapter.path))
    if facts.lora is None:
        raise UsageError(f"{adapter.path} is not a LoRA adapter", "it needs adapter_config.json")
    broken = next((finding for finding in facts.findings if finding.severity == "error"), None)
    if broken:
        raise UsageError(f"{adapter.path}: {broken.message}", broken.remedy)
    return facts.lora.rank
