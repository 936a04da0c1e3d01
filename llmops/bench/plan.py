"""What a load is made of, and what the client saw of itself while it ran it."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

from llmops.bench.prompts import PromptPlan
from llmops.bench.schedule import TraceRow
from llmops.bench.spool import Record
from llmops.bench.wire import Endpoint
from llmops.http1 import Timeouts


@dataclass(frozen=True, slots=True)
class LoadPlan:
    """One level of load, or one process's slice of it.

    Attributes:
        loop: ``closed``: ``concurrency`` users, each asking again when answered. ``open``: by ``due_ns``, whatever the
            answers do; ``concurrency`` then is a cap whose queue counts into the latencies.
        due_ns: Offsets from the start, one a conversation (open loop).
        first, step: This process has conversations first, first + step, …
        requests: How many to send at most, following turns included.
        duration_s: No request is begun after this many seconds.
        ramp_s: Closed loop: users join evenly over it. Requests begun in the ramp are not measured.
        preopen: Connections to open before the clock starts.
        cold: A new connection for each request, its set-up inside the latency.
        shrink: Shortens every second prompt, for learning lengths in a warm-up.
    """

    endpoint: Endpoint
    prompts: PromptPlan
    loop: Literal["closed", "open"] = "closed"
    concurrency: int | None = 1
    due_ns: tuple[int, ...] | None = None
    trace: tuple[TraceRow, ...] = ()
    first: int = 0
    step: int = 1
    requests: int | None = None
    duration_s: float | None = None
    ramp_s: float = 0.0
    think_s: float = 0.0
    preopen: int = 0
    cold: bool = False
    shrink: float = 1.0
    connect_timeout_s: float = 10.0
    timeouts: Timeouts = field(default_factory=Timeouts)


@dataclass(slots=True)
class LoadFacts:
    """What the client saw of itself; ``users`` are those of a closed loop that had something to ask."""

    start_ns: int = 0
    end_ns: int = 0
    cpu_s: float = 0.0
    lag_ns: list[int] = field(default_factory=list)
    connect_ns: list[int] = field(default_factory=list)
    sent: int = 0
    done: int = 0
    failed: int = 0
    aborted: int = 0
    retries: int = 0
    in_flight: int = 0
    in_flight_max: int = 0
    users: int = 0
    last: Record | None = None
    interrupted: int = 0  # the signal
