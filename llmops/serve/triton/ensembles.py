"""The graph of an ensemble: every step's model is there, every tensor is produced, types and batch sizes agree. Pure."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field

from llmops.errors import did_you_mean
from llmops.findings import Finding
from llmops.serve.triton.pbtxt import Message


@dataclass(frozen=True, slots=True)
class ModelDir:
    """One directory of a repository, as the disk shows it.

    Attributes:
        config: The parsed configuration; None when there is no config.pbtxt.
        file: Name of the configuration for messages.
        versions: Version directory -> names of the files in it.
        readable: False when there is a configuration that cannot be parsed.
    """

    name: str
    config: Message | None
    file: str
    versions: Mapping[str, frozenset[str]] = field(default_factory=dict)
    readable: bool = True


def is_ensemble(config: Message) -> bool:
    """Whether it only connects other models."""
    return str(config.get("platform")) == "ensemble"


@dataclass(frozen=True, slots=True)
class _Ensemble:
    """One ensemble being checked.

    Attributes:
        made: Tensor -> its type (empty when the model's own file says it) and who produces it.
    """

    model: ModelDir
    config: Message
    models: Mapping[str, ModelDir]
    made: Mapping[str, tuple[str, str]]

    def error(self, rule: str, message: str, at: Message, name: str = "", remedy: str | None = None) -> Finding:
        """A finding about this ensemble, at a part of its configuration."""
        text = f"{self.model.name}: {message}"
        return Finding(f"ensemble-{rule}", "error", text, remedy, self.model.file, at.line_of(name), at.column_of(name))


def check_ensemble(model: ModelDir, config: Message, models: Mapping[str, ModelDir]) -> Iterator[Finding]:
    """Everything about one ensemble. Triton needs no order of steps: a tensor may come from any of them."""
    steps = config.get("ensemble_scheduling").get("step")
    made, twice = _made(config, models)
    ensemble = _Ensemble(model, config, models, made)
    if not steps:
        yield ensemble.error("steps", "it is an ensemble without steps", config, "ensemble_scheduling")
        return
    for tensor, first, second, step in twice:
        yield ensemble.error("tensor-twice", f"the tensor {tensor!r} is produced by {first} and by {second}", step)
    for step in steps:
        yield from _check_step(ensemble, step)
    yield from _check_ends(ensemble, steps)


def _made(
    config: Message, models: Mapping[str, ModelDir]
) -> tuple[dict[str, tuple[str, str]], list[tuple[str, str, str, Message]]]:
    """Who produces each tensor, and tensors that two models produce."""
    made = {str(t.get("name")): (str(t.get("data_type")), "the ensemble's input") for t in config.get("input")}
    twice = []
    for step in config.get("ensemble_scheduling").get("step"):
        target = models.get(str(step.get("model_name")))
        if target is None or target.config is None:
            made |= {ours: ("", str(step.get("model_name"))) for ours in step.map("output_map").values()}
            continue
        outputs = {str(t.get("name")): str(t.get("data_type")) for t in target.config.get("output")}
        for theirs, ours in step.map("output_map").items():
            if ours in made and made[ours][1] != target.name:
                twice.append((ours, made[ours][1], target.name, step))
            made[ours] = (outputs.get(theirs, ""), target.name)
    return made, twice


def _check_ends(ensemble: _Ensemble, steps: list[Message]) -> Iterator[Finding]:
    """The ensemble's own inputs are used, and its outputs are produced in the declared type."""
    made = ensemble.made
    for tensor in ensemble.config.get("output"):
        name, kind = str(tensor.get("name")), str(tensor.get("data_type"))
        if name not in made:
            yield ensemble.error(
                "output", f"its output {name!r} is produced by no step", tensor, remedy=did_you_mean(name, made)
            )
        elif made[name][0] and made[name][0] != kind:
            text = f"its output {name!r} is declared {kind}, {made[name][1]} produces {made[name][0]}"
            yield ensemble.error("type", text, tensor, "data_type", f"data_type: {made[name][0]}")
    used = {ours for step in steps for ours in step.map("input_map").values()}
    for tensor in ensemble.config.get("input"):
        if str(tensor.get("name")) not in used:
            yield ensemble.error("input", f"its input {tensor.get('name')!r} is used by no step", tensor)


def _check_step(ensemble: _Ensemble, step: Message) -> Iterator[Finding]:
    name = str(step.get("model_name"))
    target = ensemble.models.get(name)

    def error(rule: str, message: str, remedy: str | None = None) -> Finding:
        return ensemble.error(rule, f"step {name}: {message}", step, "model_name" if rule == "model" else "", remedy)

    if target is None:
        hint = did_you_mean(name, ensemble.models)
        yield error("model", "there is no model of that name in the repository", hint)
        return
    version = int(step.get("model_version"))
    if version > 0 and str(version) not in target.versions:
        yield error("version", f"it has no version {version}", "model_version: -1")
    if target.config is None or not target.config.get("input"):
        return  # the server completes it from the model's own file
    most, least = int(ensemble.config.get("max_batch_size")), int(target.config.get("max_batch_size"))
    if most > least:
        text = f"the ensemble's max_batch_size {most} is larger than its own {least}"
        yield error("batch-size", text, f"max_batch_size: {least} in {ensemble.model.name}")
    yield from (error(*found) for found in _check_inputs(ensemble, step, target.config))
    outputs = {str(t.get("name")) for t in target.config.get("output")}
    for theirs in step.map("output_map"):
        if theirs not in outputs:
            yield error("no-output", f"it has no output {theirs!r}", did_you_mean(theirs, outputs))


def _check_inputs(ensemble: _Ensemble, step: Message, config: Message) -> Iterator[tuple[str, str, str | None]]:
    """Rule, message and remedy for each input of a step that does not fit."""
    inputs = {str(t.get("name")): t for t in config.get("input")}
    mapped, made = step.map("input_map"), ensemble.made
    for theirs, ours in mapped.items():
        if theirs not in inputs:
            yield "no-input", f"it has no input {theirs!r}", did_you_mean(theirs, inputs)
        elif ours not in made:
            yield (
                "not-produced",
                f"the tensor {ours!r} is produced by no step and is no input",
                did_you_mean(ours, made),
            )
        elif made[ours][0] and made[ours][0] != inputs[theirs].get("data_type"):
            want = inputs[theirs].get("data_type")
            yield "type", f"{theirs} is {want}, but {ours!r} is {made[ours][0]} from {made[ours][1]}", None
    for theirs, tensor in inputs.items():
        if theirs not in mapped and not tensor.get("optional"):
            yield "unmapped", f"its input {theirs!r} is not mapped", f'input_map {{ key: "{theirs}" value: "…" }}'


def cycles(models: Mapping[str, ModelDir]) -> tuple[Finding, ...]:
    """An ensemble may not contain itself, not even through another."""
    steps = {
        name: [str(step.get("model_name")) for step in model.config.get("ensemble_scheduling").get("step")]
        for name, model in models.items()
        if model.config is not None and is_ensemble(model.config)
    }
    found = []
    for name, first in steps.items():
        reached: set[str] = set()
        todo = list(first)
        while todo:
            each = todo.pop()
            if each not in reached:
                reached.add(each)
                todo += steps.get(each, [])
        if name in reached:
            text = f"{name}: the ensemble contains itself"
            found.append(Finding("ensemble-cycle", "error", text, None, models[name].file, 1))
    return tuple(found)
