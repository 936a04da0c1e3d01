"""``llmops plan -c SITE``: every model of a site, planned for its kind of machine."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

from llmops.deploy.placed import Placed, planned
from llmops.deploy.site import load_site
from llmops.errors import UsageError
from llmops.findings import Finding
from llmops.planning.plan import findings_of_plan
from llmops.planning.view import view_model
from llmops.report.document import Block, Document, Heading, Table, Text
from llmops.report.told import told


@dataclass(frozen=True, slots=True)
class SitePlan:
    """A site's models with their plans; ``ok`` when each fits."""

    site: str
    models: tuple[Placed, ...]
    findings: tuple[Finding, ...]
    explain: bool = False

    @property
    def ok(self) -> bool:
        """Whether every model fits."""
        return all(each.plan.fits for each in self.models)

    def data(self) -> dict[str, Any]:
        """As ``llmops plan`` prints it, each model with its node and the replicas that the site runs."""
        models = [
            {
                **{field.name: getattr(each.plan, field.name) for field in fields(each.plan)},
                "node": each.model.node,
                "replicas": each.replicas,
            }
            for each in self.models
        ]
        return {"host": self.site, "models": models}


def plan_site(config: Path, models: Sequence[Path] = (), *, explain: bool = False) -> SitePlan:
    """Plan a site.

    Raises:
        UsageError: The site is wrong, models are named beside it, or a model's facts are not known, with file:line.
    """
    if models:
        raise UsageError(f"{models[0]} and --config exclude each other", "the site names its models itself")
    site, document = load_site(config)
    placed = planned(site, document, config.parent)
    findings = tuple(finding for each in placed for finding in findings_of_plan(each.plan))
    return SitePlan(site.name, placed, findings, explain)


def view(report: SitePlan) -> Document:
    """A line a model; with ``--explain`` each in full."""
    rows = tuple(_row(each) for each in report.models)
    right = frozenset({"context", "KV tokens", "at once"})
    columns = ("model", "node", "replicas", "each on", "type", "context", "KV tokens", "at once")
    blocks: list[Block] = [Table(columns, rows, right)]
    for each in report.models if report.explain else ():
        blocks += [Heading(each.name), *view_model(each.plan, explain=True)]
    blocks += told(report.findings)
    verdict = Text("everything fits", "good") if report.ok else Text("does not fit", "bad")
    return Document(f"plan for {report.site}", tuple(blocks), verdict)


def _row(each: Placed) -> tuple[str, ...]:
    plan = each.plan
    return (
        each.name,
        each.model.node,
        str(each.replicas) + (f"-{each.model.autoscale.max}" if each.model.autoscale else ""),
        f"{each.gpus_each} GPU" if each.gpus_each else "CPU",
        plan.dtype + (f", {plan.quantization}" if plan.quantization else ""),
        f"{plan.max_model_len:,}",
        "-" if plan.kv_tokens is None else f"{plan.kv_tokens:,}",
        f"{plan.max_concurrency:g}" if plan.kv_tokens and plan.max_concurrency is not None else "-",
    )
