"""What must not reach a screen, a log or a report: secrets, and control codes from untrusted text."""

from __future__ import annotations

import os
import re
from typing import Final

_SECRET_NAME = re.compile(r"(?:KEY|TOKEN|SECRET|PASSWORD|CREDENTIAL)S?$", re.IGNORECASE)
_SHAPES: Final = re.compile(
    r"""
      sk-[A-Za-z0-9_-]{16,}                       # OpenAI, Anthropic (sk-ant-...)
    | hf_[A-Za-z0-9]{20,}                         # Hugging Face
    | AIza[0-9A-Za-z_-]{30,}                      # Google
    | gh[pousr]_[A-Za-z0-9]{30,}                  # GitHub
    | AKIA[0-9A-Z]{16}                            # AWS access key id
    | eyJ[A-Za-z0-9_-]{8,}\.[A-Za-z0-9_-]{8,}\.[A-Za-z0-9_-]{8,}  # JWT
    | (?<=Bearer\ )[A-Za-z0-9._~+/=-]{12,}
    | (?<=://)[^/\s:@]+:[^/\s@]+(?=@)             # user:password@ in a URL
    """,
    re.VERBOSE,
)
MASK: Final = "***"


def mask(text: str) -> str:
    """Replace everything that looks like a secret, and the value of every environment variable named like one."""
    for name, value in os.environ.items():
        if len(value) >= 8 and _SECRET_NAME.search(name) and value in text:
            text = text.replace(value, MASK)
    return _SHAPES.sub(MASK, text)


# Everything that moves a cursor, rings a bell or recolours a terminal; newline and tab stay.
_CONTROL: Final = {code: "\ufffd" for code in (*range(32), *range(127, 160)) if code not in (9, 10)}


def visible(text: str) -> str:
    """Replace control characters, so that a model's name or a log line cannot drive the terminal that shows it."""
    return text.translate(_CONTROL)
