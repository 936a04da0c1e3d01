"""The same site as a Ray Serve config on ``ray.serve.llm``. Pure.

``serve deploy`` and ``serve run`` read the file as it is; ``llmops deploy ray --address`` sends it to a cluster.
"""

from __future__ import annotations

from typing import Any

from llmops.deploy.placed import Placed
from llmops.deploy.site import Site
from llmops.errors import UsageError
from llmops.hardware.paper import host_from_gpus
from llmops.planning.ray import BUILDER, Copies, Place, Served, accelerator_of, engine_kwargs, llm_config
from llmops.units import parse_size


def render(site: Site, models: tuple[Placed, ...]) -> dict[str, Any]:
    """The Serve config: one application with one LLM config for each model.

    Raises:
        UsageError: A model has adapters, which Ray takes from cloud storage only.
    """
    return {
        "proxy_location": "EveryNode",
        "http_options": {"host": site.ray.host, "port": site.ray.port},
        "applications": [
            {
                "name": site.name,
                "route_prefix": site.ray.route_prefix,
                "import_path": BUILDER,
                "args": {"llm_configs": [one_model(site, placed) for placed in models]},
            }
        ],
    }


def one_model(site: Site, placed: Placed) -> dict[str, Any]:
    """One model in Ray's form."""
    model, scale = placed.model, placed.model.autoscale
    if model.loras:
        raise UsageError(
            f"{placed.name}: Ray Serve takes adapters from cloud storage, not from directories",
            "llmops deploy kubernetes, or leave loras out",
        )
    copies = Copies(
        least=scale.min if scale else placed.replicas,
        most=scale.max if scale else placed.replicas,
        waiting=scale.waiting if scale else 4,
        cpus=model.cpus,
        memory_bytes=parse_size(model.memory.removesuffix("i")),
    )
    served = Served(
        name=placed.name,
        source=model.model,
        kwargs=engine_kwargs(placed.engine_args),
        env=placed.engine_env,
        copies=copies,
        place=_place(site, placed),
    )
    return llm_config(placed.plan, served)


def requirements(site: Site) -> tuple[str, ...]:
    """What machines must say of themselves, because Ray has no name for their GPUs and there are several kinds."""
    return tuple(
        f"start Ray on the {name} machines with --resources '{{\"{name}\": 1}}': Ray does not tell their GPUs apart"
        for name in site.nodes
        if _needs_resource(site, name)
    )


def _place(site: Site, placed: Placed) -> Place:
    if placed.node.gpu is None:
        return Place()
    if _needs_resource(site, placed.model.node):
        return Place(resource=placed.model.node)
    return Place(accelerator=accelerator_of(_card(placed.node.gpu)))


def _needs_resource(site: Site, name: str) -> bool:
    gpu = site.nodes[name].gpu
    kinds = {_card(node.gpu) for node in site.nodes.values() if node.gpu}
    return gpu is not None and len(kinds) > 1 and accelerator_of(_card(gpu)) is None


def _card(gpu: str) -> str:
    return host_from_gpus(gpu).gpus[0].name
