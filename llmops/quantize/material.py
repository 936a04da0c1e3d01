"""Texts for calibration and evaluation: found, read and hashed before any work."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path

from llmops.errors import UsageError
from llmops.quantize.adapters.texts import BadTextError, read_documents, size_in_bytes
from llmops.quantize.spec import BUILTIN


@dataclass(frozen=True, slots=True)
class TextFacts:
    """A text file: its path, digest, number of documents and UTF-8 bytes of text."""

    name: str
    path: Path
    sha256: str
    documents: int
    size_bytes: int


def calibration_text(name: str) -> TextFacts:
    """The calibration text that ``--calibration`` names.

    Raises:
        UsageError: It is missing, cannot be read or decoded, or is empty.
    """
    if not name.strip():
        raise UsageError("--calibration is empty", f"give a file, or leave it out for {BUILTIN}")
    if name == BUILTIN:
        return _facts(name, _shipped("calibration.ja-en.jsonl"), "--calibration")
    if name.startswith("builtin"):
        raise UsageError(f"--calibration {name}: there is no such built-in text", f"the one there is: {BUILTIN}")
    return _facts(name, Path(name), "--calibration")


def evaluation_text(path: Path | None) -> TextFacts:
    """The held-out text; None takes the project's own.

    Raises:
        UsageError: It is missing, cannot be read or decoded, or is empty.
    """
    if path is None:
        return _facts("builtin:held-out", _shipped("heldout.ja-en.jsonl"), "--eval-text")
    return _facts(str(path), path, "--eval-text")


def _shipped(name: str) -> Path:
    return Path(str(files("llmops.quantize") / "data" / name))


def _facts(name: str, path: Path, option: str) -> TextFacts:
    if path.is_dir():
        raise UsageError(f"{option} {name}: it is a directory", "give one .jsonl or text file")
    try:
        documents = read_documents(path)
        digest = hashlib.sha256(path.read_bytes()).hexdigest()
    except FileNotFoundError as error:
        raise UsageError(f"{option} {name}: there is no such file", f"check the path, or use {BUILTIN}") from error
    except BadTextError as error:
        raise UsageError(
            f"{option} {name}: {error}", 'give UTF-8 text, or .jsonl with {"text": …} or {"messages": […]} a line'
        ) from error
    except OSError as error:
        raise UsageError(f"{option} {name}: {error.strerror or error}", "check the path and its permissions") from error
    return TextFacts(name, path.absolute(), digest, len(documents), size_in_bytes(documents))
