"""``llmops check``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from llmops.cli import options as opt

check = typer.Typer(
    name="check",
    help="Check files for a server without starting it",
    epilog="Example: llmops check triton ./model_repository",
    no_args_is_help=True,
)


def register(app: typer.Typer) -> None:
    """Add the commands."""
    app.add_typer(check)


@check.command("triton", epilog="Example: llmops check triton ./model_repository --backends python,onnxruntime")
@opt.shared
def triton(
    answer: opt.Answer,
    repository: Annotated[Path, typer.Argument(metavar="DIR", help="A Triton model repository, whoever wrote it")],
    backends: Annotated[
        str | None, typer.Option(metavar="NAME,…", help="Backends that the server has; default: not checked")
    ] = None,
) -> None:
    """Read every config.pbtxt, apply the server's load rules and follow the ensembles"""
    import llmops.serve.triton.check as package

    answer.run(
        lambda _progress: package.check_repository(repository, tuple((backends or "").split(",")) if backends else ()),
        package.view,
    )


@check.command("kubernetes", epilog="Example: llmops check kubernetes ./deploy")
@opt.shared
def kubernetes(
    answer: opt.Answer,
    directory: Annotated[Path, typer.Argument(metavar="DIR", help="Kubernetes manifests, whoever wrote them")],
    version: Annotated[
        str | None, typer.Option(help="Of Kubernetes, such as 1.33  [default: the newest known]")
    ] = None,
) -> None:
    """Manifests against Kubernetes' schemas and against each other, offline"""
    from llmops.deploy import check as manifests

    answer.run(
        lambda _progress: manifests.check_directory(directory, version),
        manifests.view,
    )
