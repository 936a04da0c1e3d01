"""YAML with line numbers: recipes and configs whose every mistake is named with file:line and the nearest right word."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, TypeVar

import yaml

from llmops.errors import UsageError, did_you_mean
from llmops.findings import Finding

if TYPE_CHECKING:
    from pydantic import BaseModel, ValidationError
    from pydantic_core import ErrorDetails

    M = TypeVar("M", bound=BaseModel)

Key = tuple[str | int, ...]
MAX_BYTES: Final = 1 << 20
MAX_DEPTH: Final = 40
_PLAIN_TAGS: Final = ("tag:yaml.org,2002:map", "tag:yaml.org,2002:seq")


@dataclass(frozen=True, slots=True)
class Yaml:
    """A YAML file as plain data, with the line of every key and list item.

    Attributes:
        file: Where it was read from, as the user wrote it.
        data: Plain dicts, lists and scalars.
        lines: Path of keys and indexes -> 1-based line. The empty path is the document.
    """

    file: str
    data: Any
    lines: Mapping[Key, int]

    def line(self, key: Iterable[str | int]) -> int:
        """The line of ``key``, or of the nearest parent that has one."""
        path = tuple(key)
        while path not in self.lines and path:
            path = path[:-1]
        return self.lines.get(path, 1)

    def error(self, key: Iterable[str | int], message: str, hint: str | None = None) -> UsageError:
        """A usage error located at ``key``."""
        return UsageError(f"{self.file}:{self.line(key)}: {message}", hint)


class YamlError(UsageError):
    """Everything that is wrong with one file; ``findings`` has all of it, the message the first."""

    def __init__(self, file: str, findings: tuple[Finding, ...]) -> None:
        first = findings[0]
        more = len(findings) - 1
        others = ", ".join(f"line {f.line}" for f in findings[1:6])
        tail = f" (and {more} more problem{'s' * (more > 1)}: {others})" if more else ""
        super().__init__(f"{file}:{first.line}: {first.message}{tail}", first.remedy)
        self.findings = findings


def load_yaml(path: Path) -> Yaml:
    """Read one YAML document with ``safe`` tags only.

    Raises:
        UsageError: No such file, too large, not UTF-8, not YAML, nested too deeply, or a key stands twice.
    """
    file = str(path)
    try:
        raw = path.read_bytes()
    except FileNotFoundError:
        raise UsageError(
            f"there is no file {file}", "llmops recipes list shows the recipes that ship with llmops"
        ) from None
    except IsADirectoryError:
        raise UsageError(f"{file} is a directory, not a YAML file") from None
    if len(raw) > MAX_BYTES:
        raise UsageError(f"{file} is larger than 1 MiB, too large for a recipe or a config")
    try:
        return parse_yaml(raw.decode("utf-8"), file)
    except UnicodeDecodeError as error:
        raise UsageError(f"{file}: not UTF-8 text (byte {error.start})", "save it as UTF-8") from error


def parse_yaml(text: str, file: str) -> Yaml:
    """``load_yaml`` for text already in memory; ``file`` names it in messages."""
    loader = None
    try:
        loader = yaml.SafeLoader(text)
        node = loader.get_single_node()
        lines: dict[Key, int] = {(): 1}
        data = _construct(loader, node, (), lines, file) if node else None
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        line = mark.line + 1 if mark else 1
        problem = " ".join(filter(None, (error.context, error.problem)))
        raise UsageError(f"{file}:{line}: not valid YAML: {problem}", "check indentation and quotes there") from error
    except yaml.YAMLError as error:
        raise UsageError(f"{file}: not valid YAML: {' '.join(str(error).split())}") from error
    except RecursionError as error:
        raise UsageError(f"{file}: nested too deeply") from error
    finally:
        if loader is not None:
            loader.dispose()
    return Yaml(file, data, lines)


def _construct(loader: yaml.SafeLoader, node: yaml.Node, key: Key, lines: dict[Key, int], file: str) -> Any:
    lines.setdefault(key, node.start_mark.line + 1)
    if len(key) > MAX_DEPTH:
        raise UsageError(f"{file}:{node.start_mark.line + 1}: nested more than {MAX_DEPTH} levels deep")
    if not isinstance(node, yaml.ScalarNode) and node.tag not in _PLAIN_TAGS:
        raise UsageError(
            f"{file}:{node.start_mark.line + 1}: the YAML tag {node.tag!r} is not allowed", "write plain values"
        )
    if isinstance(node, yaml.MappingNode):
        loader.flatten_mapping(node)
        result: dict[str, Any] = {}
        for key_node, value_node in node.value:
            name = str(loader.construct_object(key_node, deep=True))
            line = key_node.start_mark.line + 1
            if name in result:
                raise UsageError(f"{file}:{line}: the key {name!r} stands twice", "remove one of them")
            lines[(*key, name)] = line
            result[name] = _construct(loader, value_node, (*key, name), lines, file)
        return result
    if isinstance(node, yaml.SequenceNode):
        return [_construct(loader, item, (*key, index), lines, file) for index, item in enumerate(node.value)]
    try:
        return loader.construct_object(node, deep=True)
    except (ValueError, TypeError) as error:  # 2026-13-45 looks like a date to YAML
        raise UsageError(
            f"{file}:{node.start_mark.line + 1}: cannot read this value: {error}", "put it in quotes"
        ) from error


def validate(model: type[M], document: Yaml, at: Key = ()) -> M:
    """Turn the part of ``document`` below ``at`` into a pydantic model.

    Raises:
        YamlError: With every problem: unknown keys (and the nearest known one), missing keys, wrong values.
    """
    from pydantic import ValidationError

    data = document.data
    for step in at:
        data = data[step]
    try:
        return model.model_validate(data)
    except ValidationError as error:
        raise YamlError(document.file, problems(model, document, error, at)) from error


def problems(model: type[BaseModel], document: Yaml, error: ValidationError, at: Key = ()) -> tuple[Finding, ...]:
    """Every problem of a failed validation as a located finding."""
    found = (_problem(model, document, details, at) for details in error.errors())
    return tuple(sorted(found, key=lambda finding: finding.line or 0))


def _problem(model: type[BaseModel], document: Yaml, details: ErrorDetails, at: Key) -> Finding:
    key = (*at, *_real_path(document, at, details["loc"]))
    name = key[-1] if key else "document"
    place = _dotted(key)
    remedy = None
    if details["type"] == "extra_forbidden":
        message = f"unknown key {str(name)!r}" + (f" in {_dotted(key[:-1])}" if len(key) > 1 else "")
        remedy = did_you_mean(str(name), _known_keys(model, details["loc"][:-1]))
    elif details["type"] == "missing":
        message = f"{_dotted(key[:-1]) or 'the file'} lacks the key {str(details['loc'][-1])!r}"
    else:
        said = details["msg"].removeprefix("Value error, ")
        given = "" if isinstance(details["input"], (dict, list)) else f", not {details['input']!r}"
        message = f"{place or 'the file'}: {said[:1].lower()}{said[1:]}{given}"
    return Finding("invalid-yaml", "error", message, remedy, document.file, document.line(key))


def _real_path(document: Yaml, at: Key, loc: tuple[int | str, ...]) -> Key:
    """Drop from pydantic's location what is no key of the file (names of union members)."""
    path: Key = ()
    for step in loc:
        if (*at, *path, step) in document.lines or step == loc[-1]:
            path = (*path, step)
    return path


def _known_keys(model: type[BaseModel], path: tuple[int | str, ...]) -> list[str]:
    """The keys allowed at ``path`` of a model, found through its JSON Schema."""
    schema: dict[str, Any] = model.model_json_schema()
    definitions = schema.get("$defs", {})

    def follow(node: dict[str, Any]) -> list[dict[str, Any]]:
        if "$ref" in node:
            return follow(definitions[node["$ref"].rsplit("/", 1)[-1]])
        branches = [b for name in ("anyOf", "oneOf", "allOf") for b in node.get(name, [])]
        return [leaf for branch in branches for leaf in follow(branch)] or [node]

    nodes = follow(schema)
    for step in path:
        below = [
            child
            for node in nodes
            for child in (
                node.get("properties", {}).get(step),
                node.get("items"),
                node.get("additionalProperties"),
            )
            if isinstance(child, dict)
        ]
        nodes = [leaf for child in below for leaf in follow(child)] or nodes
    return sorted({name for node in nodes for name in node.get("properties", {})})


def _dotted(key: Key) -> str:
    text = ""
    for step in key:
        text += f"[{step}]" if isinstance(step, int) else f".{step}" if text else str(step)
    return text


# ---- the recipes and configs that ship with llmops ----


def shipped(kind: str) -> Path:
    """The directory ``recipes`` or ``configs``: inside the wheel, or beside the package in a checkout."""
    package = Path(__file__).parent
    inside = package / "_shipped" / kind
    return inside if inside.is_dir() else package.parent / kind


def shipped_recipes() -> dict[str, Path]:
    """Name (``quickstart``, ``bench/chat``) -> file of each shipped recipe, in order of names."""
    root = shipped("recipes")
    return {str(path.relative_to(root).with_suffix("")): path for path in sorted(root.rglob("*.yaml"))}


def find_recipe(name: str) -> Path:
    """A recipe by path, or by the name of a shipped one with or without ``recipes/`` and ``.yaml``.

    Raises:
        UsageError: There is none.
    """
    path = Path(name)
    if path.is_file():
        return path
    recipes = shipped_recipes()
    short = name.removeprefix("recipes/").removesuffix(".yaml").removesuffix(".yml")
    if short in recipes:
        return recipes[short]
    raise UsageError(f"there is no recipe {name}", did_you_mean(short, recipes) or "llmops recipes list")
