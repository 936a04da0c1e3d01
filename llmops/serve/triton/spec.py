"""What a user asks of a Triton server, and what is known of the model it serves."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from llmops.checkpoint.onnx_facts import OnnxTensor
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
        max_model_len: Longest text plus answer in tokens; None: what the graph or the model takes.
        dtype, tensor_parallel, gpu_memory_utilization, enforce_eager: For the vLLM backend, which passes them on.
        extra: Words for tritonserver itself.
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
    max_model_len: int | None = Field(default=None, ge=16)
    dtype: Literal["auto", "bfloat16", "float16", "float32"] = "auto"
    tensor_parallel: int | None = Field(default=None, ge=1)
    gpu_memory_utilization: float | None = Field(default=None, gt=0, le=1)
    enforce_eager: bool | None = None
    extra: tuple[str, ...] = ()

    @property
    def served_name(self) -> str:
        """What the streaming model is called, and the ensemble's prefix."""
        path = self.model or self.repository
        return self.name or (path.absolute().name if path else "triton")


# Options of other engines, and why Triton has none of them.
_FOREIGN: Final = {
    "loras": ("--lora", "export the merged model, or --engine vllm"),
    "kv_cache_gib": ("--kv-cache-gib", "the cache grows with the batch; --max-num-seqs bounds it"),
    "chat_template": ("--chat-template", "the exported directory's own chat_template.jinja is used"),
    "api_key_env": ("--api-key-env", "Triton checks no keys: llmops gateway in front of it does"),
    "config": ("--config", "one llmops serve --engine triton for each, or a --repository with all models"),
}
_UNUSED: Final = ("engine", "max_lora_rank")
_OF_VLLM: Final = {
    "dtype": "--dtype", "tensor_parallel": "--tensor-parallel", "enforce_eager": "--eager",
    "gpu_memory_utilization": "--gpu-memory-utilization",
}  # fmt: skip
_OPTIONS: Final = {
    "middle": "--triton-backend",
    "max_batch_size": "--max-num-seqs",
    "ready_timeout_s": "--ready-timeout",
}


def spec_from(values: dict[str, Any]) -> TritonSpec:
    """A spec from the command line's values, those of other engines among them; what is None is left to the defaults.

    Raises:
        UsageError: A value is out of range, or an option is another engine's.
    """
    given = _given(values)
    try:
        return TritonSpec(**given)
    except ValidationError as error:
        first = error.errors()[0]
        name = str(first["loc"][0])
        option = _OPTIONS.get(name, "--" + name.replace("_", "-"))
        if first["type"] == "extra_forbidden":
            raise UsageError(f"{option} is not of --engine triton", f"leave {option} out") from error
        raise UsageError(f"{option}: {first['msg']}", "llmops serve --help") from error


def _given(values: dict[str, Any]) -> dict[str, Any]:
    """Values by the spec's own names."""
    for name, (option, hint) in _FOREIGN.items():
        if values.get(name):
            raise UsageError(f"{option} is not of --engine triton", hint)
    given = {name: value for name, value in values.items() if value is not None and name not in (*_FOREIGN, *_UNUSED)}
    if str(given.get("model", "")).startswith("-"):  # without a model the first word after -- takes its place
        given["extra"] = (str(given.pop("model")), *given.get("extra", ()))
    port = given.pop("port", None)
    if port is not None:
        given.setdefault("http_port", port)
    if "max_num_seqs" in given:
        given["max_batch_size"] = given.pop("max_num_seqs")
    if "preferred" in given:
        given["preferred"] = _sizes(given["preferred"])
    if given.get("middle") != "vllm":
        for name, option in _OF_VLLM.items():
            if given.get(name, "auto") != "auto":
                raise UsageError(f"{option} needs Triton's vLLM backend", "--triton-backend vllm, or leave it out")
    return given


def _sizes(text: str) -> tuple[int, ...]:
    if not all(part.strip().isdecimal() for part in text.split(",")):
        raise UsageError(f"--preferred {text}: not batch sizes", "--preferred 8,16")
    return tuple(int(part) for part in text.split(","))


@dataclass(frozen=True, slots=True)
class Served:
    """What the files of an exported model say. Every name comes from ``export.json``.

    Attributes:
        max_tokens: Longest sequence.
        eos: Ids that end a text.
        has_plan: A TensorRT engine lies beside the graph.
        plan_profiles: How many profiles that engine has.
        version_compatible: It was built for later versions of TensorRT too.
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
    plan_profiles: int = 1
    version_compatible: bool = False


def read_served(directory: Path) -> Served:
    """Read an exported directory.

    Raises:
        UsageError: It is none, or it lacks the tokenizer.
    """
    record = directory / RECORD
    if not directory.is_dir():
        raise UsageError(f"there is no directory {directory}", "give one that llmops export onnx made")
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
    _require_whole(directory, said.get("files") or {})
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


def _require_whole(directory: Path, files: dict[str, Any]) -> None:
    """Graph and weights have the sizes that the export wrote; a cut-off copy is found before a server starts."""
    for name, said in files.items():
        if not name.startswith("model.onnx"):
            continue
        file = directory / name
        size = file.stat().st_size if file.is_file() else None
        if size != said.get("size_bytes"):
            found = "is missing" if size is None else f"has {size} bytes, {said.get('size_bytes')} were exported"
            raise UsageError(f"{file} {found}", "copy the exported directory again, whole")


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
