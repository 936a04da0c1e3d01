"""The form of a site: which machines there are, which models run on them, and what stands before them."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Final, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, model_validator

from llmops.planning.types import Dtype, KvDtype, LoraSpec
from llmops.recipes import Yaml, load_yaml, validate
from llmops.sites import ADDRESS

Name = Annotated[str, Field(pattern=r"^[a-z0-9]([a-z0-9.-]{0,50}[a-z0-9])?$")]
Count = Annotated[int, Field(ge=1)]
# Images by engine; a tag, never ``latest``, so that a restart cannot change what runs.
DEFAULT_IMAGES: Final = {
    "vllm": "vllm/vllm-openai:v0.19.0",
    "vllm-cpu": "vllm/vllm-openai-cpu:v0.19.0",
    "redis": "redis:7.4-alpine",
}


class Form(BaseModel):
    """Unknown keys are errors; nothing changes after reading."""

    model_config = ConfigDict(frozen=True, extra="forbid")


class Node(Form):
    """One kind of machine.

    Attributes:
        gpu: The GPUs of each, as ``llmops plan --gpu`` takes them: ``A100-40GB*4,nvlink``; None for a CPU machine.
        count: How many such machines there are.
        cpus: Cores of each.
        memory: Main memory of each, as ``512GiB``.
        labels: Node labels that select them in Kubernetes.
    """

    gpu: str | None = None
    count: Count = 1
    cpus: Count = 16
    memory: str = "64GiB"
    labels: Mapping[str, str] = Field(default_factory=dict)
    purpose: str | None = None


class Autoscale(Form):
    """Replicas follow the engine's own queue: one more while each has more than ``waiting`` requests waiting."""

    min: Annotated[int, Field(ge=0)] = 1
    max: Count = 4
    waiting: Count = 4
    by: Literal["keda", "hpa"] = "keda"

    @model_validator(mode="after")
    def _ordered(self) -> Self:
        if self.min > self.max:
            raise ValueError("min is larger than max")
        if self.min == 0 and self.by == "hpa":
            raise ValueError("an HPA cannot scale to 0; use keda, or min: 1")
        return self


class SiteModel(Form):
    """One model to serve.

    Attributes:
        model: A hub id, or a path inside the container.
        node: Where it runs.
        facts: A directory with its ``config.json`` to plan from; shipped facts are used for well-known models.
        tensor_parallel: This and the following fix decisions that the plan would make.
        replicas: A fixed number; None with ``autoscale``.
        cpus: Cores and ``memory`` that a replica asks of its node.
        args: Further flags for the engine.
    """

    model: str
    node: Name
    kind: Literal["chat", "embedding"] = "chat"
    engine: Literal["vllm"] = "vllm"
    facts: Path | None = None
    image: str | None = None
    tensor_parallel: Count | None = None
    pipeline_parallel: Count | None = None
    replicas: Count | None = None
    max_model_len: Count | None = None
    gpu_memory_utilization: Annotated[float, Field(gt=0, le=1)] | None = None
    max_num_seqs: Count | None = None
    dtype: Dtype = "auto"
    kv_cache_dtype: KvDtype | None = None
    quantization: str | None = None
    weights_gib: Annotated[float, Field(gt=0)] | None = None
    kv_cache_gib: Annotated[float, Field(gt=0)] | None = None
    loras: tuple[LoraSpec, ...] = ()
    max_lora_rank: Count | None = None
    autoscale: Autoscale | None = None
    cpus: Count = 8
    memory: str = "32Gi"
    args: tuple[str, ...] = ()
    alias: tuple[str, ...] = ()

    @model_validator(mode="after")
    def _one_way_to_count(self) -> Self:
        if self.replicas is not None and self.autoscale is not None:
            raise ValueError("give replicas or autoscale, not both")
        return self


class Cache(Form):
    """Where downloaded weights are kept: a claim that every node can mount."""

    size: str = "500Gi"
    storage_class: str | None = None
    access: Literal["ReadWriteMany", "ReadWriteOnce"] = "ReadWriteMany"


class Front(Form):
    """The gateway before the models, in its own words (see ``llmops gateway check``); None leaves it out.

    Attributes:
        address: Where ``llmops gateway run -c`` of this very file finds a model; ``{name}`` is the model's name with
            dashes for dots, ``{port}`` the engines' port. Rendered files use the names inside their cluster.
    """

    image: str = "llmops:0.1.0"
    replicas: Count = 2
    redis: bool = True
    address: Annotated[str, Field(pattern=r"^https?://")] = ADDRESS
    config: Mapping[str, Any] = Field(default_factory=dict)


class RayFront(Form):
    """Where Ray Serve listens on each machine of its cluster, and below which path the site answers there."""

    host: str = "127.0.0.1"
    port: Annotated[int, Field(ge=1, le=65535)] = 8000
    route_prefix: Annotated[str, Field(pattern=r"^/")] = "/"


class Site(Form):
    """The whole file."""

    site: Literal[1]
    name: Name
    namespace: Name = "llm"
    nodes: Annotated[Mapping[Name, Node], Field(min_length=1)]
    models: Annotated[Mapping[Name, SiteModel], Field(min_length=1)]
    hub_token_secret: Name | None = Field("hf-token", description="A Secret with the key 'token'")
    cache: Cache = Cache()
    gateway: Front | None = Front()
    ray: RayFront = RayFront()
    images: Mapping[str, str] = Field(default_factory=dict)

    @model_validator(mode="after")
    def _nodes_exist(self) -> Self:
        for name, model in self.models.items():
            if model.node not in self.nodes:
                raise ValueError(
                    f"the model {name!r} runs on {model.node!r}; the nodes are {', '.join(sorted(self.nodes))}"
                )
        return self

    def image(self, name: str) -> str:
        """The image of an engine, the site's own first."""
        return self.images.get(name) or DEFAULT_IMAGES[name]


def load_site(path: Path) -> tuple[Site, Yaml]:
    """Read and check a site.

    Raises:
        UsageError: With file:line and the nearest right word.
    """
    document = load_yaml(path)
    return validate(Site, document), document
