"""A site as Kubernetes objects, ready for Kustomize. Pure: plans in, plain dicts out.

What the objects take care of: GPUs as equal requests and limits; a start-up probe that outlasts the download and the
load of the weights; ``/dev/shm`` as memory, which tensor parallelism needs; a cache claim, so that a restart does not
download again; the hub token from a Secret that is named and never written; traffic to an engine only from the gateway.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, Final

from llmops.deploy.placed import Placed
from llmops.deploy.site import Autoscale, Site

Object = dict[str, Any]
PORT: Final = 8000
GATEWAY_PORT: Final = 8080
METRICS_PORT: Final = 9090
# What a cold start may cost: a hub at 100 MiB/s, then reading, compiling and capturing graphs.
DOWNLOAD_BYTES_S: Final = 100 * 1024**2
START_BASE_S: Final = 600
PROBE_PERIOD_S: Final = 10


def render(site: Site, models: tuple[Placed, ...]) -> dict[str, list[Object]]:
    """Every file of the directory, name -> objects; ``kustomization.yaml`` lists the others.

    Args:
        site: The description.
        models: Its models with their plans.
    """
    files: dict[str, list[Object]] = {"namespace.yaml": [_namespace(site)], "cache.yaml": [_cache(site)]}
    for placed in models:
        files[f"model-{placed.object_name}.yaml"] = _model(site, placed)
    files["network-policy.yaml"] = [_deny_all(site), *(_only_from_gateway(site, placed) for placed in models)]
    if site.gateway is not None:
        from llmops.deploy.front import gateway_objects

        files["gateway.yaml"] = gateway_objects(site, models)
    resources = list(files)
    files["kustomization.yaml"] = [
        {
            "apiVersion": "kustomize.config.k8s.io/v1beta1",
            "kind": "Kustomization",
            "namespace": site.namespace,
            "resources": resources,
        }
    ]
    return files


def labels(site: Site, name: str, component: str) -> dict[str, str]:
    """The recommended labels of one component."""
    return {
        "app.kubernetes.io/name": name,
        "app.kubernetes.io/component": component,
        "app.kubernetes.io/part-of": site.name,
        "app.kubernetes.io/managed-by": "llmops",
    }


def named(site: Site, kind: str, api: str, name: str, component: str, **body: Any) -> Object:
    """One object with its metadata."""
    return {
        "apiVersion": api,
        "kind": kind,
        "metadata": {"name": name, "namespace": site.namespace, "labels": labels(site, name, component)},
        **body,
    }


def selector(name: str) -> dict[str, Any]:
    """Pods of one component."""
    return {"matchLabels": {"app.kubernetes.io/name": name}}


def _namespace(site: Site) -> Object:
    return {
        "apiVersion": "v1",
        "kind": "Namespace",
        "metadata": {"name": site.namespace, "labels": {"app.kubernetes.io/part-of": site.name}},
    }


def _cache(site: Site) -> Object:
    spec: Object = {
        "accessModes": [site.cache.access],
        "resources": {"requests": {"storage": site.cache.size}},
    }
    if site.cache.storage_class is not None:
        spec["storageClassName"] = site.cache.storage_class
    return named(site, "PersistentVolumeClaim", "v1", "model-cache", "cache", spec=spec)


def _model(site: Site, placed: Placed) -> list[Object]:
    objects = [_leader_worker_set(site, placed) if placed.nodes_each > 1 else _deployment(site, placed)]
    objects += [_service(site, placed), _disruption_budget(site, placed), _pod_monitor(site, placed)]
    if placed.model.autoscale is not None:
        objects.append(_autoscaler(site, placed, placed.model.autoscale))
    return objects


def _deployment(site: Site, placed: Placed) -> Object:
    spec: Object = {
        "selector": selector(placed.object_name),
        # The old replica keeps its GPUs until it is gone, and there are none to spare for a surge.
        "strategy": {"type": "RollingUpdate", "rollingUpdate": {"maxSurge": 0, "maxUnavailable": 1}},
        "progressDeadlineSeconds": start_budget_s(placed) + 300,
        "template": {"metadata": {"labels": labels(site, placed.object_name, "model")}, "spec": _pod(site, placed)},
    }
    if placed.model.autoscale is None:
        spec["replicas"] = placed.replicas
    return named(site, "Deployment", "apps/v1", placed.object_name, "model", spec=spec)


def _leader_worker_set(site: Site, placed: Placed) -> Object:
    """One replica over several machines: the leader serves, the others lend their GPUs through Ray."""
    leader = _pod(site, placed)
    leader["containers"][0]["command"] = ["sh", "-c"]
    serve = " ".join(["vllm", "serve", placed.model.model, *_quoted(placed.engine_args)])
    start = "bash /vllm-workspace/examples/online_serving/multi-node-serving.sh"
    leader["containers"][0]["args"] = [f"{start} leader --ray_cluster_size=$(LWS_GROUP_SIZE) && exec {serve}"]
    worker = _pod(site, placed)
    worker["containers"][0]["command"] = ["sh", "-c"]
    worker["containers"][0]["args"] = [f"exec {start} worker --ray_address=$(LWS_LEADER_ADDRESS)"]
    for probe in ("startupProbe", "readinessProbe", "livenessProbe"):
        worker["containers"][0].pop(probe)
    template = {
        "size": placed.nodes_each,
        "restartPolicy": "RecreateGroupOnPodRestart",
        "leaderTemplate": {"metadata": {"labels": labels(site, placed.object_name, "model")}, "spec": leader},
        "workerTemplate": {
            "metadata": {"labels": labels(site, f"{placed.object_name}-worker", "model")},
            "spec": worker,
        },
    }
    spec = {"replicas": placed.replicas, "leaderWorkerTemplate": template}
    return named(site, "LeaderWorkerSet", "leaderworkerset.x-k8s.io/v1", placed.object_name, "model", spec=spec)


def _quoted(words: tuple[str, ...]) -> list[str]:
    import shlex

    return [shlex.quote(word) for word in words]


def _pod(site: Site, placed: Placed) -> Object:
    pod: Object = {
        "automountServiceAccountToken": False,
        "securityContext": {"seccompProfile": {"type": "RuntimeDefault"}},
        "terminationGracePeriodSeconds": 120,
        "containers": [_container(site, placed)],
        "volumes": [
            {"name": "model-cache", "persistentVolumeClaim": {"claimName": "model-cache"}},
            {"name": "shm", "emptyDir": {"medium": "Memory", "sizeLimit": f"{shm_gib(placed)}Gi"}},
        ],
    }
    if placed.node.labels:
        pod["nodeSelector"] = dict(placed.node.labels)
    if placed.gpus_per_pod:
        pod["tolerations"] = [{"key": "nvidia.com/gpu", "operator": "Exists", "effect": "NoSchedule"}]
    return pod


def _container(site: Site, placed: Placed) -> Object:
    resources: Object = {
        "requests": {"cpu": str(placed.model.cpus), "memory": placed.model.memory},
        "limits": {"memory": placed.model.memory},
    }
    if placed.gpus_per_pod:
        for each in resources.values():
            each["nvidia.com/gpu"] = str(placed.gpus_per_pod)
    return {
        "name": "engine",
        "image": placed.image(site),
        # Said in full, because the image's own entry point differs between releases.
        "command": ["vllm", "serve"],
        "args": [placed.model.model, *placed.engine_args],
        "ports": [{"name": "http", "containerPort": PORT}],
        "env": _environment(site, placed),
        "resources": resources,
        "securityContext": {"allowPrivilegeEscalation": False, "capabilities": {"drop": ["ALL"]}},
        "volumeMounts": [
            {"name": "model-cache", "mountPath": "/cache"},
            {"name": "shm", "mountPath": "/dev/shm"},  # noqa: S108 - the path inside the container
        ],
        "startupProbe": _probe("/health", start_budget_s(placed) // PROBE_PERIOD_S),
        "readinessProbe": _probe("/health", 3),
        "livenessProbe": _probe("/health", 6),
    }


def _environment(site: Site, placed: Placed) -> list[Object]:
    variables = {"HF_HOME": "/cache/huggingface", "VLLM_NO_USAGE_STATS": "1", **placed.engine_env}
    found: list[Object] = [{"name": name, "value": value} for name, value in sorted(variables.items())]
    if site.hub_token_secret is not None:
        reference = {"name": site.hub_token_secret, "key": "token", "optional": True}
        found.append({"name": "HF_TOKEN", "valueFrom": {"secretKeyRef": reference}})
    return found


def _probe(path: str, failures: int) -> Object:
    return {
        "httpGet": {"path": path, "port": "http"},
        "periodSeconds": PROBE_PERIOD_S,
        "timeoutSeconds": 5,
        "failureThreshold": failures,
    }


def start_budget_s(placed: Placed) -> int:
    """Seconds a first start may take: download, load, compile; rounded up to whole probe periods."""
    total_bytes = placed.plan.memory.weights_gib * 1024**3 * max(1, placed.gpus_each)
    seconds = START_BASE_S + 2 * total_bytes / DOWNLOAD_BYTES_S
    return math.ceil(seconds / PROBE_PERIOD_S) * PROBE_PERIOD_S


def shm_gib(placed: Placed) -> int:
    """Shared memory for a pod: NCCL and the workers' queues need more with each GPU."""
    return max(2, 4 * placed.gpus_per_pod)


def _service(site: Site, placed: Placed) -> Object:
    spec = {"selector": selector(placed.object_name)["matchLabels"], "ports": [_port("http", PORT)]}
    return named(site, "Service", "v1", placed.object_name, "model", spec=spec)


def _port(name: str, number: int) -> Object:
    return {"name": name, "port": number, "targetPort": name}


def _disruption_budget(site: Site, placed: Placed) -> Object:
    # A budget of "none may go" would block every node drain when there is one replica.
    spec = {"maxUnavailable": 1, "selector": selector(placed.object_name)}
    return named(site, "PodDisruptionBudget", "policy/v1", placed.object_name, "model", spec=spec)


def _pod_monitor(site: Site, placed: Placed) -> Object:
    spec = {"selector": selector(placed.object_name), "podMetricsEndpoints": [{"port": "http", "path": "/metrics"}]}
    return named(site, "PodMonitor", "monitoring.coreos.com/v1", placed.object_name, "model", spec=spec)


def _autoscaler(site: Site, placed: Placed, wanted: Autoscale) -> Object:
    target = {"apiVersion": "apps/v1", "kind": "Deployment", "name": placed.object_name}
    if wanted.by == "hpa":
        metric = {
            "type": "Pods",
            "pods": {
                "metric": {"name": "vllm_num_requests_waiting"},
                "target": {"type": "AverageValue", "averageValue": str(wanted.waiting)},
            },
        }
        behaviour = {"scaleDown": {"stabilizationWindowSeconds": 600}}
        spec: Object = {"scaleTargetRef": target, "minReplicas": wanted.min, "maxReplicas": wanted.max}
        spec |= {"metrics": [metric], "behavior": behaviour}
        return named(site, "HorizontalPodAutoscaler", "autoscaling/v2", placed.object_name, "model", spec=spec)
    query = f'sum(vllm:num_requests_waiting{{namespace="{site.namespace}",model_name="{placed.name}"}})'
    trigger = {
        "type": "prometheus",
        "metricType": "AverageValue",
        "metadata": {
            "serverAddress": "http://prometheus-operated.monitoring.svc:9090",
            "query": query,
            "threshold": str(wanted.waiting),
        },
    }
    scaled = {"name": placed.object_name}
    spec = {"scaleTargetRef": scaled, "minReplicaCount": wanted.min, "maxReplicaCount": wanted.max}
    spec |= {"cooldownPeriod": 600, "triggers": [trigger]}
    return named(site, "ScaledObject", "keda.sh/v1alpha1", placed.object_name, "model", spec=spec)


def _deny_all(site: Site) -> Object:
    return named(site, "NetworkPolicy", "networking.k8s.io/v1", "deny-ingress", "network", spec=_policy({}, []))


def _only_from_gateway(site: Site, placed: Placed) -> Object:
    callers: list[Mapping[str, Any]] = [
        {"podSelector": {"matchLabels": {"app.kubernetes.io/component": "gateway"}}},
        # Prometheus reads the metrics on the same port.
        {"namespaceSelector": {"matchLabels": {"kubernetes.io/metadata.name": "monitoring"}}},
    ]
    if placed.nodes_each > 1:
        callers.append({"podSelector": selector(f"{placed.object_name}-worker")})
    rule: Object = {"from": callers}
    if placed.nodes_each == 1:
        rule["ports"] = [{"port": PORT}]
    spec = _policy(selector(placed.object_name), [rule])
    return named(site, "NetworkPolicy", "networking.k8s.io/v1", placed.object_name, "network", spec=spec)


def _policy(pods: Mapping[str, Any], ingress: list[Object]) -> Object:
    return {"podSelector": dict(pods), "policyTypes": ["Ingress"], "ingress": ingress}
