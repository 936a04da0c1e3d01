"""What a user asks of ``llmops serve``."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from llmops.errors import UsageError
from llmops.planning.types import Dtype, Goal, KvDtype, LoraSpec

Engine = Literal["llamacpp", "transformers", "vllm", "ray", "trtllm"]
EngineChoice = Literal["auto", "llamacpp", "transformers", "vllm", "ray", "trtllm"]


class ServeSpec(BaseModel):
    """One model to serve. None leaves a decision to the plan.

    Attributes:
        model: A checkpoint directory or a .gguf file.
        engine: ``auto`` picks by file and hardware.
        name: The model name that clients use; the file's or directory's name when None.
        port: 0 picks a free one.
        chat_template: A jinja file that replaces the model's own template.
        kv_cache_gib: Memory for the KV cache on the CPU; vLLM takes whole GiB.
        enforce_eager: vLLM without compiled graphs; None: on the CPU, where compiling doubles the start.
        image: A container image with vLLM, instead of its environment.
        api_key_env: Name of the variable that holds the key which clients must send. The key itself is never a flag.
        quantization: bnb-nf4, bnb-int8 or fp8 while a plain model is loaded; after deciding, the engine's word for it.
        replicas: Copies of the model that Ray runs; None: one.
        ready_timeout_s: How long the start may take; None: by size and engine.
        log: Where the engine's output goes; None: a new file in the state directory.
        alias: Further names of the model at a gateway before it.
        extra: Flags passed to the engine as they are.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    model: Path
    engine: EngineChoice = "auto"
    name: str | None = None
    host: str = "127.0.0.1"
    port: int = Field(default=8000, ge=0, le=65535)
    goal: Goal = "throughput"
    max_model_len: int | None = Field(default=None, ge=16)
    max_num_seqs: int | None = Field(default=None, ge=1)
    dtype: Dtype = "auto"
    threads: int | None = Field(default=None, ge=1)
    kv_cache_gib: float | None = Field(default=None, gt=0)
    kv_cache_dtype: KvDtype | None = None
    quantization: str | None = None
    tensor_parallel: int | None = Field(default=None, ge=1)
    gpu_memory_utilization: float | None = Field(default=None, gt=0, le=1)
    enforce_eager: bool | None = None
    loras: tuple[LoraSpec, ...] = ()
    max_lora_rank: int | None = Field(default=None, ge=1)
    chat_template: Path | None = None
    engine_python: Path | None = None
    image: str | None = None
    api_key_env: str | None = None
    replicas: int | None = Field(default=None, ge=1, le=64)
    ready_timeout_s: float | None = Field(default=None, gt=0)
    log: Path | None = None
    alias: tuple[str, ...] = ()
    extra: tuple[str, ...] = ()

    @property
    def served_name(self) -> str:
        """The model name that clients use."""
        return self.name or (self.model.stem if self.model.suffix == ".gguf" else self.model.absolute().name)


def spec_from(values: dict[str, Any], for_triton: Mapping[str, Any] | None = None) -> ServeSpec:
    """A spec from the command line's values; ``for_triton`` holds options of that engine, which no other takes.

    Raises:
        UsageError: A value is out of range, or an adapter is not written as NAME=DIR.
    """
    for option in (name for name, value in (for_triton or {}).items() if value is not None):
        shown = {"middle": "triton-backend"}.get(option, option.replace("_", "-"))
        raise UsageError(f"--{shown} is of Triton alone", f"--engine triton, or leave --{shown} out")
    if values.get("model") is None:
        raise UsageError("no model is given", "llmops serve MODEL, or -c FILE for several")
    loras = []
    for text in values.pop("loras"):
        name, equals, path = text.partition("=")
        if not (name and equals and path):
            raise UsageError(f"--lora {text!r} is not NAME=DIR", "--lora french=./adapters/french")
        loras.append(LoraSpec(name=name, path=path))
    try:
        return ServeSpec(**values, loras=tuple(loras))
    except ValidationError as error:
        first = error.errors()[0]
        option = "--" + str(first["loc"][0]).removesuffix("_s").replace("_", "-")
        raise UsageError(f"{option}: {first['msg']}", "llmops serve --help") from error
