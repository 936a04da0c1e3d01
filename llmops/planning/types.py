"""What a plan is made from, and what it says."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from llmops.findings import Finding

EngineName = Literal["vllm", "transformers", "llamacpp"]
Goal = Literal["latency", "throughput", "context"]
# As vLLM takes them; a float32 model has a float32 cache by "auto".
KvDtype = Literal["auto", "bfloat16", "float16", "fp8", "fp8_e4m3", "fp8_e5m2"]
Dtype = Literal["auto", "bfloat16", "float16", "float32"]


class LoraSpec(BaseModel):
    """One adapter to serve beside the base model."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: str
    path: str


class PlanSpec(BaseModel):
    """What the user fixes; None leaves a decision to the planner.

    With several models the values hold for each of them; ``per_model`` overrides by model name.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    engine: EngineName | None = None
    engine_version: str | None = None
    goal: Goal = "throughput"
    served_name: str | None = None
    tensor_parallel: int | None = Field(default=None, ge=1)
    pipeline_parallel: int | None = Field(default=None, ge=1)
    replicas: int | None = Field(default=None, ge=1)
    max_model_len: int | None = Field(default=None, ge=1)
    concurrency: int | None = Field(default=None, ge=1)
    gpu_memory_utilization: float | None = Field(default=None, gt=0, le=1)
    max_num_seqs: int | None = Field(default=None, ge=1)
    max_num_batched_tokens: int | None = Field(default=None, ge=1)
    dtype: Dtype = "auto"
    kv_cache_dtype: KvDtype | None = None
    quantization: str | None = None
    quantize: Literal["allow", "never"] = "never"
    weights_gib: float | None = Field(default=None, gt=0)
    enforce_eager: bool = False
    loras: tuple[LoraSpec, ...] = ()
    max_lora_rank: int | None = None
    threads: int | None = Field(default=None, ge=1)
    kv_cache_gib: float | None = Field(default=None, gt=0)
    host: str = "127.0.0.1"
    port: int = Field(default=8000, ge=0, le=65535)
    # What the caller needs: the planner sizes concurrency for requests of this many tokens.
    average_tokens: int = Field(default=2000, ge=1)
    per_model: Mapping[str, Mapping[str, Any]] = {}


@dataclass(frozen=True, slots=True)
class Term:
    """One line of the memory account: its value, how it was computed, and where the coefficient comes from."""

    name: str
    value: float
    unit: str
    formula: str
    source: str


@dataclass(frozen=True, slots=True)
class MemoryPlan:
    """The memory of one device (a GPU, or main memory on the CPU) under one plan, in GiB.

    ``kv_cache_gib`` may be negative in a plan that does not fit. ``kv_bytes_per_token`` is for one device.
    """

    total_gib: float
    budget_gib: float
    weights_gib: float
    activation_gib: float
    non_torch_gib: float
    cudagraph_gib: float
    kv_cache_gib: float
    kv_bytes_per_token: int
    terms: tuple[Term, ...] = ()


@dataclass(frozen=True, slots=True)
class ModelPlan:
    """How one model is to be served.

    Attributes:
        path: Model path as given to the engine.
        gpus: Indices used by each replica in order, flattened: replica r has the next tensor*pipeline of them.
        kv_tokens: Tokens of KV cache over all ranks of one replica; None when it cannot be known.
        max_concurrency: Full-length requests one replica holds at once.
        typical_concurrency: Requests of the spec's average length one replica holds at once.
        argv: Arguments of the engine's own command for the first replica; port and devices are in ``ports``/``env``.
        env: Variables for the engine, as text.
        reasons: Why each decision was made, in plain sentences.
        shortfall_gib: By how much one device is too small; None when the plan fits.
    """

    name: str
    path: str
    engine: EngineName
    engine_version: str | None
    gpus: tuple[int, ...]
    tensor_parallel: int
    pipeline_parallel: int
    replicas: int
    dtype: str
    quantization: str | None
    kv_cache_dtype: str
    max_model_len: int
    max_num_seqs: int
    max_num_batched_tokens: int
    gpu_memory_utilization: float | None
    enforce_eager: bool
    kv_tokens: int | None
    max_concurrency: float | None
    typical_concurrency: float | None
    threads: int | None
    ports: tuple[int, ...]
    argv: tuple[str, ...]
    env: Mapping[str, str]
    memory: MemoryPlan
    reasons: tuple[str, ...] = ()
    remedies: tuple[str, ...] = ()
    shortfall_gib: float | None = None
    loras: tuple[LoraSpec, ...] = ()

    @property
    def fits(self) -> bool:
        """Whether the engine would start with this plan."""
        return self.shortfall_gib is None

    def replica_gpus(self, replica: int) -> tuple[int, ...]:
        """GPU indices of one replica, in rank order."""
        size = self.tensor_parallel * self.pipeline_parallel
        return self.gpus[replica * size : (replica + 1) * size]


@dataclass(frozen=True, slots=True)
class ServePlan:
    """Plans of all models on one host."""

    models: tuple[ModelPlan, ...]
    host: str
    ok: bool
    findings: tuple[Finding, ...] = ()
    explain: bool = field(default=False, compare=False)
