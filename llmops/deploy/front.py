"""The gateway before a site's models, and the Redis that its replicas share. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import yaml

from llmops.deploy.kubernetes import GATEWAY_PORT, METRICS_PORT, Object, labels, named, selector
from llmops.deploy.placed import Placed
from llmops.deploy.site import Front, Site
from llmops.sites import with_models

NAME = "gateway"


def gateway_config(site: Site, models: tuple[Placed, ...]) -> dict[str, Any]:
    """The gateway's own config: what the site says, and a provider and a route for each model that runs here.

    Args:
        site: With the gateway's part as written.
        models: The models that run here.
    """
    assert site.gateway is not None
    config = with_models(site.gateway.config, [(each.name, each.model.alias) for each in models])
    listen = {"host": "0.0.0.0", "port": GATEWAY_PORT, "metrics_host": "0.0.0.0", "metrics_port": METRICS_PORT}  # noqa: S104 - inside its own pod, with keys required
    return config | {"listen": {**listen, **(config.get("listen") or {})}}


def key_variables(config: Mapping[str, Any]) -> tuple[str, ...]:
    """Variables that the config reads secrets from, in order of names."""
    names = {str(each["key_env"]) for each in (config.get("providers") or {}).values() if each.get("key_env")}
    names |= {str(each["env"]) for each in config.get("keys") or () if each.get("env")}
    return tuple(sorted(names))


def gateway_objects(site: Site, models: tuple[Placed, ...]) -> list[Object]:
    """ConfigMap, Deployment, Service, disruption budget, monitor and network policy of the gateway, and Redis."""
    front = site.gateway
    assert front is not None
    config = gateway_config(site, models)
    if front.redis:
        config["cache"] = {"enabled": True, "redis": "redis://redis:6379/0", **(config.get("cache") or {})}
    text = yaml.safe_dump(config, sort_keys=False, allow_unicode=True)
    objects = [
        named(site, "ConfigMap", "v1", NAME, NAME, data={"gateway.yaml": text}),
        _deployment(site, front, key_variables(config)),
        _service(site),
        named(
            site, "PodDisruptionBudget", "policy/v1", NAME, NAME, spec={"maxUnavailable": 1, "selector": selector(NAME)}
        ),
        named(
            site,
            "PodMonitor",
            "monitoring.coreos.com/v1",
            NAME,
            NAME,
            spec={"selector": selector(NAME), "podMetricsEndpoints": [{"port": "metrics"}]},
        ),
        _policy(site),
    ]
    return objects + (_redis(site) if front.redis else [])


def _deployment(site: Site, front: Front, variables: tuple[str, ...]) -> Object:
    secret = {"name": "gateway-keys", "optional": False}
    environment = [{"name": name, "valueFrom": {"secretKeyRef": {**secret, "key": name}}} for name in variables]
    probe = {"periodSeconds": 5, "timeoutSeconds": 3}
    container: Object = {
        "name": NAME,
        "image": front.image,
        "args": ["gateway", "run", "-c", "/etc/llmops/gateway.yaml"],
        "ports": [
            {"name": "http", "containerPort": GATEWAY_PORT},
            {"name": "metrics", "containerPort": METRICS_PORT},
        ],
        "env": environment,
        "resources": {"requests": {"cpu": "1", "memory": "256Mi"}, "limits": {"memory": "1Gi"}},
        "securityContext": {
            "allowPrivilegeEscalation": False,
            "readOnlyRootFilesystem": True,
            "runAsNonRoot": True,
            "runAsUser": 65532,
            "capabilities": {"drop": ["ALL"]},
        },
        "volumeMounts": [
            {"name": "config", "mountPath": "/etc/llmops", "readOnly": True},
            {"name": "tmp", "mountPath": "/tmp"},  # noqa: S108 - the path inside the container
        ],
        "readinessProbe": {"httpGet": {"path": "/health/ready", "port": "http"}, **probe},
        "livenessProbe": {"httpGet": {"path": "/health/live", "port": "http"}, **probe},
    }
    pod = {
        "automountServiceAccountToken": False,
        "securityContext": {"seccompProfile": {"type": "RuntimeDefault"}},
        # Longer than the gateway's own drain, so that no accepted request is lost.
        "terminationGracePeriodSeconds": 60,
        "containers": [container],
        "volumes": [{"name": "config", "configMap": {"name": NAME}}, {"name": "tmp", "emptyDir": {}}],
        "topologySpreadConstraints": [
            {
                "maxSkew": 1,
                "topologyKey": "kubernetes.io/hostname",
                "whenUnsatisfiable": "ScheduleAnyway",
                "labelSelector": selector(NAME),
            }
        ],
    }
    spec = {
        "replicas": front.replicas,
        "selector": selector(NAME),
        "strategy": {"type": "RollingUpdate", "rollingUpdate": {"maxSurge": 1, "maxUnavailable": 0}},
        "template": {"metadata": {"labels": labels(site, NAME, NAME)}, "spec": pod},
    }
    return named(site, "Deployment", "apps/v1", NAME, NAME, spec=spec)


def _service(site: Site) -> Object:
    ports = [{"name": "http", "port": 80, "targetPort": "http"}]
    return named(site, "Service", "v1", NAME, NAME, spec={"selector": selector(NAME)["matchLabels"], "ports": ports})


def _policy(site: Site) -> Object:
    spec = {
        "podSelector": selector(NAME),
        "policyTypes": ["Ingress"],
        "ingress": [
            {"ports": [{"port": GATEWAY_PORT}]},
            {
                "from": [{"namespaceSelector": {"matchLabels": {"kubernetes.io/metadata.name": "monitoring"}}}],
                "ports": [{"port": METRICS_PORT}],
            },
        ],
    }
    return named(site, "NetworkPolicy", "networking.k8s.io/v1", NAME, "network", spec=spec)


def _redis(site: Site) -> list[Object]:
    container = {
        "name": "redis",
        "image": site.image("redis"),
        # A cache and counters: bounded, evicting, never on disk.
        "args": ["--maxmemory", "512mb", "--maxmemory-policy", "allkeys-lru", "--save", "", "--appendonly", "no"],
        "ports": [{"name": "redis", "containerPort": 6379}],
        "resources": {"requests": {"cpu": "250m", "memory": "640Mi"}, "limits": {"memory": "768Mi"}},
        "securityContext": {
            "allowPrivilegeEscalation": False,
            "runAsNonRoot": True,
            "runAsUser": 999,
            "capabilities": {"drop": ["ALL"]},
        },
        "readinessProbe": {"tcpSocket": {"port": "redis"}, "periodSeconds": 5},
    }
    pod = {
        "automountServiceAccountToken": False,
        "securityContext": {"seccompProfile": {"type": "RuntimeDefault"}},
        "containers": [container],
    }
    template = {"metadata": {"labels": labels(site, "redis", "redis")}, "spec": pod}
    only_gateway = {
        "podSelector": selector("redis"),
        "policyTypes": ["Ingress"],
        "ingress": [{"from": [{"podSelector": selector(NAME)}], "ports": [{"port": 6379}]}],
    }
    ports = [{"name": "redis", "port": 6379, "targetPort": "redis"}]
    return [
        named(
            site,
            "Deployment",
            "apps/v1",
            "redis",
            "redis",
            spec={"replicas": 1, "selector": selector("redis"), "template": template},
        ),
        named(
            site, "Service", "v1", "redis", "redis", spec={"selector": selector("redis")["matchLabels"], "ports": ports}
        ),
        named(site, "NetworkPolicy", "networking.k8s.io/v1", "redis", "network", spec=only_gateway),
    ]
