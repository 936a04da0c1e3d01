"""``llmops check kubernetes``: manifests against the Kubernetes schemas and against each other, offline.

The schemas come from the package ``kubernetes-validate``; what a schema cannot see is checked here: references that
lead nowhere, selectors that select nothing, GPUs whose request differs from their limit, images without a fixed tag.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import yaml

from llmops import extras
from llmops.errors import UsageError
from llmops.findings import Finding
from llmops.report.document import Document, Table, Text

GPU: Final = "nvidia.com/gpu"
_WORKLOADS: Final = ("Deployment", "StatefulSet", "DaemonSet", "Job", "LeaderWorkerSet")
# Kinds of common operators, which are in no schema of Kubernetes itself.
_CUSTOM: Final = ("LeaderWorkerSet", "ScaledObject", "PodMonitor", "ServiceMonitor", "Kustomization")


@dataclass(frozen=True, slots=True)
class Item:
    """One object and where it stands."""

    data: Mapping[str, Any]
    file: str
    line: int

    @property
    def kind(self) -> str:
        return str(self.data.get("kind"))

    @property
    def name(self) -> str:
        return str((self.data.get("metadata") or {}).get("name"))

    def finding(self, rule: str, message: str, remedy: str | None = None) -> Finding:
        """An error about this object."""
        return Finding(rule, "error", f"{self.kind} {self.name}: {message}", remedy, self.file, self.line)


@dataclass(frozen=True, slots=True)
class CheckReport:
    """What is wrong with a directory of manifests."""

    objects: int
    with_schema: int
    version: str | None
    findings: tuple[Finding, ...]

    @property
    def ok(self) -> bool:
        """Whether there is no error."""
        return all(finding.severity != "error" for finding in self.findings)


def check_directory(directory: Path, version: str | None = None) -> CheckReport:
    """Check every ``.yaml`` file of a directory.

    Args:
        directory: Of manifests, whoever wrote them.
        version: Kubernetes version such as ``1.33``; None: the newest whose schemas are installed.

    Raises:
        UsageError: No such directory, or no manifest in it.
    """
    if not directory.is_dir():
        raise UsageError(f"there is no directory {directory}", "llmops deploy kubernetes writes one")
    findings: list[Finding] = []
    items = [item for path in sorted(directory.rglob("*.y*ml")) for item in _items(path, findings)]
    if not items and not findings:
        raise UsageError(f"{directory} holds no manifest", "it should hold .yaml files")
    known, with_schema, version = _against_schemas(items, version)
    findings += known
    findings += [finding for item in items for finding in _workload(item, items)]
    findings += _selectors(items)
    return CheckReport(len(items), with_schema, version, tuple(findings))


def _items(path: Path, findings: list[Finding]) -> Iterator[Item]:
    text = path.read_text(encoding="utf-8", errors="replace")
    try:
        nodes = list(yaml.compose_all(text, Loader=yaml.SafeLoader))
        documents = list(yaml.safe_load_all(text))
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        line = mark.line + 1 if mark else None
        findings.append(Finding("invalid-yaml", "error", " ".join(str(error).split()), None, str(path), line))
        return
    for node, data in zip(nodes, documents, strict=True):
        if data is None:
            continue
        line = node.start_mark.line + 1 if node is not None else 1
        if not isinstance(data, dict) or "kind" not in data or "apiVersion" not in data:
            findings.append(
                Finding("not-a-manifest", "error", "this document has no kind and apiVersion", None, str(path), line)
            )
            continue
        yield Item(data, str(path), line)


def _against_schemas(items: list[Item], version: str | None) -> tuple[list[Finding], int, str | None]:
    if not extras.available("kubernetes_validate"):
        note = "the schemas of Kubernetes are not installed: only references and rules were checked"
        return [Finding("no-schemas", "note", note, "pip install kubernetes-validate")], 0, None
    schemas = extras.require("kubernetes_validate", "checking manifests")
    version = version or schemas.latest_version()
    findings: list[Finding] = []
    checked = 0
    for item in items:
        if item.kind in _CUSTOM:
            continue
        try:
            schemas.validate(dict(item.data), version, strict=True)
            checked += 1
        except schemas.ValidationError as error:
            place = ".".join(str(step) for step in error.path)
            findings.append(item.finding("schema", f"{place}: {error.message}"[:300]))
        except schemas.SchemaNotFoundError:
            message = f"Kubernetes {version} has no kind {item.kind} in {item.data['apiVersion']}"
            findings.append(Finding("unknown-kind", "warning", message, None, item.file, item.line))
    return findings, checked, version


def _pods(item: Item) -> Iterator[Mapping[str, Any]]:
    """Pod specs inside an object."""
    spec = item.data.get("spec") or {}
    templates = [spec.get("template")] if item.kind != "LeaderWorkerSet" else []
    group = spec.get("leaderWorkerTemplate") or {}
    templates += [group.get("leaderTemplate"), group.get("workerTemplate")]
    for template in templates:
        if template and template.get("spec"):
            yield template["spec"]


def _workload(item: Item, items: list[Item]) -> Iterator[Finding]:
    if item.kind not in _WORKLOADS:
        return
    names = {(each.kind, each.name) for each in items}
    for pod in _pods(item):
        for volume in pod.get("volumes") or ():
            claim = (volume.get("persistentVolumeClaim") or {}).get("claimName")
            if claim and ("PersistentVolumeClaim", claim) not in names:
                yield item.finding("missing-claim", f"the claim {claim!r} is not in this directory")
            config = (volume.get("configMap") or {}).get("name")
            if config and ("ConfigMap", config) not in names:
                yield item.finding("missing-config", f"the ConfigMap {config!r} is not in this directory")
        volumes = {volume["name"] for volume in pod.get("volumes") or ()}
        for container in pod.get("containers") or ():
            yield from _container(item, container, volumes)


def _container(item: Item, container: Mapping[str, Any], volumes: set[str]) -> Iterator[Finding]:
    name = container.get("name")
    resources = container.get("resources") or {}
    asked = (resources.get("requests") or {}).get(GPU)
    limit = (resources.get("limits") or {}).get(GPU)
    if str(asked) != str(limit) and (limit is None or asked is not None):
        yield item.finding("gpu-request", f"{name} requests {asked} GPUs and is limited to {limit}", "make them equal")
    tag = str(container.get("image", "")).rpartition("/")[2].partition(":")[2]
    if "@sha256" not in str(container.get("image")) and tag in ("", "latest"):
        yield item.finding("image-tag", f"the image {container.get('image')} has no fixed tag", "name a version")
    for mount in container.get("volumeMounts") or ():
        if mount["name"] not in volumes:
            yield item.finding("missing-volume", f"{name} mounts {mount['name']!r}, which the pod does not have")
    ports = {port.get("name") for port in container.get("ports") or ()}
    for probe in ("startupProbe", "readinessProbe", "livenessProbe"):
        action = container.get(probe) or {}
        port = (action.get("httpGet") or action.get("tcpSocket") or {}).get("port")
        if isinstance(port, str) and port not in ports:
            yield item.finding("probe-port", f"{probe} of {name} asks the port {port!r}, which it does not have")
    for variable in container.get("env") or ():
        if "value" in variable and _looks_secret(str(variable.get("name")), str(variable["value"])):
            yield item.finding(
                "secret-in-manifest", f"{variable['name']} stands here in clear", "use valueFrom.secretKeyRef"
            )


def _looks_secret(name: str, value: str) -> bool:
    from llmops.masking import MASK, mask

    named = name.upper().endswith(("_KEY", "_TOKEN", "_SECRET", "PASSWORD"))
    return bool(value) and (named or MASK in mask(value))


def _selectors(items: list[Item]) -> Iterator[Finding]:
    """Services, budgets and monitors that select no pod here."""
    pods = [labels for item in items for labels in _labels(item)]
    for item in items:
        spec = item.data.get("spec") or {}
        wanted = spec.get("selector") if item.kind == "Service" else (spec.get("selector") or {}).get("matchLabels")
        if item.kind not in ("Service", "PodDisruptionBudget", "PodMonitor") or not wanted:
            continue
        if not any(wanted.items() <= labels.items() for labels in pods):
            yield item.finding("selects-nothing", f"no pod in this directory has the labels {wanted}")
    for item in items:
        spec = item.data.get("spec") or {}
        if item.kind == "Deployment":
            wanted = (spec.get("selector") or {}).get("matchLabels") or {}
            labels = next(_labels(item), {})
            if not wanted.items() <= labels.items():
                yield item.finding("selector-mismatch", "its selector does not match its own pods")


def _labels(item: Item) -> Iterator[Mapping[str, str]]:
    spec = item.data.get("spec") or {}
    group = spec.get("leaderWorkerTemplate") or {}
    for template in (spec.get("template"), group.get("leaderTemplate"), group.get("workerTemplate")):
        if template:
            yield (template.get("metadata") or {}).get("labels") or {}


def view(report: CheckReport) -> Document:
    """Each problem with its place."""
    rows = tuple((f"{f.file}:{f.line}" if f.line else f.file or "", f.message, f.remedy or "") for f in report.findings)
    blocks = (Table(("where", "what", "remedy"), rows),) if rows else ()
    against = (
        f"{report.with_schema} against the schemas of Kubernetes {report.version}"
        if report.version
        else "without schemas"
    )
    if report.ok:
        return Document("", blocks, Text(f"{report.objects} objects are in order, {against}", "good"))
    wrong = sum(finding.severity == "error" for finding in report.findings)
    return Document(
        "", blocks, Text(f"{wrong} problem{'s' * (wrong != 1)} in {report.objects} objects, {against}", "bad")
    )
