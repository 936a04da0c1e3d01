"""Write a model repository to the disk, whole."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path
from typing import Final

from llmops.errors import UsageError
from llmops.serve.triton.parts import Repository

MARKER: Final = ".llmops-repository.json"


def write_repository(repository: Repository, directory: Path) -> None:
    """Write a repository whole: through ``NAME.partial`` and a rename, replacing an older one of ours.

    Raises:
        UsageError: The directory holds something else.
    """
    if directory.exists() and not (directory / MARKER).is_file() and any(directory.iterdir()):
        raise UsageError(f"{directory} holds files that llmops did not write", "give an empty directory with --repository, "
                         "or leave the model out to serve it as it is")  # fmt: skip
    partial = directory.with_name(directory.name + ".partial")
    shutil.rmtree(partial, ignore_errors=True)
    try:
        partial.mkdir(parents=True)
        for name in repository.directories:
            (partial / name).mkdir(parents=True)
        for name, text in repository.texts.items():
            (partial / name).parent.mkdir(parents=True, exist_ok=True)
            (partial / name).write_text(text, encoding="utf-8")
        for name, source in repository.links.items():
            (partial / name).parent.mkdir(parents=True, exist_ok=True)
            _place(source, partial / name)
        (partial / MARKER).write_text(
            json.dumps({"models": dict(repository.models)}, indent=2) + "\n", encoding="utf-8"
        )
        shutil.rmtree(directory, ignore_errors=True)
        partial.rename(directory)
    except BaseException:
        shutil.rmtree(partial, ignore_errors=True)
        raise


def _place(source: Path, target: Path) -> None:
    """A hard link for large files, so that a repository costs no space; a copy elsewhere."""
    if source.suffix != ".py":
        try:
            os.link(source.resolve(), target)
            return
        except OSError:
            pass
    shutil.copyfile(source, target)
