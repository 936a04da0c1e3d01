"""How a request that is not served is answered: one exception, written in the caller's own dialect at the edge."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Final

from llmops.masking import mask

# status -> (OpenAI type, Anthropic type), as the two APIs document them
TYPES: Final[dict[int, tuple[str, str]]] = {
    400: ("invalid_request_error", "invalid_request_error"),
    401: ("authentication_error", "authentication_error"),
    402: ("insufficient_quota", "billing_error"),
    403: ("permission_error", "permission_error"),
    404: ("not_found_error", "not_found_error"),
    405: ("invalid_request_error", "invalid_request_error"),
    413: ("invalid_request_error", "request_too_large"),
    415: ("invalid_request_error", "invalid_request_error"),
    422: ("invalid_request_error", "invalid_request_error"),
    429: ("rate_limit_error", "rate_limit_error"),
    499: ("api_error", "api_error"),
    500: ("server_error", "api_error"),
    502: ("server_error", "api_error"),
    503: ("server_error", "overloaded_error"),
    504: ("server_error", "timeout_error"),
    529: ("server_error", "overloaded_error"),
}


def error_type(status: int, dialect: str) -> str:
    """The error type of a status in a client dialect."""
    pair = TYPES.get(status) or TYPES[400 if 400 <= status < 500 else 500]
    return pair[1] if dialect == "anthropic" else pair[0]


@dataclass(eq=False)
class Refusal(Exception):  # noqa: N818 - a refusal is an ordinary answer, not a fault
    """An answer that is not the model's.

    Attributes:
        status: HTTP status.
        message: For the caller: what is wrong and what to do. Never holds a key (masked again when written).
        code: OpenAI's ``code``.
        param: The field of the request that it is about.
        retry_after_s: Seconds after which a retry makes sense.
        headers: Further headers.
    """

    status: int
    message: str
    code: str | None = None
    param: str | None = None
    retry_after_s: float | None = None
    headers: dict[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        super().__init__(self.message)

    def body(self, dialect: str, request_id: str) -> bytes:
        """The JSON body in the caller's dialect."""
        return error_body(
            dialect, self.status, mask(self.message), code=self.code, param=self.param, request_id=request_id
        )


def error_body(
    dialect: str, status: int, message: str, *, code: str | None = None, param: str | None = None, request_id: str = ""
) -> bytes:
    """An error as JSON: OpenAI's ``{"error": …}`` or Anthropic's ``{"type": "error", "error": …}``."""
    import msgspec

    kind = error_type(status, dialect)
    if dialect == "anthropic":
        value: object = {"type": "error", "error": {"type": kind, "message": message}, "request_id": request_id}
    else:
        value = {"error": {"message": message, "type": kind, "param": param, "code": code}}
    return msgspec.json.encode(value)


def error_event(dialect: str, status: int, message: str, *, code: str | None = None, request_id: str = "") -> bytes:
    """An error inside a stream, as its dialect has it: Anthropic names the event, OpenAI sends an ``error`` object."""
    body = error_body(dialect, status, mask(message), code=code, request_id=request_id)
    if dialect == "anthropic":
        return b"event: error\ndata: " + body + b"\n\n"
    return b"data: " + body + b"\n\n"
