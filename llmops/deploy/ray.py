"""The same site as a Ray Serve config on ``ray.serve.llm``. Pure.

Ray's own builder makes the OpenAI-compatible application; what is written here are its arguments, so ``serve deploy``
and ``serve run`` read the file as it is.
"""

from __future__ import annotations

from typing import Any, Final

from llmops.deploy.placed import Placed
from llmops.deploy.site import Site

BUILDER: Final = "ray.serve.llm:build_openai_app"
# vllm's flags -> its engine arguments, where the name is not the flag's own.
_SERVER_ONLY: Final = ("--served-model-name", "--lora-modules")


def render(site: Site, models: tuple[Placed, ...]) -> dict[str, Any]:
    """The Serve config: one application with one LLM config for each model. Listens on this machine only."""
    return {
        "proxy_location": "EveryNode",
        "http_options": {"host": "127.0.0.1", "port": 8000},
        "applications": [
            {
                "name": site.name,
                "route_prefix": "/",
                "import_path": BUILDER,
                "args": {"llm_configs": [llm_config(placed) for placed in models]},
            }
        ],
    }


def llm_config(placed: Placed) -> dict[str, Any]:
    """One model in Ray's form."""
    deployment: dict[str, Any] = {"ray_actor_options": {"num_cpus": placed.model.cpus}}
    scale = placed.model.autoscale
    if scale is None:
        deployment["num_replicas"] = placed.replicas
    else:
        deployment["autoscaling_config"] = {
            "min_replicas": scale.min,
            "max_replicas": scale.max,
            "target_ongoing_requests": scale.waiting,
        }
    return {
        "model_loading_config": {"model_id": placed.name, "model_source": placed.model.model},
        "engine_kwargs": engine_kwargs(placed.engine_args),
        "deployment_config": deployment,
        "runtime_env": {"env_vars": dict(placed.engine_env)},
    }


def engine_kwargs(argv: tuple[str, ...]) -> dict[str, Any]:
    """Flags of ``vllm serve`` as engine arguments: ``--max-model-len 8192`` is ``max_model_len: 8192``."""
    found: dict[str, Any] = {}
    words = list(argv)
    while words:
        flag = words.pop(0)
        values = []
        while words and not words[0].startswith("--"):
            values.append(words.pop(0))
        if flag not in _SERVER_ONLY:
            name = flag.removeprefix("--").replace("-", "_")
            found[name] = _value(values)
    return found


def _value(values: list[str]) -> Any:
    if not values:
        return True
    text = values[0]
    for kind in (int, float):
        try:
            return kind(text)
        except ValueError:
            continue
    return text
