"""Engines: which there are, the isolated environments that some need, and which interpreter runs each."""

from llmops.engines.catalog import ENGINES, EngineSpec, engine
from llmops.engines.checking import check, list_engines
from llmops.engines.environments import Environment, engine_version, environment, interpreter
from llmops.engines.installation import install
from llmops.engines.view import view_check, view_install, view_list

__all__ = [
    "ENGINES",
    "EngineSpec",
    "Environment",
    "check",
    "engine",
    "engine_version",
    "environment",
    "install",
    "interpreter",
    "list_engines",
    "view_check",
    "view_install",
    "view_list",
]
