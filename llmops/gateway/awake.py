"""A worker that does not go to sleep between requests that come often.

The core of a virtual machine that halts comes back late, and on whichever physical core is free, with nothing of the
gateway in its caches: at 200 requests a second each then costs ten times the CPU time that it costs in a rush. Who has
cores to spare keeps them awake (HAProxy's ``busy-polling`` does the same); what is given up is idle time.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from typing import Final

# How often a sleeping worker looks whether requests come again.
_LOOK_S: Final = 0.02


class Vigil:
    """Whether traffic is recent enough to stay awake for more of it.

    Args:
        linger_s: For how long after the last change.
        traffic: Counters as they stand now.
    """

    def __init__(self, linger_s: float, traffic: tuple[int, ...]) -> None:
        self._linger_s = linger_s
        self._seen = traffic
        self._until = -1.0

    def stays(self, traffic: tuple[int, ...], now: float) -> bool:
        """Look at the counters."""
        if traffic != self._seen:
            self._seen = traffic
            self._until = now + self._linger_s
        return now < self._until


async def keep_awake(traffic: Callable[[], tuple[int, ...]], linger_s: float) -> None:
    """Ask for events without waiting as long as there is traffic; runs until it is cancelled."""
    vigil = Vigil(linger_s, traffic())
    while True:  # noqa: ASYNC110 - not to wait is what this is for
        await asyncio.sleep(0 if vigil.stays(traffic(), time.monotonic()) else _LOOK_S)
