"""Units: bytes and GiB, counts, durations, and money as Decimal, parsed and printed in one way."""

from __future__ import annotations

import re
from decimal import ROUND_HALF_UP, Decimal
from typing import Final

from llmops.errors import UsageError

KIB: Final = 1024
MIB: Final = 1024**2
GIB: Final = 1024**3

_SIZE = re.compile(r"^\s*(\d+(?:\.\d+)?)\s*([kmgt]?)(i?b?)?\s*$", re.IGNORECASE)
_DURATION = re.compile(r"^\s*(\d+(?:\.\d+)?)\s*(ms|s|m|min|h|d)?\s*$", re.IGNORECASE)
_SECONDS: Final = {"ms": 0.001, "s": 1.0, "m": 60.0, "min": 60.0, "h": 3600.0, "d": 86400.0}


def gib(size_bytes: float) -> float:
    """Bytes to GiB (2**30)."""
    return size_bytes / GIB


def parse_size(text: str) -> int:
    """Parse ``16GiB``, ``512 MB``, ``2G`` or plain bytes. ``kB``/``MB``/``GB`` are powers of 1000, all else of 1024.

    Raises:
        UsageError: The text is no size.
    """
    match = _SIZE.match(text)
    if match is None:
        raise UsageError(f"{text!r} is not a size", "write it as 16GiB, 512MiB or 2G")
    power = " kmgt".index(match[2].lower() or " ")
    base = 1000 if power and (match[3] or "").lower() == "b" else 1024
    return int(Decimal(match[1]) * base**power)


def parse_duration_s(text: str) -> float:
    """Parse ``500ms``, ``60s``, ``5m``, ``2h`` or plain seconds into seconds.

    Raises:
        UsageError: The text is no duration.
    """
    match = _DURATION.match(text)
    if match is None:
        raise UsageError(f"{text!r} is not a duration", "write it as 500ms, 60s, 5m or 2h")
    return float(match[1]) * _SECONDS[(match[2] or "s").lower()]


def format_size(size_bytes: float) -> str:
    """``536.2 MiB`` style, base 1024."""
    value = float(size_bytes)
    for unit in ("B", "KiB", "MiB", "GiB"):
        if abs(value) < 1024:
            return f"{value:.0f} {unit}" if unit == "B" else f"{value:.1f} {unit}"
        value /= 1024
    return f"{value:.1f} TiB"


def format_count(count: float) -> str:
    """``268 M`` style, base 1000, three significant digits."""
    value = float(count)
    for unit in ("", " k", " M", " B"):
        if abs(value) < 1000:
            return f"{value:.0f}{unit}" if value >= 100 or not unit else f"{value:.3g}{unit}"
        value /= 1000
    return f"{value:.3g} T"


def format_duration(seconds: float) -> str:
    """``850 ms``, ``12.3 s``, ``4 min 10 s``, ``2 h 5 min``."""
    if seconds < 1:
        return f"{seconds * 1000:.0f} ms"
    if seconds < 60:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    if minutes < 60:
        return f"{minutes} min {rest} s"
    return f"{minutes // 60} h {minutes % 60} min"


def format_usd(amount: Decimal) -> str:
    """Dollars with as many digits as say something: ``$12.34``, ``$0.054399``, ``$0``."""
    if amount == 0:
        return "$0"
    if abs(amount) >= 1:
        return f"${amount.quantize(Decimal('0.01'), ROUND_HALF_UP):,}"
    digits = max(2, -amount.adjusted() + 2)
    text = f"{amount:.{min(digits, 12)}f}".rstrip("0")
    return f"${text}"


def counted(number: int, noun: str) -> str:
    """``1 replica``, ``2 replicas``: a number with a noun whose plural ends in s."""
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"
