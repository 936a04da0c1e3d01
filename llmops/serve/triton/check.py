"""``llmops check triton``: read a model repository and apply the server's rules without a server."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from llmops.errors import UsageError
from llmops.findings import Finding
from llmops.report.document import Block, Document, Table, Text
from llmops.serve.triton.ensembles import ModelDir
from llmops.serve.triton.pbtxt import Message, PbtxtError, parse
from llmops.serve.triton.rules import backend_of, check_models


@dataclass(frozen=True, slots=True)
class CheckReport:
    """What is in a repository and what a server would refuse."""

    ok: bool
    findings: tuple[Finding, ...]
    repository: Path
    models: dict[str, ModelDir] = field(default_factory=dict)

    def data(self) -> dict[str, Any]:
        """Each model's backend, versions and batch size."""
        return {
            "repository": self.repository,
            "models": [
                {"name": model.name, "backend": backend_name(model), "versions": sorted(model.versions),
                 "max_batch_size": model.config.get("max_batch_size") if model.config else None}
                for model in self.models.values()
            ],
        }  # fmt: skip


def check_repository(repository: Path, backends: tuple[str, ...] = ()) -> CheckReport:
    """Check every model of a repository.

    Args:
        repository: The directory that a server would get.
        backends: Backends that the server has; empty when that is not known.

    Raises:
        UsageError: There is no such directory, or no model in it.
    """
    if not repository.is_dir():
        raise UsageError(f"there is no model repository {repository}", "give the directory with one directory a model")
    if (repository / "config.pbtxt").is_file():
        raise UsageError(
            f"{repository} is one model, not a repository", f"llmops check triton {repository.absolute().parent}"
        )
    models, mistakes = read_repository(repository)
    if not models and not mistakes:
        raise UsageError(f"{repository} holds no models", "each model has a directory with config.pbtxt")
    findings = (*mistakes, *check_models(models, frozenset(backends) if backends else None))
    return CheckReport(not any(f.severity == "error" for f in findings), findings, repository, models)


def read_repository(repository: Path) -> tuple[dict[str, ModelDir], tuple[Finding, ...]]:
    """The models of a repository, and a finding for each configuration that cannot be read."""
    models: dict[str, ModelDir] = {}
    mistakes: list[Finding] = []
    for directory in sorted(path for path in repository.iterdir() if path.is_dir() and not path.name.startswith(".")):
        file = directory / "config.pbtxt"
        shown = str(file)
        config: Message | None = None
        if file.is_file():
            try:
                config = parse(file.read_text(encoding="utf-8"))
            except PbtxtError as error:
                wrong = error.mistake
                text = f"{directory.name}: {wrong.message}"
                mistakes.append(Finding("triton-config", "error", text, wrong.hint, shown, wrong.line, wrong.column))
            except UnicodeDecodeError:
                text = f"{directory.name}: not UTF-8 text"
                mistakes.append(Finding("triton-config", "error", text, None, shown, 1, 1))
        readable = config is not None or not file.is_file()
        models[directory.name] = ModelDir(directory.name, config, shown, _versions(directory), readable)
    return models, tuple(mistakes)


def _versions(directory: Path) -> dict[str, frozenset[str]]:
    """Version directories are whole numbers above 0 without leading zeros; others are ignored by the server."""
    return {
        each.name: frozenset(file.name for file in each.iterdir())
        for each in directory.iterdir()
        if each.is_dir() and each.name.isdecimal() and each.name == str(int(each.name)) and each.name != "0"
    }


def backend_name(model: ModelDir) -> str:
    """For tables."""
    if model.config is None:
        return "from its file" if model.readable else "cannot be read"
    return backend_of(model.config) or str(model.config.get("platform")) or "none"


def view(report: CheckReport) -> Document:
    """A table of models, then what is wrong, then the verdict."""
    blocks: list[Block] = [
        Table(
            ("model", "backend", "versions", "batch"),
            tuple(
                (model.name, backend_name(model), " ".join(sorted(model.versions)) or "none",
                 str(model.config.get("max_batch_size")) if model.config else "")
                for model in report.models.values()
            ),
            frozenset({"batch"}),
        )
    ]  # fmt: skip
    for finding in report.findings:
        place = ":".join(str(part) for part in (finding.file, finding.line, finding.column) if part)
        place += ": " if place else ""
        hint = f" ({finding.remedy})" if finding.remedy else ""
        blocks.append(Text(f"{place}{finding.message}{hint}", "bad" if finding.severity == "error" else "warn"))
    errors = sum(finding.severity == "error" for finding in report.findings)
    if errors:
        verdict = Text(f"a server would refuse it: {errors} mistake{'s' if errors > 1 else ''}", "bad")
    else:
        verdict = Text(f"{len(report.models)} models: nothing that a server would refuse", "good")
    return Document(f"Triton repository {report.repository}", tuple(blocks), verdict)
