"""Reports as files: the JSON envelope of every command, and the format that a file's suffix asks for."""

from __future__ import annotations

import os
from dataclasses import fields
from decimal import Decimal
from pathlib import Path, PurePath
from typing import Any, cast

import msgspec

from llmops import __version__
from llmops.errors import LlmopsError
from llmops.findings import Finding, Report
from llmops.masking import mask
from llmops.report import html, junit, markdown, sarif
from llmops.report.document import Document


def envelope(verb: str, report: Report) -> str:
    """The one JSON document of a command that ran: ``schema``, ``ok``, ``data``, ``findings``, ``error: null``."""
    return _encode(verb, ok=report.ok, data=data_of(report), findings=report.findings, error=None)


def failure_envelope(verb: str, error: LlmopsError, code: int) -> str:
    """The same document for a command that failed. An error may carry ``data`` that was measured until then."""
    described = {"message": " ".join(error.message.split()), "hint": error.hint, "exit_code": code}
    return _encode(
        verb, ok=False, data=getattr(error, "data", {}), findings=getattr(error, "findings", ()), error=described
    )


def data_of(report: Report) -> Any:
    """The report's own fields without ``ok`` and ``findings``; a report may define ``data()`` to shape it itself."""
    own = getattr(report, "data", None)
    if callable(own):
        return own()
    return {f.name: getattr(report, f.name) for f in fields(cast("Any", report)) if f.name not in ("ok", "findings")}


def plain_data(report: Report) -> Any:
    """``data_of`` as plain dicts, lists, numbers and strings, just as a reader of the JSON document gets it."""
    return msgspec.json.decode(msgspec.json.encode(data_of(report), enc_hook=_plain))


def write(path: Path, verb: str, report: Report, document: Document) -> None:
    """Write ``report`` to ``path`` in the format of its suffix, whole or not at all."""
    contents = {
        ".json": lambda: envelope(verb, report),
        ".xml": lambda: junit.render(verb, report),
        ".sarif": lambda: sarif.render(verb, report.findings, __version__),
        ".md": lambda: markdown.render(document),
        ".html": lambda: html.render(document),
    }[path.suffix]()
    write_whole(path, mask(contents) + "\n")


def write_whole(path: Path, text: str) -> None:
    """Write through a temporary name and a rename, so that a reader never sees half a file."""
    partial = path.with_name(f".{path.name}.{os.getpid()}.partial")
    try:
        partial.write_text(text, encoding="utf-8")
        partial.replace(path)
    except BaseException:
        partial.unlink(missing_ok=True)
        raise


def _encode(verb: str, *, ok: bool, data: Any, findings: tuple[Finding, ...], error: dict[str, Any] | None) -> str:
    document = {"schema": f"llmops.{verb}/1", "ok": ok, "data": data, "findings": findings, "error": error}
    return msgspec.json.format(msgspec.json.encode(document, enc_hook=_plain), indent=2).decode()


def _plain(value: Any) -> Any:
    if isinstance(value, PurePath):
        return str(value)
    if isinstance(value, Decimal):
        return str(value)
    dump = getattr(value, "model_dump", None)  # a pydantic model
    if callable(dump):
        return dump(mode="json")
    item = getattr(value, "item", None)  # a numpy or torch scalar
    if callable(item):
        return item()
    # The exception that msgspec asks of a hook for a type that it does not know either.
    raise NotImplementedError(f"cannot encode {type(value).__name__}")
