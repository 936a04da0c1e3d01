"""A site's models, each planned for its kind of machine. Reads the models' facts; decides nothing that planning does."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final

from llmops.checkpoint import ModelFacts, read_model
from llmops.deploy.site import Node, Site, SiteModel
from llmops.errors import UsageError
from llmops.hardware import Host
from llmops.hardware.paper import host_from_gpus
from llmops.planning.argv import DEVICES
from llmops.planning.plan import plan
from llmops.planning.types import ModelPlan, PlanSpec
from llmops.recipes import Yaml, shipped
from llmops.sites import object_name
from llmops.units import parse_size

# Decided by the cluster: a pod sees the GPUs it was given, and listens where its Service points.
# More machines for one replica are planned by hand.
MOST_MACHINES: Final = 8
_CLUSTER_FLAGS: Final = ("--host", "--port", "--served-model-name")


@dataclass(frozen=True, slots=True)
class Placed:
    """One model with its plan.

    Attributes:
        nodes_each: Machines that one replica spans.
        gpus_per_pod: GPUs that one pod asks for.
        replicas: How many to start with.
    """

    name: str
    model: SiteModel
    node: Node
    plan: ModelPlan
    nodes_each: int
    gpus_per_pod: int
    replicas: int

    @property
    def object_name(self) -> str:
        """Its name where only letters, digits and dashes may stand (RFC 1035), as in a Service or a host name."""
        return object_name(self.name)

    @property
    def gpus_each(self) -> int:
        """GPUs of one replica."""
        return self.nodes_each * self.gpus_per_pod

    @property
    def engine_args(self) -> tuple[str, ...]:
        """Flags after ``vllm serve MODEL`` inside a container."""
        words = list(self.plan.argv[2:])
        kept: list[str] = []
        skip = False
        for word in words:
            if skip:
                skip = False
            elif word in _CLUSTER_FLAGS:
                skip = True
            else:
                kept.append(word)
        pooling = ("--runner", "pooling") if self.model.kind == "embedding" else ()
        return ("--served-model-name", self.name, *pooling, *kept, *self.model.args)

    @property
    def engine_env(self) -> Mapping[str, str]:
        """Variables that the cluster does not set itself."""
        return {name: value for name, value in self.plan.env.items() if name not in DEVICES}

    def image(self, site: Site) -> str:
        """The engine's image."""
        return self.model.image or site.image("vllm" if self.node.gpu else "vllm-cpu")


def place(site: Site, document: Yaml, base: Path) -> tuple[Placed, ...]:
    """Plan every model of a site, and refuse what does not fit.

    Args:
        site: The description.
        document: Where it was read, for messages.
        base: Directory that relative paths of the site start from.

    Raises:
        UsageError: A model's facts are not known, or it does not fit on its node, with file:line and what would help.
    """
    placed = planned(site, document, base)
    for each in placed:
        if not each.plan.fits:
            missing = f"{each.plan.shortfall_gib:.1f} GiB"
            hint = "; or ".join(each.plan.remedies) or None
            message = f"{each.name} does not fit on {each.model.node}: {missing} are missing"
            raise document.error(("models", each.name), message, hint)
    _check_capacity(site, document, placed)
    return placed


def planned(site: Site, document: Yaml, base: Path) -> tuple[Placed, ...]:
    """The same, with plans that do not fit among them.

    Raises:
        UsageError: A model's facts are not known, or a fixed value is impossible, with file:line.
    """
    return tuple(_place_one(name, site, document, base) for name in site.models)


def _place_one(name: str, site: Site, document: Yaml, base: Path) -> Placed:
    model = site.models[name]
    node = site.nodes[model.node]
    facts = replace(_facts(name, model, document, base), name=name)
    host = _host(model.node, node, document, None if node.gpu else model.cpus)
    one = _plan(_spec(name, model, bool(node.gpu)), facts, host, node, document)
    gpus = one.tensor_parallel * one.pipeline_parallel if node.gpu else 0
    on_node = max(1, len(host.gpus))
    nodes_each = -(-gpus // on_node) if gpus else 1
    if gpus % nodes_each:
        raise document.error(
            ("models", name), f"{gpus} GPUs cannot be shared out evenly over {nodes_each} machines of {on_node}",
            "fix tensor_parallel and pipeline_parallel",
        )  # fmt: skip
    wanted = model.replicas or (model.autoscale.min if model.autoscale else None)
    most = node.count * (on_node // max(1, gpus)) if nodes_each == 1 and gpus else node.count // nodes_each
    return Placed(name, model, node, one, nodes_each, gpus // nodes_each, min(1, most) if wanted is None else wanted)


def _plan(spec: PlanSpec, facts: ModelFacts, host: Host, node: Node, document: Yaml) -> ModelPlan:
    """On one machine; on as many as it takes when it does not fit there, or when the degrees that are fixed need them."""
    fixed = (spec.tensor_parallel or 1) * (spec.pipeline_parallel or 1)
    least = max(1, -(-fixed // max(1, len(host.gpus))))
    if least > node.count:
        have = f"{node.count} machine{'s' * (node.count > 1)} of {len(host.gpus)} GPUs"
        where = ("models", spec.served_name or facts.name)
        raise document.error(
            where, f"{fixed} GPUs are asked for; there are {have}", "lower the degrees, or raise count"
        )
    found = plan(spec, [facts], machines_together(host, least)).models[0]
    for several in range(least + 1, min(node.count, MOST_MACHINES) + 1) if host.gpus else ():
        if found.fits:
            break
        wider = plan(spec, [facts], machines_together(host, several)).models[0]
        found = wider if wider.fits else found
    return found


def machines_together(host: Host, count: int) -> Host:
    """``count`` such machines as one for the planner: their GPUs, linked inside each machine only."""
    size = len(host.gpus)
    gpus = tuple(replace(gpu, index=gpu.index + n * size) for n in range(count) for gpu in host.gpus)
    links = tuple(replace(link, a=link.a + n * size, b=link.b + n * size) for n in range(count) for link in host.links)
    return replace(host, gpus=gpus, links=links) if count > 1 else host


def _spec(name: str, model: SiteModel, gpu: bool) -> PlanSpec:
    return PlanSpec(
        engine="vllm",
        served_name=name,
        tensor_parallel=model.tensor_parallel or (None if gpu else 1),
        pipeline_parallel=model.pipeline_parallel,
        replicas=1 if gpu else None,
        max_model_len=model.max_model_len,
        gpu_memory_utilization=model.gpu_memory_utilization,
        max_num_seqs=model.max_num_seqs,
        dtype=model.dtype,
        kv_cache_dtype=model.kv_cache_dtype,
        quantization=model.quantization,
        threads=None if gpu else model.cpus,  # a replica's part of a machine that others use too
        weights_gib=model.weights_gib,
        kv_cache_gib=model.kv_cache_gib,
        loras=model.loras,
        max_lora_rank=model.max_lora_rank,
    )


def _host(name: str, node: Node, document: Yaml, cores: int | None = None) -> Host:
    memory = parse_size(node.memory)
    if node.gpu is None:
        host = host_from_gpus("RTX4090", cores=cores or node.cpus, memory_bytes=memory, name=name)
        return replace(host, gpus=(), links=())
    try:
        return host_from_gpus(node.gpu, cores=node.cpus, memory_bytes=memory, name=name)
    except UsageError as error:
        raise document.error(("nodes", name, "gpu"), error.message, error.hint) from error


def _facts(name: str, model: SiteModel, document: Yaml, base: Path) -> ModelFacts:
    candidates = [base / model.facts] if model.facts else []
    candidates += [shipped("configs") / "models" / model.model.replace("/", "--"), base / model.model]
    for path in candidates:
        if (path / "config.json").is_file():
            return read_model(path)
    safe = re.sub(r"[^\w.-]", "", name)
    raise document.error(
        ("models", name, "model"),
        f"the shape of {model.model} is not known",
        f"put its config.json into a directory and name it: facts: ./facts/{safe}",
    )


def _check_capacity(site: Site, document: Yaml, placed: tuple[Placed, ...]) -> None:
    """The GPUs that all replicas ask of a kind of machine against those that are there."""
    for node_name, node in site.nodes.items():
        if node.gpu is None:
            continue
        there = node.count * len(_host(node_name, node, document).gpus)
        here = [each for each in placed if each.model.node == node_name]
        asked = sum(each.gpus_each * each.replicas for each in here)
        if asked > there:
            names = ", ".join(f"{each.name} {each.replicas} x {each.gpus_each}" for each in here)
            raise document.error(
                ("nodes", node_name),
                f"{node_name} has {there} GPUs and its models ask for {asked} ({names})",
                "lower replicas or tensor_parallel, or raise count",
            )
