"""Calibration and evaluation text: read documents, and cut them into rows of tokens. Standard library only.

A document is ``{"text": …}`` or ``{"messages": [{"role", "content"}, …]}``, with an optional ``lang``. A ``.jsonl``
file holds one a line; any other file is plain text, whose paragraphs are the documents.
"""

from __future__ import annotations

import json
import random
from pathlib import Path
from typing import Any

Document = dict[str, Any]


class BadTextError(ValueError):
    """A text file that cannot be used; the message says which line and why."""


def read_documents(path: Path) -> list[Document]:
    """Read a ``.jsonl`` or a plain text file.

    Raises:
        BadTextError: It is not UTF-8, a line is no JSON object, a document has neither ``text`` nor ``messages``.
        OSError: It cannot be read.
    """
    try:
        content = path.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        raise BadTextError(f"it is not UTF-8 text (byte {error.start})") from error
    if "\0" in content:
        raise BadTextError("it holds NUL characters, so it is no text file")
    if path.suffix in (".jsonl", ".ndjson"):
        documents = [_document(number, line) for number, line in enumerate(content.splitlines(), 1) if line.strip()]
    else:
        documents = [{"text": part} for part in paragraphs(content)]
    if not documents:
        raise BadTextError("it is empty")
    return documents


def paragraphs(content: str, at_least: int = 400) -> list[str]:
    """Blocks between blank lines, joined until each has ``at_least`` characters."""
    found: list[str] = []
    current = ""
    for block in content.replace("\r\n", "\n").split("\n\n"):
        current = f"{current}\n\n{block}" if current.strip() else block
        if len(current) >= at_least:
            found.append(current.strip())
            current = ""
    if current.strip():
        found.append(current.strip())
    return found


def size_in_bytes(documents: list[Document]) -> int:
    """UTF-8 bytes of all text. No tokenizer gives more tokens than bytes, special tokens aside."""
    return sum(len(text.encode()) for document in documents for text in _strings(document))


def rows(
    documents: list[Document], tokenizer: Any, *, count: int, length: int, seed: int | None
) -> tuple[list[list[int]], int]:
    """Documents in seeded order, tokenised, joined and cut into at most ``count`` rows of ``length`` tokens.

    Each row begins with the begin-of-text token where the tokenizer has one: without it, models that lean on it (Gemma
    above all) show activations that they never have in use. Returns the rows and the number of tokens in them.
    ``seed`` None keeps the order.
    """
    start = begin(tokenizer)
    body = length - len(start)
    order = list(range(len(documents)))
    if seed is not None:
        random.Random(seed).shuffle(order)
    stream: list[int] = []
    for index in order:
        if len(stream) >= count * body:
            break
        stream += encode(documents[index], tokenizer)
    whole = min(count, len(stream) // body)
    return [start + stream[i * body : (i + 1) * body] for i in range(whole)], whole * length


def begin(tokenizer: Any) -> list[int]:
    """The begin-of-text token as a list; empty where the tokenizer has none."""
    return [] if tokenizer.bos_token_id is None else [int(tokenizer.bos_token_id)]


def encode(document: Document, tokenizer: Any) -> list[int]:
    """Token ids of one document; ``messages`` go through the model's chat template."""
    if "messages" not in document:
        return list(tokenizer(document["text"])["input_ids"])
    if not getattr(tokenizer, "chat_template", None):
        plain = "\n".join(message["content"] for message in document["messages"])
        return list(tokenizer(plain)["input_ids"])
    text = tokenizer.apply_chat_template(document["messages"], tokenize=False)
    return list(tokenizer(text, add_special_tokens=False)["input_ids"])


def _document(number: int, line: str) -> Document:
    try:
        value = json.loads(line)
    except ValueError as error:
        raise BadTextError(f"line {number} is not JSON: {error}") from error
    if not isinstance(value, dict):
        raise BadTextError(f"line {number} is not a JSON object")
    if isinstance(value.get("text"), str):
        return value
    messages = value.get("messages")
    if isinstance(messages, list) and messages and all(map(_is_message, messages)):
        return value
    raise BadTextError(f'line {number} has neither "text" nor "messages" with role and content')


def _is_message(value: object) -> bool:
    return isinstance(value, dict) and isinstance(value.get("role"), str) and isinstance(value.get("content"), str)


def _strings(document: Document) -> list[str]:
    if "messages" in document:
        return [message["content"] for message in document["messages"]]
    return [document["text"]]


def plain_text(document: Document) -> str:
    """The document as plain text, without the chat template."""
    return "\n".join(_strings(document))
