"""Paths in a config are relative to it."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

from pydantic import BaseModel

if TYPE_CHECKING:
    from llmops.gateway.config import Gateway

M = TypeVar("M", bound="BaseModel | None")


def relative_to(config: Gateway, directory: Path) -> dict[str, object]:
    """The parts of a config that change when its relative paths are taken to lie below ``directory``."""
    changes: dict[str, object] = {}
    if config.prices is not None:
        changes["prices"] = directory / config.prices
    if isinstance(config.access_log, Path):
        changes["access_log"] = directory / config.access_log
    if config.money is not None:
        changes["money"] = _moved(config.money, ("directory",), directory)
    if config.access is not None:
        access = _moved(config.access, ("callers", "vault"), directory)
        kind, _, path = (config.access.master or "").partition(":")
        changes["access"] = (
            access.model_copy(update={"master": f"file:{directory / path}"}) if kind == "file" else access
        )
    if config.guard is not None:
        changes["guard"] = _moved(config.guard, ("classifier",), directory)
    changes["keys"] = tuple(_moved(key, ("file",), directory) for key in config.keys)
    changes["providers"] = {
        name: _moved(form, ("key_file", "ca_file"), directory) for name, form in config.providers.items()
    }
    changes["routes"] = tuple(
        route.model_copy(
            update={
                "guard": _moved(route.guard, ("classifier",), directory),
                "semantic_cache": _moved(route.semantic_cache, ("model",), directory),
            }
        )
        for route in config.routes
    )
    return changes


def _moved(form: M, names: Sequence[str], directory: Path) -> M:
    """A form with some of its paths made absolute. An absolute path stays as it is."""
    if form is None:
        return form
    paths = {name: getattr(form, name) for name in names}
    return form.model_copy(update={name: directory / path for name, path in paths.items() if path is not None})
