"""A conversation's turns to the prompt that the model was trained on, with the template that its checkpoint brings."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any

from llm_sampling import BadRequestError

MISSING = "this model has no chat template: send text_input instead of messages"


class ChatTemplate:
    """The template of ``chat_template.jinja``, or of ``tokenizer_config.json`` where older checkpoints keep it."""

    def __init__(self, assets: Path) -> None:
        file, config = assets / "chat_template.jinja", assets / "tokenizer_config.json"
        said = json.loads(config.read_text(encoding="utf-8")) if config.is_file() else {}
        self._source = file.read_text(encoding="utf-8") if file.is_file() else _chosen(said.get("chat_template"))
        names = ("bos_token", "eos_token", "pad_token", "unk_token")
        self._tokens = {name: _text(said[name]) for name in names if said.get(name)}
        self._compiled: Any = None

    def render(self, text: str) -> str:
        """The prompt for a JSON list of ``{"role": …, "content": …}``, with the assistant's turn opened.

        Raises:
            BadRequestError: There is no template, the text is no such list, or the template refuses it.
        """
        try:
            turns = json.loads(text)
        except ValueError as error:
            raise BadRequestError(f"messages is not JSON: {error}") from error
        if not (isinstance(turns, list) and turns and all(isinstance(turn, dict) and "role" in turn for turn in turns)):
            raise BadRequestError("messages must be a list of objects with role and content")
        template = self._template()
        import jinja2

        try:
            return str(template.render(messages=turns, add_generation_prompt=True, **self._tokens))
        except (jinja2.TemplateError, TypeError, KeyError, AttributeError) as error:
            raise BadRequestError(f"the chat template refuses the messages: {error}") from error

    def _template(self) -> Any:
        if self._compiled is not None:
            return self._compiled
        if not self._source:
            raise BadRequestError(MISSING)
        try:
            from jinja2 import TemplateSyntaxError
            from jinja2.sandbox import ImmutableSandboxedEnvironment
        except ImportError as error:
            raise BadRequestError("messages need the package jinja2 in the server's environment") from error
        # A template is a program from outside: it runs in a sandbox, with the whitespace rules that all checkpoints assume.
        environment = ImmutableSandboxedEnvironment(trim_blocks=True, lstrip_blocks=True)
        environment.globals["raise_exception"] = _refuse
        environment.globals["strftime_now"] = time.strftime
        try:
            self._compiled = environment.from_string(self._source)
        except TemplateSyntaxError as error:
            raise BadRequestError(f"the model's chat template is no template: {error}") from error
        return self._compiled


def _refuse(message: str) -> None:
    raise BadRequestError(message)


def _chosen(value: Any) -> str:
    """One template, or the one named default of several."""
    if isinstance(value, list):
        return next((str(each["template"]) for each in value if each.get("name") == "default"), "")
    return str(value or "")


def _text(token: Any) -> str:
    return str(token["content"] if isinstance(token, dict) else token)
