"""``llmops recipes``: what ships with llmops, shown, copied and checked."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from llmops.errors import UsageError
from llmops.findings import Finding
from llmops.pipeline.spec import load_recipe
from llmops.recipes import YamlError, find_recipe, shipped_recipes
from llmops.report.document import Code, Document, Table, Text
from llmops.report.files import write_whole


@dataclass(frozen=True, slots=True)
class RecipeRow:
    """One shipped recipe."""

    name: str
    summary: str
    steps: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Catalogue:
    """Every shipped recipe."""

    recipes: tuple[RecipeRow, ...]
    ok: bool = True
    findings: tuple[Finding, ...] = ()


@dataclass(frozen=True, slots=True)
class RecipeText:
    """The text of one recipe, and where it was read or written."""

    name: str
    path: Path
    text: str
    ok: bool = True
    findings: tuple[Finding, ...] = ()


@dataclass(frozen=True, slots=True)
class Validation:
    """What is wrong with some recipes."""

    files: tuple[Path, ...]
    ok: bool
    findings: tuple[Finding, ...]


def catalogue() -> Catalogue:
    """Every recipe that ships with llmops."""
    rows = []
    for name, path in shipped_recipes().items():
        recipe, _ = load_recipe(path)
        rows.append(RecipeRow(name, recipe.summary, tuple(step.verb for step in recipe.steps)))
    return Catalogue(tuple(rows))


def show(name: str) -> RecipeText:
    """The text of a recipe.

    Raises:
        UsageError: There is no such recipe.
    """
    path = find_recipe(name)
    return RecipeText(name, path, path.read_text(encoding="utf-8"))


def copy(name: str, target: Path) -> RecipeText:
    """Write a recipe to ``target`` (a file, or a directory) to be changed there.

    Raises:
        UsageError: There is no such recipe, or the target exists.
    """
    source = find_recipe(name)
    target = target / source.name if target.is_dir() else target
    if target.exists():
        raise UsageError(f"{target} exists", "remove it, or choose another name")
    text = source.read_text(encoding="utf-8")
    write_whole(target, text)
    return RecipeText(name, target, text)


def validate_files(names: list[str]) -> Validation:
    """Check recipes without running them; with no names, all that ship with llmops."""
    paths = [find_recipe(name) for name in names] or list(shipped_recipes().values())
    findings: list[Finding] = []
    for path in paths:
        try:
            load_recipe(path)
        except YamlError as error:
            findings += error.findings
        except UsageError as error:
            findings.append(_located(error, path))
        else:
            findings.append(Finding("valid-recipe", "ok", f"{path} is valid", file=str(path)))
    return Validation(tuple(paths), all(f.severity == "ok" for f in findings), tuple(findings))


def _located(error: UsageError, path: Path) -> Finding:
    place = error.message.removeprefix(f"{path}:")
    number, _, rest = place.partition(":")
    line = int(number) if number.isdigit() else None
    return Finding("invalid-yaml", "error", rest.strip() if line else error.message, error.hint, str(path), line)


def view_catalogue(report: Catalogue) -> Document:
    """A table of recipes."""
    rows = tuple((row.name, row.summary, " ".join(row.steps)) for row in report.recipes)
    hint = Text("llmops recipes show NAME prints one; llmops recipes copy NAME FILE lets you change it", "dim")
    return Document("", (Table(("recipe", "what it does", "steps"), rows), hint))


def view_text(report: RecipeText) -> Document:
    """The recipe's text."""
    return Document(str(report.path), (Code(report.text.rstrip("\n"), "yaml"),))


def view_copy(report: RecipeText) -> Document:
    """What to do with the copy."""
    return Document("", (), Text(f"wrote {report.path}; run it with: llmops run {report.path}", "good"))


def view_validation(report: Validation) -> Document:
    """Each problem with its place, or that all is well."""
    wrong = [finding for finding in report.findings if finding.severity != "ok"]
    rows = tuple((f"{f.file}:{f.line}" if f.line else f.file or "", f.message, f.remedy or "") for f in wrong)
    count = len(report.files)
    if report.ok:
        return Document("", (), Text(f"{count} recipe{'s are' if count != 1 else ' is'} valid", "good"))
    return Document("", (Table(("where", "what is wrong", "remedy"), rows),), Text(f"{len(wrong)} problems", "bad"))
