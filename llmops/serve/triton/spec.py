"""What a user asks of a Triton server, and what is known of the model it serves."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from llmops.checkpoint.onnx_file import OnnxTensor
from llmops.errors import UsageError

Middle = Literal["python", "onnxruntime", "tensorrt", "vllm"]
ServedTask = Literal["causal-lm", "causal-lm-cache", "embedding", "classification"]
# A guide's figure: how long a request may wait for others to share its batch with.
QUEUE_DELAY_MS: Final = 100
RECORD: Final = "export.json"


class TritonSpec(BaseModel):
    """One Triton server.

    Attributes:
        model: A directory that ``llmops export onnx`` made (with ``model.plan`` beside for an engine), a checkpoint for the vllm
            backend, or None to serve ``repository`` as it is.
        repository: Where the model repository is or will be; None: in the state directory.
        name: The streaming model's name and the ensemble's prefix; the directory's name when None.
        mode: ``local`` is a tritonserver on this machine, ``docker`` a container; ``auto`` prefers local.
        middle: Who computes: ``tensorrt`` and ``onnxruntime`` need those backends in the server, ``python`` runs ONNX Runtime
            inside the Python backend, ``vllm`` is the vLLM backend; ``auto`` takes what the server has.
        max_batch_size: Most requests in a batch.
        preferred: Batch sizes that are run at once.
        queue_delay_ms: How long the batcher waits for more.
        instances: Copies of the computing step.
        ensemble: Make the text -> text ensemble.
        stream: Make the streaming model.
        max_tokens: Tokens of an answer when the request does not say.
        host: Address to listen on.
        image: Container image; None follows the installed version's line.
        threads: CPU threads of one copy of the model.
        server: A tritonserver program of one's own.
        engine_python: Interpreter of an environment with nvidia-pytriton.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    model: Path | None = None
    repository: Path | None = None
    name: str | None = None
    mode: Literal["auto", "local", "docker"] = "auto"
    middle: Literal["auto", "python", "onnxruntime", "tensorrt", "vllm"] = "auto"
    max_batch_size: int = Field(default=16, ge=1)
    preferred: tuple[int, ...] = (8, 16)
    queue_delay_ms: float = Field(default=QUEUE_DELAY_MS, ge=0)
    instances: int = Field(default=1, ge=1)
    ensemble: bool = True
    stream: bool = True
    max_tokens: int = Field(default=128, ge=1)
    host: str = "127.0.0.1"
    http_port: int = Field(default=8000, ge=0, le=65535)
    grpc_port: int = Field(default=8001, ge=0, le=65535)
    metrics_port: int = Field(default=8002, ge=0, le=65535)
    image: str | None = None
    threads: int | None = Field(default=None, ge=1)
    server: Path | None = None
    engine_python: Path | None = None
    ready_timeout_s: float | None = Field(default=None, gt=0)
    log: Path | None = None


def spec_from(values: dict[str, Any]) -> TritonSpec:
    """A spec from the command line's values; what is None is left to the defaults.

    Raises:
        UsageError: A value is out of range.
    """
    try:
        return TritonSpec(**{name: value for name, value in values.items() if value is not None})
    except ValidationError as error:
        first = error.errors()[0]
        option = "--" + str(first["loc"][0]).removesuffix("_s").replace("_", "-")
        raise UsageError(f"{option}: {first['msg']}", "llmops serve --help") from error


@dataclass(frozen=True, slots=True)
class Served:
    """What the files of an exported model say. Every name comes from ``export.json``.

    Attributes:
        max_tokens: Longest sequence.
        eos: Ids that end a text.
        has_plan: A TensorRT engine lies beside the graph.
        defaults: Sampling parameters of generation_config.json.
    """

    directory: Path
    task: ServedTask
    inputs: tuple[OnnxTensor, ...]
    outputs: tuple[OnnxTensor, ...]
    max_tokens: int
    max_batch: int
    eos: tuple[int, ...]
    head_dim: int
    files: tuple[str, ...]
    has_plan: bool
    has_segments: bool = False


def read_served(directory: Path) -> Served:
    """Read an exported directory.

    Raises:
        UsageError: It is none, or it lacks the tokenizer.
    """
    record = directory / RECORD
    if not record.is_file():
        hint = f"llmops export onnx {directory} -o {directory.name}-onnx, then serve that"
        raise UsageError(f"{directory} is not an exported model: it has no {RECORD}", hint)
    try:
        said = json.loads(record.read_text(encoding="utf-8"))
        inputs, outputs = (tuple(_tensor(each) for each in said[side]) for side in ("inputs", "outputs"))
        task, dims = said["task"], said["dimensions"]
        limit, rows = int(dims["sequence"][1]), int(dims["batch"][1])
    except (ValueError, KeyError, TypeError, IndexError) as error:
        raise UsageError(f"{record} cannot be read: {error!r}", "export the model again") from error
    if not (directory / "tokenizer.json").is_file():
        raise UsageError(
            f"{directory} has no tokenizer.json",
            "save the checkpoint's tokenizer in the fast format and export it again",
        )
    names = tuple(sorted(path.name for path in directory.iterdir() if path.is_file()))
    return Served(
        directory=directory,
        task=task,
        inputs=inputs,
        outputs=outputs,
        max_tokens=limit,
        max_batch=rows,
        eos=_eos(directory),
        head_dim=_head_dim(directory),
        files=names,
        has_plan="model.plan" in names,
        has_segments=any(tensor.name == "token_type_ids" for tensor in inputs),
    )


def _tensor(value: Any) -> OnnxTensor:
    dims = value["dims"]
    return OnnxTensor(value["name"], value["dtype"], None if dims is None else tuple(dims))


def _eos(directory: Path) -> tuple[int, ...]:
    """Ids that end a text: generation_config.json before config.json."""
    for name in ("generation_config.json", "config.json"):
        file = directory / name
        value = json.loads(file.read_text(encoding="utf-8")).get("eos_token_id") if file.is_file() else None
        if value is not None:
            return tuple(int(each) for each in (value if isinstance(value, list) else [value]))
    return ()


def _head_dim(directory: Path) -> int:
    file = directory / "config.json"
    if not file.is_file():
        return 0
    config = json.loads(file.read_text(encoding="utf-8"))
    text = config.get("text_config", config)
    heads = int(text.get("num_attention_heads") or 0)
    return int(text.get("head_dim") or (int(text.get("hidden_size") or 0) // heads if heads else 0))
