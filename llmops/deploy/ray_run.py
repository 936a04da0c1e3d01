"""``llmops deploy ray --address``, ``deploy status`` and ``deploy teardown``: reports on a Ray cluster."""

from __future__ import annotations

import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from llmops.deploy import ray
from llmops.deploy.placed import place
from llmops.deploy.ray_cluster import POLL_S, Application, Cluster, wait_until_running
from llmops.deploy.site import load_site
from llmops.findings import Finding
from llmops.progress import Progress
from llmops.report.document import Block, Document, Facts, Table, Text
from llmops.report.told import told

WAIT_S: Final = 1800.0


@dataclass(frozen=True, slots=True)
class ClusterReport:
    """Applications of a cluster, or what was done to them.

    Attributes:
        url: Where the deployed models answer, seen from a machine of the cluster; None when nothing was deployed.
        verdict: The last line for people.
    """

    ok: bool
    findings: tuple[Finding, ...]
    address: str
    applications: tuple[Application, ...]
    verdict: str
    url: str | None = None
    waited_s: float | None = None

    def data(self) -> dict[str, Any]:
        """The JSON ``data``."""
        return {
            "address": self.address,
            "url": self.url,
            "waited_s": self.waited_s,
            "applications": list(self.applications),
        }


def submit(
    config: Path, address: str, progress: Progress, *, wait: bool = True, limit_s: float = WAIT_S
) -> ClusterReport:
    """Send a site to a cluster and wait until all of its replicas answer.

    Raises:
        UsageError: The site is wrong, a model does not fit, or its route is taken.
        OutsideError: The cluster does not answer, refuses, or the models do not start.
    """
    cluster = Cluster(address)
    progress.phase("planning the site")
    site, document = load_site(config)
    rendered = ray.render(site, place(site, document, config.parent))
    progress.phase(f"sending {site.name} to {cluster.address}")
    notes = cluster.submit(rendered)
    began = time.monotonic()
    findings = tuple(Finding("ray-cluster", "note", note) for note in (*notes, *ray.requirements(site)))
    url = f"http://{site.ray.host}:{site.ray.port}{site.ray.route_prefix.rstrip('/')}/v1"
    if not wait:
        return ClusterReport(True, findings, cluster.address, cluster.applications(), "sent; not waited for", url)
    found = wait_until_running(cluster, site.name, progress, limit_s=limit_s)
    waited_s = round(time.monotonic() - began, 1)
    return ClusterReport(True, findings, cluster.address, (found,), f"running after {waited_s:.0f} s", url, waited_s)


def status(address: str) -> ClusterReport:
    """All applications of a cluster; ``ok`` when each runs with all of its replicas.

    Raises:
        OutsideError: The cluster does not answer.
    """
    cluster = Cluster(address)
    found = cluster.applications()
    findings = tuple(
        Finding("ray-application", "error", f"{each.name} is {each.status.lower()}", each.message or None)
        for each in found
        if not each.ok
    )
    verdict = "all run" if found and not findings else "nothing is deployed" if not found else "not all run"
    return ClusterReport(not findings, findings, cluster.address, found, verdict)


def teardown(
    name: str, address: str, progress: Progress, *, dry_run: bool = False, limit_s: float = 120.0
) -> ClusterReport:
    """Take an application away and wait until it is gone; the cluster's other applications stay.

    Raises:
        UsageError: There is none of that name.
        OutsideError: The cluster does not answer.
    """
    cluster = Cluster(address)
    if dry_run:
        found = tuple(each for each in cluster.applications() if each.name == name)
        return ClusterReport(True, (), cluster.address, found, "nothing was taken away")
    progress.phase(f"taking {name} away")
    cluster.remove(name)
    deadline = time.monotonic() + limit_s
    while True:
        left = cluster.applications()
        if not any(each.name == name for each in left):
            return ClusterReport(True, (), cluster.address, left, f"{name} is gone")
        if time.monotonic() > deadline:
            finding = Finding("ray-application", "error", f"{name} is still there", "llmops deploy status")
            return ClusterReport(False, (finding,), cluster.address, left, f"{name} is not gone yet")
        time.sleep(POLL_S)


def view(report: ClusterReport) -> Document:
    """Applications with their deployments."""
    rows = tuple(
        (
            application.name,
            application.status.lower(),
            each.name,
            each.status.lower(),
            f"{each.running} of {each.wanted}",
        )
        for application in report.applications
        for each in application.deployments or ()
    )
    blocks: list[Block] = [Facts((("dashboard", report.address), *((("models", report.url),) if report.url else ())))]
    if rows:
        blocks.append(Table(("application", "status", "deployment", "its status", "replicas"), rows))
    blocks += told(report.findings)
    return Document("ray", tuple(blocks), Text(report.verdict, "good" if report.ok else "bad"))
