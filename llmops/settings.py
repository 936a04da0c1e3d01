"""How this machine and this site run llmops: one value for each setting, and where it comes from.

Order: command-line flag > environment ``LLMOPS_…`` > ``./llmops.yaml`` > ``$XDG_CONFIG_HOME/llmops/config.yaml`` >
built-in. A command passes its flags on itself; this module settles the rest.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Annotated, Any, Final

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from llmops.errors import UsageError
from llmops.recipes import Yaml, load_yaml, validate

PREFIX: Final = "LLMOPS_"


def _xdg(variable: str, fallback: str) -> Path:
    return Path(os.environ.get(variable) or Path.home() / fallback) / "llmops"


class Settings(BaseModel):
    """Every setting. The description of each field is its documentation in ``llmops config show``."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    cache_dir: Annotated[Path, Field(description="Converted models and other things that can be made again")] = Field(
        default_factory=lambda: _xdg("XDG_CACHE_HOME", ".cache")
    )
    engines_dir: Annotated[Path, Field(description="Isolated environments made by llmops engines install")] = Field(
        default_factory=lambda: _xdg("XDG_DATA_HOME", ".local/share") / "engines"
    )
    state_dir: Annotated[Path, Field(description="Servers started with --detach")] = Field(
        default_factory=lambda: _xdg("XDG_STATE_HOME", ".local/state")
    )
    runs_dir: Annotated[Path, Field(description="Where llmops run writes its reports")] = Path("runs")
    threads: Annotated[int | None, Field(ge=1, description="CPU threads for engines; unset: the free cores")] = None
    hub_timeout_s: Annotated[float, Field(gt=0, description="How long to try a model hub before the next source")] = (
        10.0
    )
    offline: Annotated[bool, Field(description="Never contact a model hub")] = False
    engine_python: Annotated[dict[str, Path], Field(description="Interpreter for an engine, by engine name")] = Field(
        default_factory=dict
    )


@dataclass(frozen=True, slots=True)
class Setting:
    """One settled value and its origin: ``built-in``, a variable name, or ``file:line``."""

    name: str
    value: Any
    origin: str
    description: str


def config_files() -> tuple[Path, ...]:
    """The configuration files that are looked at, strongest first."""
    return (Path("llmops.yaml"), _xdg("XDG_CONFIG_HOME", ".config") / "config.yaml")


@cache
def settings() -> Settings:
    """The settings of this process, read once."""
    return Settings.model_validate({each.name: each.value for each in settle()})


def settle(environment: Mapping[str, str] | None = None) -> tuple[Setting, ...]:
    """Every setting with its origin.

    Raises:
        UsageError: An unknown key or a wrong value, with file:line or the name of the variable.
    """
    env = os.environ if environment is None else environment
    files = [load_yaml(path) for path in config_files() if path.is_file()]
    for document in files:
        if document.data is not None:
            validate(Settings, document)
    built_in = Settings()
    return tuple(
        Setting(name, *_settle_one(name, built_in, files, env), description=_describe(name))
        for name in Settings.model_fields
    )


def _settle_one(name: str, built_in: Settings, files: list[Yaml], env: Mapping[str, str]) -> tuple[Any, str]:
    variable = PREFIX + name.upper()
    if name == "engine_python":
        return _settle_engine_python(files, env)
    if env.get(variable):
        return _from_variable(name, variable, env[variable]), variable
    for document in files:
        if document.data and name in document.data:
            value = getattr(validate(Settings, document), name)
            return value, f"{document.file}:{document.line((name,))}"
    return getattr(built_in, name), "built-in"


def _settle_engine_python(files: list[Yaml], env: Mapping[str, str]) -> tuple[dict[str, Path], str]:
    """The one mapping: merged by engine name, ``LLMOPS_ENGINE_PYTHON_VLLM`` over the files."""
    merged: dict[str, Path] = {}
    origins = []
    for document in reversed(files):
        if document.data and "engine_python" in document.data:
            merged |= validate(Settings, document).engine_python
            origins.append(f"{document.file}:{document.line(('engine_python',))}")
    prefix = PREFIX + "ENGINE_PYTHON_"
    for variable, value in sorted(env.items()):
        if variable.startswith(prefix) and value:
            merged[variable.removeprefix(prefix).lower()] = Path(value)
            origins.append(variable)
    return merged, ", ".join(origins) or "built-in"


def _from_variable(name: str, variable: str, text: str) -> Any:
    try:
        return getattr(Settings.model_validate({name: text}), name)
    except ValidationError as error:
        said = error.errors()[0]["msg"]
        raise UsageError(f"the environment variable {variable}: {said[:1].lower()}{said[1:]}, not {text!r}") from error


def _describe(name: str) -> str:
    return Settings.model_fields[name].description or ""
