"""The model to work on: a directory, a GGUF file that is converted first, or a hub id."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

from llmops.checkpoint import sources
from llmops.checkpoint.convert import convert_gguf
from llmops.checkpoint.facts import ModelFacts
from llmops.checkpoint.reader import read_model
from llmops.progress import Progress
from llmops.settings import settings


@dataclass(frozen=True, slots=True)
class Source:
    """A model as the user named it, and as it lies on the disk."""

    name: str
    path: Path
    facts: ModelFacts


def resolve(name: str, progress: Progress) -> Source:
    """Find the model, fetch it where it is a hub id, and read its headers.

    Raises:
        UsageError: There is no such file or directory, or it is no model.
        OutsideError: The hub does not give it.
    """
    wanted = sources.parse_source(name)
    path = Path(name).expanduser()
    if wanted.kind != "local":
        timeout_s = settings().hub_timeout_s
        cache = settings().cache_dir / "models"
        path = sources.resolve([wanted], cache, progress, as_directory=False, connect_timeout_s=timeout_s).path
    facts = read_model(path)
    return Source(name, facts.path.absolute(), facts)


def convert(source: Source, work: Path, progress: Progress) -> Source:
    """A GGUF file as a directory under ``work``, which engines can read.

    Raises:
        MachineError: A package, memory or disk space is missing.
        OutsideError: transformers cannot read this architecture.
    """
    target = work / "converted"
    convert_gguf(source.path, target, progress)
    return replace(source, path=target, facts=read_model(target))
