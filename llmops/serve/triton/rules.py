"""The rules that Triton applies when it loads a repository, and those of the ensemble graph. Pure.

A configuration can be well-formed text and still be refused by the server; each such case is found here, with file and line.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Final

from llmops.errors import did_you_mean
from llmops.findings import Finding
from llmops.serve.triton.ensembles import ModelDir, check_ensemble, cycles, is_ensemble
from llmops.serve.triton.pbtxt import Message

# Platform names and the backends that stand for the same.
PLATFORMS: Final = {
    "ensemble": "",
    "tensorrt_plan": "tensorrt",
    "onnxruntime_onnx": "onnxruntime",
    "pytorch_libtorch": "pytorch",
    "tensorflow_graphdef": "tensorflow",
    "tensorflow_savedmodel": "tensorflow",
}
# Backend -> the file it loads from a version directory.
FILES: Final = {"python": "model.py", "vllm": "model.json", "onnxruntime": "model.onnx", "tensorrt": "model.plan",
                "pytorch": "model.pt", "openvino": "model.xml"}  # fmt: skip
# Backends that complete a missing configuration from the model itself.
COMPLETING: Final = ("onnxruntime", "tensorrt", "openvino", "tensorflow", "python", "vllm", "tensorrtllm")


def check_models(models: Mapping[str, ModelDir], backends: frozenset[str] | None = None) -> tuple[Finding, ...]:
    """All findings of a repository.

    Args:
        models: By directory name.
        backends: Backends that the target server has; None when that is not known.
    """
    found: list[Finding] = []
    for model in models.values():
        if model.config is None:
            found += _without_config(model) if model.readable else ()
            continue
        found += check_model(model, model.config, backends)
    for model in models.values():
        if model.config is not None and is_ensemble(model.config):
            found += check_ensemble(model, model.config, models)
    return tuple(found) + cycles(models)


def backend_of(config: Message) -> str:
    """The backend, whether it is named directly or as a platform; empty for an ensemble."""
    platform = str(config.get("platform"))
    return str(config.get("backend")) or PLATFORMS.get(platform, platform)


def _without_config(model: ModelDir) -> Iterator[Finding]:
    files = {name for names in model.versions.values() for name in names}
    if not model.versions:
        yield Finding("triton-no-config", "error", f"{model.name} has neither config.pbtxt nor a version directory",
                      f"remove it, or add {model.name}/config.pbtxt and {model.name}/1/", model.file)  # fmt: skip
    elif not files & {"model.onnx", "model.plan", "model.savedmodel", "model.xml"}:
        yield Finding("triton-no-config", "error", f"{model.name} has no config.pbtxt, and its files cannot say it themselves",
                      f"add {model.name}/config.pbtxt", model.file)  # fmt: skip


def check_model(model: ModelDir, config: Message, backends: frozenset[str] | None) -> Iterator[Finding]:
    """The rules for one model alone."""

    def error(rule: str, message: str, name: str, remedy: str | None = None) -> Finding:
        return Finding(
            f"triton-{rule}",
            "error",
            f"{model.name}: {message}",
            remedy,
            model.file,
            config.line_of(name),
            config.column_of(name),
        )

    named = str(config.get("name"))
    if named and named != model.name:
        yield error("name", f"its name is {named!r}, its directory's another", "name", f'name: "{model.name}"')
    backend = backend_of(config)
    platform = str(config.get("platform"))
    if not backend and not is_ensemble(config):
        yield error("backend", "neither backend nor platform is set", "backend", 'backend: "python", for example')
    if platform and platform not in PLATFORMS and not config.has("backend"):
        yield error("platform", f"there is no platform {platform!r}", "platform", did_you_mean(platform, PLATFORMS))
    if backends is not None and backend and backend not in backends:
        have = ", ".join(sorted(backends)) or "none"
        yield error("backend-missing", f"the server has no backend {backend!r}", "backend", f"it has: {have}")
    yield from _check_versions(model, config, backend)
    if int(config.get("max_batch_size")) < 0:
        yield error("batch-size", "max_batch_size is negative", "max_batch_size", "0 or more")
    yield from _check_tensors(model, config, backend)
    yield from _check_batching(model, config)
    for group in config.get("instance_group"):
        if int(group.get("count")) < 0:
            yield error("instances", "an instance_group has a negative count", "instance_group", "1 or more")
        if group.get("kind") == "KIND_CPU" and group.get("gpus"):
            yield error("instances", "an instance_group is KIND_CPU and names GPUs", "instance_group", "KIND_GPU")


def _check_versions(model: ModelDir, config: Message, backend: str) -> Iterator[Finding]:
    if not model.versions:
        yield Finding("triton-version", "error", f"{model.name}: there is no version directory",
                      f"mkdir {model.name}/1", model.file, 1)  # fmt: skip
        return
    wanted = str(config.get("default_model_filename")) or FILES.get(backend, "")
    if wanted and not any(wanted in names for names in model.versions.values()):
        yield Finding("triton-file", "error", f"{model.name}: no version directory has {wanted}, which the backend "
                      f"{backend} loads", f"put it into {model.name}/1/", model.file, config.line_of("backend"), config.column_of("backend"))  # fmt: skip
    policy = config.get("version_policy")
    asked = [str(number) for number in policy.get("specific").get("versions")]
    for number in asked:
        if number not in model.versions:
            yield Finding("triton-version", "error", f"{model.name}: version_policy asks for version {number}, which is not there",
                          None, model.file, config.line_of("version_policy"), config.column_of("version_policy"))  # fmt: skip


def _check_tensors(model: ModelDir, config: Message, backend: str) -> Iterator[Finding]:
    for side in ("input", "output"):
        seen: set[str] = set()
        for tensor in config.get(side):
            for text, remedy in _tensor_mistakes(tensor, side, seen):
                message = f"{model.name}: {text}"
                yield Finding("triton-tensor", "error", message, remedy, model.file, tensor.line, tensor.column)
            seen.add(str(tensor.get("name")))
        completed = backend in COMPLETING or (is_ensemble(config) and not config.get("ensemble_scheduling"))
        if not config.get(side) and not completed:
            yield Finding("triton-tensor", "error", f"{model.name}: it has no {side}", None, model.file, 1, 1)


def _tensor_mistakes(tensor: Message, side: str, seen: set[str]) -> Iterator[tuple[str, str | None]]:
    """What is wrong with one input or output, and what would be right."""
    name, dims = str(tensor.get("name")), tensor.get("dims")
    where = f"{side} {name or '?'}"
    if not name:
        yield f"an {side} has no name", None
    elif name in seen:
        yield f"{where} stands twice", None
    if tensor.get("data_type") == "TYPE_INVALID":
        yield f"{where} has no data_type", "data_type: TYPE_FP32"
    if not dims and not tensor.has("reshape"):
        yield f"{where} has no dims", "dims: [ -1 ]"
    if any(dim == 0 or dim < -1 for dim in dims):
        yield f"{where}: dims must be positive, or -1 for any", None


def _check_batching(model: ModelDir, config: Message) -> Iterator[Finding]:
    batching = config.get("dynamic_batching")
    line, column = config.line_of("dynamic_batching"), config.column_of("dynamic_batching")
    most = int(config.get("max_batch_size"))
    if config.has("dynamic_batching"):
        if most == 0:
            yield Finding("triton-batching", "error", f"{model.name}: dynamic_batching needs max_batch_size > 0",
                          "max_batch_size: 16, or remove dynamic_batching", model.file, line, column)  # fmt: skip
        for size in batching.get("preferred_batch_size"):
            if size <= 0 or size > most > 0:
                yield Finding("triton-batching", "error", f"{model.name}: preferred_batch_size {size} does not lie in 1 to {most}",
                              f"max_batch_size: {max(size, 1)}", model.file, line, column)  # fmt: skip
        if is_ensemble(config):
            yield Finding("triton-batching", "error", f"{model.name}: an ensemble cannot have dynamic_batching",
                          "put it into the models of its steps", model.file, line, column)  # fmt: skip
        levels, default = int(batching.get("priority_levels")), int(batching.get("default_priority_level"))
        if levels and not 1 <= default <= levels:
            yield Finding("triton-batching", "error", f"{model.name}: default_priority_level must lie in 1 to {levels}",
                          None, model.file, line, column)  # fmt: skip
    decoupled = config.get("model_transaction_policy").get("decoupled")
    if decoupled and config.get("response_cache").get("enable"):
        yield Finding("triton-decoupled", "error", f"{model.name}: a decoupled model cannot use the response cache",
                      None, model.file, config.line_of("response_cache"), config.column_of("response_cache"))  # fmt: skip
