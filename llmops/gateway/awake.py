"""A worker that does not go to sleep between requests that come often.

The core of a virtual machine that halts comes back late, and on whichever physical core is free, with nothing of the
gateway in its caches: at 200 requests a second each then costs ten times the CPU time that it costs in a rush. Who has
cores to spare keeps them awake (HAProxy's ``busy-polling`` does the same); what is given up is idle time.
"""

from __future__ import annotations

import asyncio
import math
import time
from collections.abc import Callable
from typing import Final

# How often a sleeping worker looks whether requests come again.
_LOOK_S: Final = 0.02
# Each request's share in the mean of the gaps between them, and how many such gaps the next one is waited for: where they
# come independently, two in a hundred take longer.
_ALPHA: Final = 0.2
_GAPS: Final = 4


class Vigil:
    """Whether another request is likely enough to come soon to stay awake for it.

    Args:
        most_s: For how long after a request at most.
        begun: How many have come so far.
    """

    def __init__(self, most_s: float, begun: int = 0) -> None:
        self._most_s = most_s
        self._begun = begun
        self._last = -math.inf
        self._gap_s = most_s

    def stays(self, begun: int, now: float) -> bool:
        """Whether to stay awake, ``begun`` requests having come until ``now`` (seconds of a monotonic clock)."""
        came = begun - self._begun
        if came > 0:
            gap_s = min((now - self._last) / came, self._most_s)
            self._gap_s = gap_s + (self._gap_s - gap_s) * (1 - _ALPHA) ** came
            self._last = now
        self._begun = begun
        return now - self._last < min(self._most_s, _GAPS * self._gap_s)


async def keep_awake(begun: Callable[[], int], most_s: float) -> None:
    """Ask for events without waiting as long as requests come; runs until it is cancelled."""
    vigil = Vigil(most_s, begun())
    while True:  # noqa: ASYNC110 - not to wait is what this is for
        await asyncio.sleep(0 if vigil.stays(begun(), time.monotonic()) else _LOOK_S)
