"""``llmops keys``: provider keys in the vault."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from llmops.cli import options as opt

keys = typer.Typer(
    name="keys",
    help="Provider keys, encrypted at rest: set, list, remove, rotate the master key, status",
    epilog="Example: llmops keys set openai --from env:OPENAI_API_KEY",
    no_args_is_help=True,
)
VaultFile = Annotated[
    Path | None, typer.Option("--vault", metavar="FILE", help="The vault; default in the state directory")
]
Master = Annotated[
    str, typer.Option("--master", metavar="SOURCE", help="Master key: env:NAME, file:PATH or 'command:PROGRAM ARG'")
]
ENV = "env:LLMOPS_MASTER_KEY"


def register(app: typer.Typer) -> None:
    """Add the commands."""
    app.add_typer(keys)


@keys.command("master", epilog="Example: llmops keys master --to ~/.llmops-master")
def master_(
    to: Annotated[Path, typer.Option("--to", metavar="FILE", help="A new file, made with mode 600")],
    json: opt.Json = False,
    report: opt.ReportFiles = None,
    quiet: opt.Quiet = False,
    verbose: opt.Verbose = 0,
) -> None:
    """Make a master key: 256 random bits"""
    from llmops.cli import output
    from llmops.gateway.access import provider_keys

    output.run(
        "keys master",
        lambda _progress: provider_keys.make_master(to),
        provider_keys.view,
        json=json,
        report=report,
        quiet=quiet,
        verbose=verbose,
    )


@keys.command("set", epilog="Example: llmops keys set anthropic < key.txt")
def set_(
    name: Annotated[str, typer.Argument(metavar="NAME", help="What the config calls it, as in openai")],
    source: Annotated[
        str, typer.Option("--from", metavar="SOURCE", help="- (stdin, or asked for), env:NAME or file:PATH")
    ] = "-",
    master: Master = ENV,
    vault: VaultFile = None,
    json: opt.Json = False,
    report: opt.ReportFiles = None,
    quiet: opt.Quiet = False,
    verbose: opt.Verbose = 0,
) -> None:
    """Store a key, as a new version where there is one; the value is never a flag"""
    from llmops.cli import output
    from llmops.gateway.access import provider_keys

    output.run(
        "keys set",
        lambda _progress: provider_keys.set_key(name, source, vault, master),
        provider_keys.view,
        json=json,
        report=report,
        quiet=quiet,
        verbose=verbose,
    )


@keys.command("list", epilog="Example: llmops keys list")
def list_(
    vault: VaultFile = None,
    json: opt.Json = False,
    report: opt.ReportFiles = None,
    quiet: opt.Quiet = False,
    verbose: opt.Verbose = 0,
) -> None:
    """Names and versions; needs no master key"""
    from llmops.cli import output
    from llmops.gateway.access import provider_keys

    output.run(
        "keys list",
        lambda _progress: provider_keys.list_keys(vault),
        provider_keys.view,
        json=json,
        report=report,
        quiet=quiet,
        verbose=verbose,
    )


@keys.command("remove", epilog="Example: llmops keys remove openai")
def remove(
    name: Annotated[str, typer.Argument(metavar="NAME")],
    vault: VaultFile = None,
    dry_run: opt.DryRun = False,
    json: opt.Json = False,
    report: opt.ReportFiles = None,
    quiet: opt.Quiet = False,
    verbose: opt.Verbose = 0,
) -> None:
    """Forget a key with all its versions"""
    from llmops.cli import output
    from llmops.gateway.access import provider_keys

    output.run(
        "keys remove",
        lambda _progress: provider_keys.remove_key(name, vault, dry_run=dry_run),
        provider_keys.view,
        json=json,
        report=report,
        quiet=quiet,
        verbose=verbose,
    )


@keys.command("rotate", epilog="Example: llmops keys rotate --new-master file:new.key")
def rotate(
    new_master: Annotated[str, typer.Option("--new-master", metavar="SOURCE", help="The new master key")],
    master: Master = ENV,
    keep_old: Annotated[
        bool, typer.Option("--keep-old", help="Leave both valid, while gateways still run with the old one")
    ] = False,
    vault: VaultFile = None,
    json: opt.Json = False,
    report: opt.ReportFiles = None,
    quiet: opt.Quiet = False,
    verbose: opt.Verbose = 0,
) -> None:
    """Wrap every key by a new master key; if interrupted, run it again"""
    from llmops.cli import output
    from llmops.gateway.access import provider_keys

    output.run(
        "keys rotate",
        lambda _progress: provider_keys.rotate_master(new_master, master, vault, keep_old=keep_old),
        provider_keys.view,
        json=json,
        report=report,
        quiet=quiet,
        verbose=verbose,
    )


@keys.command("status", epilog="Example: llmops keys status --master file:~/.llmops-master")
def status(
    master: Master = ENV,
    vault: VaultFile = None,
    json: opt.Json = False,
    report: opt.ReportFiles = None,
    quiet: opt.Quiet = False,
    verbose: opt.Verbose = 0,
) -> None:
    """Whether the master key decrypts every entry; exit 1 where it does not"""
    from llmops.cli import output
    from llmops.gateway.access import provider_keys

    output.run(
        "keys status",
        lambda _progress: provider_keys.status(vault, master),
        provider_keys.view,
        json=json,
        report=report,
        quiet=quiet,
        verbose=verbose,
    )
