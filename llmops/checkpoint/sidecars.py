"""Files beside the weights: tokenizer, chat template, generation defaults, licence."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

import msgspec

from llmops.checkpoint.facts import Licence, Tokenizer
from llmops.errors import UsageError

MAX_JSON_BYTES: Final = 256 * 2**20
_TOKENIZERS: Final = (
    ("tokenizer.json", "fast"), ("tokenizer.model", "sentencepiece"), ("tekken.json", "tekken"),
    ("spiece.model", "sentencepiece"), ("sentencepiece.bpe.model", "sentencepiece"), ("vocab.json", "bpe"),
    ("vocab.txt", "wordpiece"), ("qwen.tiktoken", "tiktoken"), ("tiktoken.model", "tiktoken"),
)  # fmt: skip
# Name of the licence -> a phrase that its text has and others have not. The first that is found wins.
_LICENCE_PHRASES: Final = (
    ("Apache-2.0", r"Apache License\s+Version 2\.0"),
    ("Llama Community Licence", r"LLAMA [\d.]+ COMMUNITY LICENSE|Meta Llama [\d.]+ Community License"),
    ("Gemma Terms of Use", r"Gemma Terms of Use"),
    ("Qwen Licence", r"Tongyi Qianwen|Qwen (?:RESEARCH )?LICENSE AGREEMENT"),
    ("MIT", r"Permission is hereby granted, free of charge"),
    ("CC-BY-NC-4.0", r"Attribution-NonCommercial 4\.0"),
    ("BSD-3-Clause", r"Neither the name of"),
    ("DeepSeek Licence", r"DEEPSEEK LICENSE AGREEMENT"),
    ("Mistral Research Licence", r"Mistral AI Research License"),
)


def read_json(path: Path, limit: int = MAX_JSON_BYTES) -> dict[str, Any]:
    """Parse a JSON object from a model's directory.

    Raises:
        UsageError: It is too large, no JSON, or no object.
    """
    if path.stat().st_size > limit:
        raise UsageError(f"{path} is larger than {limit // 2**20} MiB", "this is no file of a model; check it")
    try:
        parsed = msgspec.json.decode(path.read_bytes())
    except (msgspec.DecodeError, ValueError, RecursionError) as error:
        raise UsageError(f"{path} is not JSON: {error}", "the download is damaged; fetch the file again") from error
    if not isinstance(parsed, dict):
        raise UsageError(f"{path} holds no JSON object", "the file is damaged; fetch it again")
    return parsed


def read_optional(path: Path) -> dict[str, Any]:
    """The same for a file that need not be there; a damaged one counts as empty."""
    try:
        return read_json(path) if path.is_file() else {}
    except (UsageError, OSError):
        return {}


def find_tokenizer(directory: Path) -> Tokenizer:
    """Which tokenizer and chat template a directory holds."""
    files = tuple(name for name, _ in _TOKENIZERS if (directory / name).is_file())
    kind = next((kind for name, kind in _TOKENIZERS if name in files), None)
    settings = read_optional(directory / "tokenizer_config.json")
    template = None
    if (directory / "chat_template.jinja").is_file():
        template = "chat_template.jinja"
    elif settings.get("chat_template"):
        template = "tokenizer_config.json"
    elif read_optional(directory / "chat_template.json").get("chat_template"):
        template = "chat_template.json"
    if kind == "bpe" and not (directory / "merges.txt").is_file():
        files, kind = (), None
    return Tokenizer(bool(files), kind, files, template)


def generation_defaults(directory: Path) -> Mapping[str, Any]:
    """generation_config.json without its version field."""
    found = read_optional(directory / "generation_config.json")
    return {key: value for key, value in found.items() if key not in ("transformers_version", "_from_model_config")}


def find_licence(directory: Path) -> Licence | None:
    """The licence by the files' words: a model card's ``license:``, else a licence file's text."""
    card = directory / "README.md"
    if card.is_file():
        with card.open(encoding="utf-8", errors="replace") as file:
            head = file.read(8192)
        stated = re.search(r"^license(?:_name)?:\s*['\"]?([\w .\-]{2,60})", head, re.MULTILINE)
        if head.startswith("---") and stated:
            return Licence(stated[1].strip(), card.name)
    texts = sorted(
        path
        for path in directory.iterdir()
        if path.is_file() and re.match(r"(?i)licen[cs]e|copying|\w*_terms|use_policy", path.name)
    )
    for path in texts:
        return Licence(recognise_licence(path), path.name)
    return None


def recognise_licence(path: Path) -> str | None:
    """The name of the licence in a text file, None when the text is not known."""
    with path.open(encoding="utf-8", errors="replace") as file:
        text = re.sub(r"\s+", " ", re.sub(r"<[^>]{0,2000}>", " ", file.read(400_000)))
    return next((name for name, phrase in _LICENCE_PHRASES if re.search(phrase, text)), None)
