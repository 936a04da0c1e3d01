"""A line of the access log. Apart from the code that makes it, which is compiled: see ``dialects/shapes.py``."""

from __future__ import annotations

import msgspec


class Row(msgspec.Struct, gc=False):
    """One line. Times in seconds since 1970 and in milliseconds, money in dollars."""

    time: float
    id: str
    key: str | None
    surface: str
    model: str | None
    target: str | None
    status: int
    attempts: int
    cache: str
    ms: float
    ttft_ms: float | None
    input_tokens: int | None
    output_tokens: int | None
    cost_usd: str | None
    client: str
