"""``llmops deploy``: a site in, a directory of files out, whole or not at all."""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Literal

import yaml

from llmops.deploy.placed import Placed, place
from llmops.deploy.site import Site, load_site
from llmops.errors import UsageError
from llmops.findings import Finding
from llmops.report.document import Code, Document, Table, Text
from llmops.units import counted

Kind = Literal["kubernetes", "compose", "ray"]
_NEXT: Final[dict[Kind, str]] = {
    "kubernetes": "llmops check kubernetes {out} && kubectl apply --server-side -k {out}",
    "compose": "docker compose -f {out}/compose.yaml up -d",
    "ray": "serve deploy {out}/serve.yaml --address http://127.0.0.1:8265",
}


@dataclass(frozen=True, slots=True)
class DeployReport:
    """What was written, or with ``--dry-run`` would be."""

    kind: Kind
    out: Path
    files: tuple[str, ...]
    models: tuple[Placed, ...]
    secrets: tuple[str, ...]
    dry_run: bool
    needs: tuple[str, ...] = ()
    findings: tuple[Finding, ...] = ()
    ok: bool = True

    def data(self) -> dict[str, Any]:
        """The JSON ``data``."""
        return {
            "kind": self.kind,
            "out": self.out,
            "files": list(self.files),
            "secrets": list(self.secrets),
            "needs": list(self.needs),
            "models": [
                {
                    "name": each.name,
                    "node": each.model.node,
                    "replicas": each.replicas,
                    "gpus_each": each.gpus_each,
                    "args": list(each.engine_args),
                    "kv_tokens": each.plan.kv_tokens,
                    "max_concurrency": each.plan.max_concurrency,
                }
                for each in self.models
            ],
        }


def deploy(kind: Kind, config: Path, out: Path | None, *, force: bool = False, dry_run: bool = False) -> DeployReport:
    """Render a site.

    Args:
        kind: For which system.
        config: The site's file.
        out: Directory to make; None only for a dry run.
        force: Replace a directory that an earlier call made.
        dry_run: Write nothing.

    Raises:
        UsageError: The site is wrong or a model does not fit, with file:line; or ``out`` exists, or is not given.
    """
    if out is None and not dry_run:
        raise UsageError("it is not said where the files go", "-o DIR, or --address URL of a Ray dashboard")
    out = out or Path("deploy")
    site, document = load_site(config)
    models = place(site, document, config.parent)
    files = _render(kind, site, models)
    if not dry_run:
        _write(out, files, force=force)
    secrets = _secrets(site, files) if kind != "ray" else ()
    return DeployReport(kind, out, tuple(files), models, secrets, dry_run, _needs(kind, site))


def _needs(kind: Kind, site: Site) -> tuple[str, ...]:
    from llmops.deploy import ray

    return ray.requirements(site) if kind == "ray" else ()


def _render(kind: Kind, site: Site, models: tuple[Placed, ...]) -> dict[str, str]:
    if kind == "kubernetes":
        from llmops.deploy import kubernetes

        return {name: _documents(objects) for name, objects in kubernetes.render(site, models).items()}
    if kind == "compose":
        from llmops.deploy import compose

        return {name: _documents([data]) for name, data in compose.render(site, models).items()}
    from llmops.deploy import ray

    return {"serve.yaml": _documents([ray.render(site, models)])}


class _Dumper(yaml.SafeDumper):
    """Writes each list item indented and never an alias, as people write these files."""

    def ignore_aliases(self, _data: Any) -> bool:
        return True

    def increase_indent(self, flow: bool = False, indentless: bool = False) -> None:  # noqa: ARG002 - yaml's signature
        super().increase_indent(flow, indentless=False)


def _text(dumper: yaml.SafeDumper, text: str) -> yaml.ScalarNode:
    style = "|" if "\n" in text else None
    return dumper.represent_scalar("tag:yaml.org,2002:str", text, style=style)


_Dumper.add_representer(str, _text)


def _documents(objects: list[Any]) -> str:
    plain = [json.loads(json.dumps(each)) for each in objects]
    return "---\n".join(
        yaml.dump(each, Dumper=_Dumper, sort_keys=False, allow_unicode=True, width=120) for each in plain
    )


def _write(out: Path, files: Mapping[str, str], *, force: bool) -> None:
    if out.exists() and not force:
        raise UsageError(f"{out} exists", "--force replaces it")
    if out.exists() and not out.is_dir():
        raise UsageError(f"{out} is not a directory", "choose another --output")
    partial = out.with_name(out.name + ".partial")
    shutil.rmtree(partial, ignore_errors=True)
    try:
        partial.mkdir(parents=True)
        for name, text in files.items():
            (partial / name).write_text(text, encoding="utf-8")
        if out.exists():
            _refuse_foreign(out, files)
            shutil.rmtree(out)
        partial.rename(out)
    except BaseException:
        shutil.rmtree(partial, ignore_errors=True)
        raise


def _refuse_foreign(out: Path, files: Mapping[str, str]) -> None:
    """``--force`` replaces what llmops wrote, never somebody's other files."""
    known = (*files, "serve.yaml", "compose.yaml", "gateway.yaml")
    foreign = [path.name for path in out.iterdir() if path.name not in known and not path.name.startswith("model-")]
    if foreign:
        raise UsageError(f"{out} holds {foreign[0]}, which llmops did not write", "choose another --output")


def _secrets(site: Site, files: Mapping[str, str]) -> tuple[str, ...]:
    from llmops.deploy.front import gateway_config, key_variables

    found = [f"{site.hub_token_secret} (key: token)"] if site.hub_token_secret else []
    if site.gateway is not None and files:
        found += [f"gateway-keys (key: {name})" for name in key_variables(gateway_config(site, ()))]
    return tuple(found)


def view(report: DeployReport) -> Document:
    """The models with their places, what to make by hand, and the next command."""
    rows = tuple(
        (
            each.name,
            each.model.node,
            f"{each.replicas} x {each.gpus_each} GPU" if each.gpus_each else f"{each.replicas} x CPU",
            str(each.plan.max_model_len),
            "-" if each.plan.kv_tokens is None else f"{each.plan.kv_tokens:,}",
        )
        for each in report.models
    )
    table = Table(("model", "node", "replicas", "context", "KV tokens"), rows, frozenset({"context", "KV tokens"}))
    notes = [Text(f"needs the secret {secret}") for secret in report.secrets]
    notes += [Text(need) for need in report.needs]
    if report.dry_run:
        return Document("", (table, *notes), Text(f"would write {', '.join(report.files)} to {report.out}/", "dim"))
    steps = Code(_NEXT[report.kind].format(out=report.out), "sh")
    return Document(
        "", (table, *notes, steps), Text(f"wrote {counted(len(report.files), 'file')} to {report.out}/", "good")
    )
