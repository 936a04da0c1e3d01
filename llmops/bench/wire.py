"""What goes over the wire: endpoint paths, headers and request bodies of the three APIs."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final, Literal

import msgspec

from llmops.errors import AccessError, UsageError
from llmops.http1 import Origin, request_head

Api = Literal["chat", "completions", "messages"]
PATHS: Final[dict[Api, str]] = {"chat": "/chat/completions", "completions": "/completions", "messages": "/messages"}
Message = dict[str, str]


@dataclass(frozen=True, slots=True)
class Endpoint:
    """Where and how requests go.

    Attributes:
        url: As the user wrote it, with or without ``/v1`` or the endpoint's own path.
        api: The dialect.
        model: Name sent in each request.
        api_key_env: Environment variable that holds the key, None for no key.
        headers: Further headers.
        extra_body: Fields merged into each body; a None removes one that is sent by default.
        stream: Whether the answer is streamed.
    """

    url: str
    api: Api
    model: str
    api_key_env: str | None = None
    headers: tuple[tuple[str, str], ...] = ()
    extra_body: Mapping[str, Any] = field(default_factory=dict)
    stream: bool = True

    def target(self) -> tuple[Origin, str]:
        """Origin and path."""
        try:
            origin, path = Origin.of(self.url)
        except ValueError as error:
            raise UsageError(str(error), "write it as http://HOST:PORT or https://HOST/v1") from None
        base, _, query = path.partition("?")
        base = base.rstrip("/")
        if not base.endswith(PATHS[self.api]):
            base = (base if _is_versioned(base) else base + "/v1") + PATHS[self.api]
        return origin, base + (f"?{query}" if query else "")

    def head(self) -> bytes:
        """Request line and headers, the key included.

        Raises:
            AccessError: The environment variable of the key is not set.
            UsageError: The URL or a header is not one.
        """
        origin, path = self.target()
        headers = [(b"content-type", b"application/json"), (b"accept", b"text/event-stream, application/json")]
        headers.append((b"user-agent", b"llmops-bench"))
        key = self._key()
        if self.api == "messages":
            headers.append((b"anthropic-version", b"2023-06-01"))
            headers += [(b"x-api-key", key)] if key else []
        elif key:
            headers.append((b"authorization", b"Bearer " + key))
        headers += [(name.encode(), value.encode()) for name, value in self.headers]
        try:
            return request_head("POST", path, origin, headers)
        except ValueError as error:
            raise UsageError(str(error), "write a header as 'Name: value'") from None

    def body(self, messages: Sequence[Message], output_tokens: int) -> bytes:
        """One request's JSON."""
        fields: dict[str, Any] = {"model": self.model}
        if self.api == "completions":
            fields["prompt"] = "\n".join(message["content"] for message in messages)
        else:
            fields["messages"] = messages
        fields["max_tokens"] = output_tokens
        if self.stream:
            fields["stream"] = True
            if self.api != "messages":
                fields["stream_options"] = {"include_usage": True}
        for name, value in self.extra_body.items():
            if value is None:
                fields.pop(name, None)
            else:
                fields[name] = value
        return msgspec.json.encode(fields)

    def _key(self) -> bytes:
        if self.api_key_env is None:
            return b""
        key = os.environ.get(self.api_key_env, "")
        if not key:
            raise AccessError(
                f"the environment variable {self.api_key_env} is not set",
                f"export {self.api_key_env}=…, or another name",
            )
        return key.encode()


def _is_versioned(path: str) -> bool:
    """Whether the path already ends in ``/v1`` or the like (``/openai/v1beta``)."""
    last = path.rpartition("/")[2]
    return last[:1] == "v" and last[1:2].isdigit()
