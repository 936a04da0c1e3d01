"""The same site on one machine with Docker Compose. Pure."""

from __future__ import annotations

from typing import Any

from llmops.deploy.front import gateway_config, key_variables
from llmops.deploy.kubernetes import GATEWAY_PORT, PORT, shm_gib, start_budget_s
from llmops.deploy.placed import Placed
from llmops.deploy.site import Site
from llmops.errors import UsageError


def render(site: Site, models: tuple[Placed, ...]) -> dict[str, Any]:
    """``compose.yaml`` and ``gateway.yaml`` as plain data. GPUs are given out in the order of the models.

    Raises:
        UsageError: A replica spans several machines, which Compose cannot do.
    """
    services: dict[str, Any] = {}
    next_gpu = 0
    for placed in models:
        if placed.nodes_each > 1:
            raise UsageError(
                f"{placed.name} spans {placed.nodes_each} machines, which Docker Compose cannot do",
                "llmops deploy kubernetes",
            )
        gpus = tuple(range(next_gpu, next_gpu + placed.gpus_per_pod))
        next_gpu += placed.gpus_per_pod
        services[placed.object_name] = _engine(site, placed, gpus)
    files: dict[str, Any] = {}
    if site.gateway is not None:
        config = gateway_config(site, models)
        if site.gateway.redis:
            config["cache"] = {"enabled": True, "redis": "redis://redis:6379/0", **(config.get("cache") or {})}
            services["redis"] = _redis(site)
        services["gateway"] = _gateway(site, models, config)
        files["gateway.yaml"] = config
    compose: dict[str, Any] = {"name": site.name, "services": services, "volumes": {"model-cache": {}}}
    if site.hub_token_secret is not None:
        compose["secrets"] = {"hub-token": {"environment": "HF_TOKEN"}}
    return {"compose.yaml": compose, **files}


def _engine(site: Site, placed: Placed, gpus: tuple[int, ...]) -> dict[str, Any]:
    service: dict[str, Any] = {
        "image": placed.image(site),
        "entrypoint": ["vllm", "serve"],
        "command": [placed.model.model, *placed.engine_args],
        "environment": {"HF_HOME": "/cache/huggingface", "VLLM_NO_USAGE_STATS": "1", **placed.engine_env},
        "volumes": ["model-cache:/cache"],
        "shm_size": f"{shm_gib(placed)}gb",
        "security_opt": ["no-new-privileges:true"],
        "cap_drop": ["ALL"],
        "restart": "unless-stopped",
        "healthcheck": {
            "test": ["CMD", "curl", "--fail", "--silent", f"http://localhost:{PORT}/health"],
            "interval": "10s",
            "start_period": f"{start_budget_s(placed)}s",
            "retries": 6,
        },
    }
    if site.hub_token_secret is not None:
        service["secrets"] = ["hub-token"]
        service["environment"]["HF_TOKEN_PATH"] = "/run/secrets/hub-token"  # noqa: S105 - a path, not a token
    if gpus:
        devices = [{"driver": "nvidia", "device_ids": [str(each) for each in gpus], "capabilities": ["gpu"]}]
        service["deploy"] = {"resources": {"reservations": {"devices": devices}}}
    return service


def _gateway(site: Site, models: tuple[Placed, ...], config: dict[str, Any]) -> dict[str, Any]:
    assert site.gateway is not None
    needs = {placed.object_name: {"condition": "service_healthy"} for placed in models}
    return {
        "image": site.gateway.image,
        "command": ["gateway", "run", "-c", "/etc/llmops/gateway.yaml"],
        "environment": [f"{name}=${{{name}:?set it in the environment}}" for name in key_variables(config)],
        "volumes": ["./gateway.yaml:/etc/llmops/gateway.yaml:ro"],
        # On this machine only; a reverse proxy with TLS belongs before anything wider.
        "ports": [f"127.0.0.1:{GATEWAY_PORT}:{GATEWAY_PORT}"],
        "read_only": True,
        "tmpfs": ["/tmp"],  # noqa: S108 - the path inside the container
        "security_opt": ["no-new-privileges:true"],
        "cap_drop": ["ALL"],
        "restart": "unless-stopped",
        "depends_on": needs,
    }


def _redis(site: Site) -> dict[str, Any]:
    return {
        "image": site.image("redis"),
        "command": ["--maxmemory", "512mb", "--maxmemory-policy", "allkeys-lru", "--save", "", "--appendonly", "no"],
        "restart": "unless-stopped",
        "cap_drop": ["ALL"],
        "security_opt": ["no-new-privileges:true"],
    }
