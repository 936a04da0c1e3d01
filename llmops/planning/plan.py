"""``plan``: what to serve where. Pure: facts in, decisions out."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Final

from llmops.checkpoint.facts import ModelFacts
from llmops.errors import MachineError, UsageError
from llmops.findings import Finding
from llmops.hardware.host import Host
from llmops.planning.calibration import Measured
from llmops.planning.cpu import plan_on_cpu
from llmops.planning.gpu import plan_on_gpus
from llmops.planning.packing import pack
from llmops.planning.types import ModelPlan, PlanSpec, ServePlan

# A shorter context is suggested in steps of this many tokens, and only down to what still holds a conversation.
_STEP: Final = 16
_USEFUL_LENGTH: Final = 512


def plan(spec: PlanSpec, models: Sequence[ModelFacts], host: Host, *, measured: tuple[Measured, ...] = ()) -> ServePlan:
    """Decide how to serve ``models`` together on ``host``.

    ``measured`` are earlier starts on this machine (``calibration.load``): the same start is then planned exactly.

    A plan that does not fit is returned with ``ok`` False, the shortfall and remedies; it is not an exception.

    Raises:
        UsageError: Something fixed in ``spec`` is impossible for a model.
        MachineError: The machine's GPUs cannot run the engine or the kind of model.
    """
    if not models:
        raise UsageError("no model is given", "llmops plan MODEL")
    for facts in models:
        _check(facts)
    specs = [_spec_for(spec, facts) for facts in models]
    _check_names(specs, models)
    plans = _plans(specs, list(models), host, measured)
    each = zip(specs, plans, strict=True)
    findings = (*_about(host, plans), *(found for own, one in each for found in findings_of_plan(one, own.concurrency)))
    return ServePlan(tuple(plans), host.name, all(one.fits for one in plans), findings)


def _plans(
    specs: list[PlanSpec], models: list[ModelFacts], host: Host, measured: tuple[Measured, ...]
) -> list[ModelPlan]:
    on_gpu = [wants_gpu(facts, spec, host) for facts, spec in zip(models, specs, strict=True)]
    cpu_count = on_gpu.count(False)
    shares = pack([(facts, spec) for facts, spec, gpu in zip(models, specs, on_gpu, strict=True) if gpu], host)
    plans: list[ModelPlan] = []
    port = base = specs[0].port
    for facts, spec, gpu in zip(models, specs, on_gpu, strict=True):
        port = spec.port if spec.port != base else port  # a model's own port; else the next free one
        if gpu:
            one = plan_on_gpus(facts, spec, host, shares.pop(0), port=port, measured=measured)
        else:
            one = plan_on_cpu(facts, spec, host, port=port, memory_share=1 / cpu_count, measured=measured)
        plans.append(one)
        port += len(one.ports)
    return plans


def wants_gpu(facts: ModelFacts, spec: PlanSpec, host: Host) -> bool:
    """Whether this model goes to the GPUs: there are some, and neither the engine nor the model says otherwise."""
    if spec.engine in ("transformers", "llamacpp") or facts.format == "gguf":
        return False
    if not host.usable_gpus:
        if spec.tensor_parallel and spec.tensor_parallel > 1:
            raise MachineError("tensor parallelism needs GPUs, and this machine has none to use", "llmops gpus")
        return False
    return facts.is_generative or spec.engine == "vllm"


def _check(facts: ModelFacts) -> None:
    if facts.format == "lora":
        base = facts.lora.base_model if facts.lora else None
        raise UsageError(
            f"{facts.name} is a LoRA adapter, not a model", f"llmops plan {base or 'BASE'} --lora NAME={facts.path}"
        )
    broken = next((finding for finding in facts.findings if finding.severity == "error"), None)
    if broken:
        raise UsageError(f"{facts.name}: {broken.message}", broken.remedy)
    if not facts.layers or not facts.hidden:
        raise UsageError(f"the shape of {facts.name} is not known, so its memory cannot be planned", "llmops inspect")


def _check_names(specs: list[PlanSpec], models: Sequence[ModelFacts]) -> None:
    names = [spec.served_name or facts.name for spec, facts in zip(specs, models, strict=True)]
    for name in names:
        if names.count(name) > 1:
            raise UsageError(f"two models would be served as {name!r}", "give each its own name")


def _spec_for(spec: PlanSpec, facts: ModelFacts) -> PlanSpec:
    own = spec.per_model.get(facts.name) or spec.per_model.get(str(facts.path))
    return spec.model_copy(update={**own, "per_model": {}}) if own else spec


def _about(host: Host, plans: list[ModelPlan]) -> list[Finding]:
    """What is wrong with the machine and matters to these plans, as warnings: the plan itself takes it into account."""
    several = any(one.tensor_parallel > 1 for one in plans)
    broken = [finding for finding in host.findings if finding.severity == "error"]
    small = [finding for finding in host.findings if finding.rule == "small-shm" and several]
    return [replace(finding, severity="warning") for finding in (*broken, *small)]


def findings_of_plan(one: ModelPlan, wanted: int | None = None) -> list[Finding]:
    """That a plan does not fit, or holds too few requests: fewer than were ``wanted`` at once, where that was said."""
    if one.shortfall_gib is not None:
        where = ("the GPU" if len(one.gpus) == 1 else f"each of {len(one.gpus)} GPUs") if one.gpus else "main memory"
        message = f"{one.name} does not fit: {where} lacks {one.shortfall_gib:.2f} GiB for {one.max_model_len} tokens"
        return [Finding("does-not-fit", "error", message, "; or ".join(one.remedies) or None)]
    if one.max_concurrency is not None and one.max_concurrency < 1.2 and one.gpus:
        message = f"{one.name}: only {one.max_concurrency:g} requests of full length fit at once"
        return [Finding("low-concurrency", "warning", message, "lower --max-model-len, or use --kv-cache-dtype fp8")]
    return _below(one, wanted) if wanted else []


def _below(one: ModelPlan, wanted: int) -> list[Finding]:
    """Requests of full length at once over all replicas, against those that were asked for."""
    if one.max_concurrency is None or one.max_concurrency * one.replicas >= wanted:
        return []
    held = f"{one.max_concurrency * one.replicas:.1f}".removesuffix(".0")
    length = (one.kv_tokens or 0) * one.replicas // wanted // _STEP * _STEP
    shorter = f"--max-model-len {length} holds them all; or " if length >= _USEFUL_LENGTH else ""
    return [
        Finding(
            "low-concurrency",
            "warning",
            f"{one.name}: {held} of the {wanted} requests of {one.max_model_len} tokens fit at once, the others wait",
            f"{shorter}more GPUs, --kv-cache-dtype fp8, or quantised weights",
        )
    ]
