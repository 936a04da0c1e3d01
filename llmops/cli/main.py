"""The entry point: assembles the verbs, and turns the parser's complaints into the project's error form."""

from __future__ import annotations

import importlib
import os
import sys
from typing import Annotated, Final

import typer

from llmops import __version__
from llmops.errors import ExitCode, UsageError

# Each module defines ``register(app)``. A test imports every one and checks that none brings a heavy library.
VERBS: Final = (
    "run",
    "recipes",
    "inspect",
    "convert",
    "quantize",
    "evaluate",
    "export",
    "build",
    "plan",
    "serve",
    "ps",
    "check",
    "deploy",
    "bench",
    "diagnose",
    "doctor",
    "gateway",
    "cost",
    "callers",
    "keys",
    "tokens",
    "engines",
    "gpus",
    "config",
)

app = typer.Typer(
    name="llmops",
    help="Take a language model from a checkpoint to a measured, cost-controlled endpoint, and say why when it fails",
    epilog="Start with: llmops run recipes/quickstart.yaml",
    rich_markup_mode=None,
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 80},
)


def _print_version(value: bool) -> None:
    if value:
        typer.echo(f"llmops {__version__}")
        raise typer.Exit


@app.callback()
def _root(
    version: Annotated[
        bool, typer.Option("--version", callback=_print_version, is_eager=True, help="Print the version")
    ] = False,
) -> None:
    """Global options."""


for _name in VERBS:
    importlib.import_module(f"llmops.cli.{_name}").register(app)


def main() -> None:
    """Run the command line; every way out has its exit code."""
    if os.environ.get("_LLMOPS_COMPLETE"):
        app()
    try:
        code = app(standalone_mode=False, prog_name="llmops")
    except typer.Exit as stop:
        code = stop.exit_code
    except typer.Abort:
        code = ExitCode.INTERRUPTED
    except typer.TyperException as error:
        code = _usage(error)
    except KeyboardInterrupt:
        code = ExitCode.INTERRUPTED
    raise SystemExit(int(code or 0))


def _usage(error: typer.TyperException) -> int:
    """One line and a hint for a wrong option, argument or command; the JSON document too where it was asked for."""
    context = getattr(error, "ctx", None)
    path = context.command_path if context else "llmops"
    message = error.format_message()
    if type(error).__name__ == "NoArgsIsHelpError":
        sys.stderr.write(message + "\n")
        return ExitCode.USAGE
    from llmops.cli import output

    message, _, suggestion = message.partition(" Did you mean ")
    hint = f"did you mean {suggestion}" if suggestion else f"{path} --help"
    words = path.split()[1:]
    mode = output.Mode(verb=" ".join(words) or "llmops", json="--json" in sys.argv)
    return output.fail(mode, UsageError(message.rstrip("."), hint))


if __name__ == "__main__":
    main()
