"""``llmops serve -c FILE``: several models of one machine, as YAML."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field

from llmops.planning.types import Dtype, Goal, KvDtype, LoraSpec
from llmops.recipes import Yaml, load_yaml, validate
from llmops.serve.spec import EngineChoice, ServeSpec

FIRST_PORT = 8000


class FleetModel(BaseModel):
    """One model. Paths are relative to the file's directory; None leaves a decision to the plan."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    model: Annotated[Path, Field(description="A checkpoint directory or a .gguf file")]
    engine: EngineChoice = "auto"
    port: Annotated[int | None, Field(ge=0, le=65535, description="Default: the next one")] = None
    goal: Goal = "throughput"
    max_model_len: Annotated[int | None, Field(ge=16)] = None
    max_num_seqs: Annotated[int | None, Field(ge=1)] = None
    dtype: Dtype = "auto"
    threads: Annotated[int | None, Field(ge=1)] = None
    kv_cache_gib: Annotated[float | None, Field(gt=0)] = None
    kv_cache_dtype: KvDtype | None = None
    quantization: str | None = None
    tensor_parallel: Annotated[int | None, Field(ge=1)] = None
    gpu_memory_utilization: Annotated[float | None, Field(gt=0, le=1)] = None
    enforce_eager: bool | None = None
    loras: Annotated[dict[str, Path], Field(description="Adapters by name")] = Field(default_factory=dict)
    max_lora_rank: Annotated[int | None, Field(ge=1)] = None
    chat_template: Path | None = None
    engine_python: Path | None = None
    image: Annotated[str | None, Field(description="A container image with vLLM")] = None
    replicas: Annotated[int | None, Field(ge=1, le=64, description="Copies that Ray runs")] = None
    alias: Annotated[tuple[str, ...], Field(description="Further names at the generated gateway")] = ()
    extra: Annotated[tuple[str, ...], Field(description="Flags passed to the engine as they are")] = ()


class FleetFile(BaseModel):
    """The whole file."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    host: str = "127.0.0.1"
    port: Annotated[int, Field(ge=0, le=65535, description="Of the first model; the next ones follow; 0: any")] = (
        FIRST_PORT
    )
    api_key_env: Annotated[str | None, Field(description="Variable with the key that clients must send")] = None
    models: Annotated[dict[str, FleetModel], Field(min_length=1, description="By the name that clients use")]


def read_fleet(path: Path) -> tuple[ServeSpec, ...]:
    """The models of a file, in its order.

    Raises:
        UsageError: The file is missing or wrong, with file:line.
    """
    document = load_yaml(path)
    file = validate(FleetFile, document)
    return tuple(_spec(file, name, index, path.parent, document) for index, name in enumerate(file.models))


def _spec(file: FleetFile, name: str, index: int, base: Path, document: Yaml) -> ServeSpec:
    one = file.models[name]
    model = base / one.model.expanduser()
    if not model.exists():
        raise document.error(("models", name, "model"), f"there is no model {model}", "paths are relative to this file")
    port = one.port if one.port is not None else file.port + index if file.port else 0
    values: dict[str, Any] = {
        field: getattr(one, field) for field in FleetModel.model_fields if field in ServeSpec.model_fields
    }
    values |= {
        "model": model,
        "name": name,
        "host": file.host,
        "port": port,
        "api_key_env": file.api_key_env,
        "loras": tuple(LoraSpec(name=lora, path=str(base / where)) for lora, where in one.loras.items()),
        "chat_template": base / one.chat_template if one.chat_template else None,
    }
    return ServeSpec(**values)
