"""What is refused before any work, each with its remedy. Pure: it sees facts, never a file.

Engines accept several of these silently (odd group sizes, too little text, a model that is quantised already) and die of
others late and without a cause; every one is found here from the configuration and the headers.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Final

from llmops.checkpoint.facts import ModelFacts
from llmops.errors import ExitCode
from llmops.findings import Finding
from llmops.hardware.host import Host
from llmops.quantize.estimates import Estimate, to_quantise
from llmops.quantize.groups import first_misfit, largest_group, ranks_of
from llmops.quantize.material import TextFacts
from llmops.quantize.methods import GROUP_SIZES, TARGETS, Format, Method, target_refusal
from llmops.quantize.options import FLOOR_TOKENS
from llmops.quantize.refusals import Refusal
from llmops.quantize.runtime import Runtime
from llmops.quantize.spec import QuantizeSpec
from llmops.units import format_size

GOOD_TOKENS: Final = 128 * 512


def check_model(spec: QuantizeSpec, method: Method, facts: ModelFacts) -> Iterator[Refusal]:
    """The checkpoint itself."""
    if facts.format not in ("hf", "gguf"):
        what = "a LoRA adapter" if facts.format == "lora" else f"a bare {facts.format} file"
        yield Refusal("model-format", f"{spec.model} is {what}", "give the directory of a whole model")
        return
    if not facts.complete:
        yield incomplete(spec.model, facts)
        return
    if facts.quantization is not None and facts.format != "gguf":
        yield Refusal(
            "already-quantised",
            f"{spec.model} is quantised already ({facts.quantization.method}, {facts.quantization.bits:g} bit)",
            "start from the original, unquantised checkpoint",
        )
    if not facts.is_generative:
        yield Refusal(
            "architecture", f"{facts.architecture} generates no text", "give a causal language model (…ForCausalLM)"
        )
    if not facts.tokenizer.present:
        yield Refusal(
            "tokenizer",
            f"{spec.model} has no tokenizer",
            "copy tokenizer.json and tokenizer_config.json beside the weights",
        )
    if method.calibrated and 0 < facts.context_length < spec.seq_len:
        yield Refusal(
            "seq-len",
            f"--seq-len {spec.seq_len} is longer than the model's context of {facts.context_length}",
            f"use --seq-len {facts.context_length} or less",
        )
    if spec.gate and 0 < facts.context_length < spec.quality.chunk_tokens:
        yield Refusal(
            "chunk-tokens",
            f"--chunk-tokens {spec.quality.chunk_tokens} is longer than the model's context of {facts.context_length}",
            f"use --chunk-tokens {facts.context_length} or less",
        )
    yield from check_shapes(spec, method, facts)


def incomplete(name: str, facts: ModelFacts) -> Refusal:
    """What is wrong with weights that are not whole or not readable."""
    worst = sorted(facts.findings, key=lambda found: found.severity != "error")
    text = worst[0].message if worst else "its weights are incomplete"
    remedy = (worst[0].remedy if worst else None) or "download the checkpoint again"
    return Refusal("model-incomplete", f"{name}: {text}", remedy)


def check_place(spec: QuantizeSpec, model: Path, taken: Iterable[Path]) -> Iterator[Refusal]:
    """The original must not lie where the result, or an older one that failed, is replaced."""
    for place in taken:
        if model.is_relative_to(place):
            yield Refusal(
                "output-is-model",
                f"the model {spec.model} lies in {place}, which this run replaces",
                "choose another --out, so that the original stays",
            )


def check_shapes(spec: QuantizeSpec, method: Method, facts: ModelFacts) -> Iterator[Refusal]:
    """Groups against every layer's width, whole and divided over tensor-parallel ranks."""
    layers = to_quantise(facts)
    if not layers:
        yield Refusal("architecture", f"{facts.architecture} has no linear layer to quantise", "check the checkpoint")
    if not method.grouped:
        return
    best = largest_group(facts, spec.tensor_parallel)
    group = best if spec.group_size is None else spec.group_size
    for degree in sorted({each for each in spec.tensor_parallel if each > 0}):
        layer = first_misfit(facts, group, degree) if group in GROUP_SIZES else None
        if layer is not None:
            share = f" on {degree} ranks" if ranks_of(layer, degree) > 1 else ""
            what = "groups of" if group != -1 else "rows in"
            yield Refusal(
                "group-size",
                f"{layer.name} has {layer.in_features} inputs{share}, which {what} {group} do not divide",
                f"use --group-size {best}" if best != group else "use --method bnb-nf4, or fewer ranks",
            )


def check_engine(facts: ModelFacts, runtime: Runtime) -> Iterator[Refusal]:
    """Whether the engine and its transformers know the architecture."""
    kind = facts.model_type
    if facts.config.get("auto_map") and kind not in runtime.model_types:
        yield Refusal(
            "remote-code",
            f"{facts.name} needs code from its own repository, which llmops does not run",
            "use a model whose architecture transformers has",
        )
    elif runtime.model_types and kind not in runtime.model_types:
        yield Refusal(
            "architecture",
            f"transformers {runtime.version('transformers')} does not know the model type {kind!r}",
            "check model_type in config.json, or install a newer engine",
        )
    elif runtime.engine_model_types and kind not in runtime.engine_model_types:
        yield Refusal(
            "architecture",
            f"{runtime.engine} {runtime.version(runtime.engine)} has no definition of the model type {kind!r}",
            "use --method bnb-nf4, or --engine llmcompressor",
        )


def check_text(method: Method, text: TextFacts | None) -> Iterator[Refusal]:
    """Calibration text that cannot be enough whatever the tokenizer: no token is shorter than a byte."""
    if method.calibrated and text is not None and text.size_bytes < FLOOR_TOKENS:
        yield Refusal(
            "calibration-too-short",
            f"--calibration {text.name} holds {text.size_bytes} bytes of text; at least {FLOOR_TOKENS} tokens are needed",
            "add text, or use --calibration builtin:ja-en",
        )


def check_gpu(device: str, host: Host, model_bytes: int) -> Iterator[Refusal]:
    """Whether the GPU is there and holds the original."""
    machine = ExitCode.MACHINE
    if device.startswith("cuda"):
        index = int(device.partition(":")[2] or 0)
        gpu = next((g for g in host.usable_gpus if g.index == index), None)
        if gpu is None:
            yield Refusal("device", f"there is no usable GPU for --device {device}", "use --device cpu", machine)
        elif gpu.free_bytes < model_bytes:
            yield Refusal(
                "gpu-memory",
                f"{gpu.name} has {format_size(gpu.free_bytes)} free, the model alone is {format_size(model_bytes)}",
                "stop what uses the GPU, or use --device cpu",
                machine,
            )


def check_machine(
    spec: QuantizeSpec, method: Method, host: Host, need: Estimate, *, free_disk_bytes: int, device: str
) -> Iterator[Refusal]:
    """The target, memory and disk."""
    machine = ExitCode.MACHINE
    if spec.target in TARGETS:
        refusal = target_refusal(made(spec, method), spec.target, host)
        if refusal:
            yield Refusal("target", refusal[0], refusal[1])
    yield from check_gpu(device, host, need.before_bytes)
    if host.memory.available_bytes < need.memory_bytes:
        yield Refusal(
            "memory",
            f"about {format_size(need.memory_bytes)} of memory are needed, {format_size(host.memory.available_bytes)} are free",
            "stop other programs, lower --samples, or use --method bnb-nf4",
            machine,
        )
    if free_disk_bytes < need.disk_bytes:
        yield Refusal(
            "disk",
            f"about {format_size(need.disk_bytes)} of disk are needed at {spec.out.parent}, {format_size(free_disk_bytes)} are free",
            "free some space, or choose another --out",
            machine,
        )


def made(spec: QuantizeSpec, method: Method) -> Format:
    """What the checkpoint will be. A whole row is one group, in which order means nothing."""
    return Format(method, spec.bits or method.bits[0], ordered=spec.desc_act and spec.group_size != -1)


def little_text(tokens: int, remedy: str) -> list[Finding]:
    """A warning when the calibration text is small."""
    if tokens >= GOOD_TOKENS:
        return []
    text = f"{tokens} tokens of calibration; {GOOD_TOKENS} are recommended"
    return [Finding("calibration-small", "warning", text, f"{remedy} for a model that is to be served")]


def warnings(spec: QuantizeSpec, method: Method, group: int, text: TextFacts | None, host: Host) -> tuple[Finding, ...]:
    """What does not stop the work but will matter."""
    found: list[Finding] = []
    if method.calibrated:
        found += little_text(spec.samples * spec.seq_len, "use --samples 128 --seq-len 512")
    if method.calibrated and text is not None and text.name.startswith("builtin:"):
        found.append(
            Finding(
                "calibration-builtin",
                "note",
                "the built-in text is general Japanese and English; text like your own requests calibrates better",
                "give --calibration FILE.jsonl with a few hundred of your own prompts and answers",
            )
        )
    refusal = target_refusal(made(spec, method), "vllm", host)
    if refusal and spec.target is None:
        found.append(Finding("target", "note", f"{refusal[0]}; transformers can", None))
    if method.grouped and spec.group_size is None and group != 128:
        found.append(
            Finding(
                "group-size",
                "note",
                f"{'a row' if group == -1 else group} is one group of weights: 128 do not divide every layer of this model",
            )
        )
    return tuple(found)
