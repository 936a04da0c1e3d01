"""An upper bound of the tokens in a prompt, without a tokeniser.

Byte-level vocabularies, which all served models have, make at most one token of a byte; a chat template adds a few per
message, and JSON syntax, which is counted as text here, covers those. Embedded images and audio are no text: their
base64 is taken out and each counts as much as providers bill at most.
"""

from __future__ import annotations

import re
from typing import Final

IMAGE_TOKENS: Final = 6000
_SMALL: Final = 8192
_TEMPLATE_TOKENS: Final = 64
_PAYLOAD: Final = re.compile(rb"[A-Za-z0-9+/_-]{2048,}={0,2}")


def prompt_bound(body: bytes) -> int:
    """At most so many prompt tokens are billed for a request body."""
    size = len(body)
    if size <= _SMALL:
        return size + _TEMPLATE_TOKENS
    images = 0
    for match in _PAYLOAD.finditer(body):
        # A long run of base64 characters is a payload where a media type or a "data" member precedes it.
        before = body[max(0, match.start() - 96) : match.start()]
        if b"base64," in before or b'"data"' in before:
            size -= match.end() - match.start()
            # Files are billed by their pages or seconds; 1 token per 3 bytes of payload is beyond all of them.
            images += max(IMAGE_TOKENS, 0 if b"image" in before else (match.end() - match.start()) // 3)
    return size + images + _TEMPLATE_TOKENS
