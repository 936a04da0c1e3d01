"""Signed reasoning in the one place where a Responses client keeps opaque data for the next turn: ``encrypted_content``."""

from __future__ import annotations

import base64
import binascii
from typing import Any, Final

import msgspec

from llmops.gateway.dialects.ir import Part, Sealed, Thought
from llmops.gateway.refusal import Refusal

_PREFIX: Final = "llmops."


class _Content(msgspec.Struct, omit_defaults=True):
    thinking: str | None = None
    signature: str = ""
    data: str | None = None
    call: str = ""


def pack(part: Thought | Sealed) -> str | None:
    """A thought with its signature, or a sealed one, as text; None where there is nothing to prove."""
    if isinstance(part, Sealed):
        return _packed(_Content(data=part.data))
    return _packed(_Content(thinking=part.text, signature=part.signature)) if part.signature else None


def pack_signature(call_id: str, signature: str) -> str:
    """The signature of a call's thought."""
    return _packed(_Content(signature=signature, call=call_id))


def unpack(text: Any) -> tuple[Part | None, str, str]:
    """(the thought, or None; else the id of a call and its signature). Nothing of it where we did not make the text.

    Raises:
        Refusal: 400: it is ours, and was altered.
    """
    if not isinstance(text, str) or not text.startswith(_PREFIX):
        return None, "", ""
    try:
        content = msgspec.json.decode(base64.urlsafe_b64decode(text[len(_PREFIX) :]), type=_Content)
    except (binascii.Error, ValueError):
        raise Refusal(400, "a reasoning item was altered; send it back as it came", param="input") from None
    if content.data is not None:
        return Sealed(content.data), "", ""
    if content.thinking is not None:
        return Thought(content.thinking, content.signature), "", ""
    return None, content.call, content.signature


def _packed(content: _Content) -> str:
    return _PREFIX + base64.urlsafe_b64encode(msgspec.json.encode(content)).decode()
