"""The steps that make an engine's environment, as data."""

from __future__ import annotations

import configparser
import os
import shlex
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Final

from llmops.engines.catalog import EngineSpec

# Higher than any version that a requirement could ask for at least.
_PLACEHOLDER_VERSION: Final = "9999"

# Prints the direct requirements of a distribution without the skipped ones. Runs in the new environment, where pip
# brings its own copy of `packaging`.
_REMAINING: Final = """
import sys
from importlib.metadata import requires
from pip._vendor.packaging.requirements import Requirement
name, target, *skip = sys.argv[1:]
kept = []
for text in requires(name) or ():
    requirement = Requirement(text)
    if requirement.marker is None or requirement.marker.evaluate({"extra": ""}):
        if requirement.name.lower() not in skip:
            requirement.marker = None
            kept.append(str(requirement))
open(target, "w").write("\\n".join(kept) + "\\n")
"""


@dataclass(frozen=True, slots=True)
class Step:
    """One step: a command, or a small act of our own, or both in this order.

    Attributes:
        what: A phrase for the progress line.
        shown: The command as a person would type it.
    """

    what: str
    shown: str
    argv: tuple[str, ...] = ()
    env: Mapping[str, str | None] = field(default_factory=dict)
    act: Callable[[], None] | None = None


def steps(
    spec: EngineSpec, path: Path, requirements: tuple[str, ...], installer: str, *, cuda: bool
) -> tuple[Step, ...]:
    """All steps for one environment. On CUDA machines nothing is skipped: there the published builds are the right ones."""
    skip = () if cuda else spec.skip
    also = () if cuda else spec.also_cpu
    python = path / "bin" / "python"
    make = _command("making the environment", (sys.executable, "-m", "venv", "--clear", str(path)))
    if installer == "uv":
        install = _with_uv(path, python, (*requirements, *also), skip)
    elif skip:
        install = _with_pip_leaving_out(spec, path, python, requirements, skip)
    else:
        everything = (*requirements, *also)
        install = (_command(f"installing {requirements[0]}", (*_pip(python), "install", *everything)),)
    alias: tuple[Step, ...] = ()
    if spec.alias and not cuda:
        act = partial(write_alias, path, spec.alias, spec.core or spec.distribution)
        alias = (Step("naming the engine as it names itself", f"# metadata for {spec.alias!r}", act=act),)
    return (make, *install, *alias)


def _command(what: str, argv: tuple[str, ...], env: Mapping[str, str | None] | None = None) -> Step:
    return Step(what, shlex.join(argv), argv, env or {})


def _pip(python: Path) -> tuple[str, ...]:
    return (str(python), "-m", "pip", "--disable-pip-version-check", "--no-input")


def _with_pip_leaving_out(
    spec: EngineSpec, path: Path, python: Path, requirements: tuple[str, ...], skip: tuple[str, ...]
) -> tuple[Step, ...]:
    """With pip, which cannot override a dependency, the engine goes in alone, then its other requirements, while placeholders
    make pip believe that the skipped ones are there for those who ask for them further down.
    """
    listed, core = path / "requirements.txt", spec.core or spec.distribution
    return (
        _command(f"installing {requirements[0]} alone", (*_pip(python), "install", "--no-deps", *requirements)),
        _command("reading what it needs", (str(python), "-c", _REMAINING, core, str(listed), *skip)),
        Step("holding the places of what is left out", f"# without {', '.join(skip)}", act=partial(hold, path, skip)),
        _command("installing what it needs (minutes)", (*_pip(python), "install", "-r", str(listed), *spec.also_cpu)),
        Step("freeing those places", "# placeholders removed", act=partial(free, path, skip)),
    )


def _with_uv(path: Path, python: Path, requirements: tuple[str, ...], skip: tuple[str, ...]) -> tuple[Step, ...]:
    overrides = path / "overrides.txt"
    argv = ["uv", "pip", "install", "--python", str(python), *uv_sources()]
    act = None
    if skip:
        # A marker that is never true takes a package out of the resolution.
        text = "".join(f'{name} ; python_version < "0"\n' for name in skip)
        act = partial(_write, overrides, text)
        argv += ["--override", str(overrides)]
    install = _command(f"installing {requirements[0]} with uv", (*argv, *requirements), uv_environment())
    if act is None:
        return (install,)
    return (Step("listing what is left out", f"# without {', '.join(skip)}", act=act), install)


def _write(path: Path, text: str) -> None:
    path.write_text(text, encoding="utf-8")


def uv_sources() -> tuple[str, ...]:
    """The sources of pip as uv's options, since uv reads neither pip's variables nor its files."""
    found: list[str] = []
    for variable, key, option in (
        ("PIP_FIND_LINKS", "find-links", "--find-links"),
        ("PIP_INDEX_URL", "index-url", "--index-url"),
        ("PIP_EXTRA_INDEX_URL", "extra-index-url", "--extra-index-url"),
    ):
        if os.environ.get("UV_" + variable.removeprefix("PIP_")):
            continue
        value = os.environ.get(variable) or _pip_config().get(key, "")
        for each in value.split():
            if not _is_missing_directory(each):
                found += [option, each]
    if "--extra-index-url" in found:
        found += ["--index-strategy", "unsafe-best-match"]  # what pip does: the best version of all indexes
    return tuple(found)


def uv_environment() -> dict[str, str | None]:
    """A certificate bundle that pip was told of holds for uv as well."""
    bundle = os.environ.get("PIP_CERT") or _pip_config().get("cert")
    return {"SSL_CERT_FILE": bundle} if bundle and not os.environ.get("SSL_CERT_FILE") else {}


def _is_missing_directory(source: str) -> bool:
    plain = source.removeprefix("file://")
    return plain.startswith("/") and not Path(plain).exists()


def _pip_config() -> dict[str, str]:
    """``[global]`` of the configuration files that pip reads, the later over the earlier."""
    home = Path.home()
    files = (
        Path("/etc/pip.conf"),
        home / ".pip" / "pip.conf",
        Path(os.environ.get("XDG_CONFIG_HOME") or home / ".config") / "pip" / "pip.conf",
        Path(sys.prefix) / "pip.conf",
        Path(os.environ.get("PIP_CONFIG_FILE") or os.devnull),
    )
    parser = configparser.RawConfigParser(strict=False)
    parser.read([file for file in files if file.is_file()], encoding="utf-8")
    return dict(parser["global"]) if parser.has_section("global") else {}


def site_packages(path: Path) -> Path:
    """The ``site-packages`` of an environment."""
    return next((path / "lib").glob("python3.*")) / "site-packages"


def installed_version(path: Path, distribution: str) -> str | None:
    """The version of a distribution, read from the name of its metadata: no interpreter is started."""
    for found in sorted(path.glob(f"lib/python3*/site-packages/{distribution.replace('-', '_')}-*.dist-info")):
        return found.name.removesuffix(".dist-info").rpartition("-")[2]
    return None


def hold(path: Path, names: tuple[str, ...]) -> None:
    """Write metadata that makes pip take ``names`` for installed."""
    for name in names:
        _metadata(site_packages(path), name, _PLACEHOLDER_VERSION)


def free(path: Path, names: tuple[str, ...]) -> None:
    """Remove what :func:`hold` wrote."""
    for name in names:
        directory = _metadata_directory(site_packages(path), name, _PLACEHOLDER_VERSION)
        (directory / "METADATA").unlink(missing_ok=True)
        if directory.is_dir():
            directory.rmdir()


def write_alias(path: Path, alias: str, distribution: str) -> None:
    """Metadata under a second name, with the version of ``distribution``."""
    version = installed_version(path, distribution) or "0"
    if "+" not in version:
        version += "+cpu"  # how the engine's own code tells a CPU build
    _metadata(site_packages(path), alias, version)


def _metadata(site: Path, name: str, version: str) -> None:
    directory = _metadata_directory(site, name, version)
    directory.mkdir(exist_ok=True)
    _write(directory / "METADATA", f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n")


def _metadata_directory(site: Path, name: str, version: str) -> Path:
    return site / f"{name.replace('-', '_')}-{version}.dist-info"
