"""Streams on their way to the caller, looked at by the guard of their route."""

from __future__ import annotations

from typing import TYPE_CHECKING

from llmops.gateway.guard.stream_events import StreamEvents
from llmops.gateway.refusal import error_event
from llmops.gateway.resilience import Failure

if TYPE_CHECKING:
    from llmops.gateway.call import Call
    from llmops.gateway.dialects.wire import Lens
    from llmops.prices import Usage


def guarded(call: Call, lens: Lens) -> Lens:
    """The lens of a stream, with the guard behind it where answers are scanned."""
    watch = call.route.guard
    if watch is None or not watch.scans_streams:
        return lens
    return GuardedLens(call, lens, watch.stream_events(call.request.surface.name))


class GuardedLens:
    """A lens whose events pass the guard. A secret that must not pass is the stream's error, and its end."""

    __slots__ = ("_call", "_events", "_lens", "_why")

    def __init__(self, call: Call, lens: Lens, events: StreamEvents) -> None:
        self._call = call
        self._lens = lens
        self._events = events
        self._why: Failure | None = None

    @property
    def committed(self) -> bool:
        """See ``Lens``."""
        return self._lens.committed

    @property
    def error(self) -> Failure | None:
        """See ``Lens``."""
        return self._why or self._lens.error

    @property
    def finished(self) -> bool:
        """See ``Lens``."""
        return self._lens.finished and self._why is None

    @property
    def events(self) -> int:
        """See ``Lens``."""
        return self._lens.events

    def feed(self, data: bytes) -> bytes:
        """See ``Lens``."""
        return self._pass(self._lens.feed(data))

    def close(self, why: str | None) -> bytes:
        """See ``Lens``."""
        return self._pass(self._lens.close(why))

    def usage(self) -> Usage | None:
        """See ``Lens``."""
        return self._lens.usage()

    def _pass(self, data: bytes) -> bytes:
        if not data or self._why is not None:
            return b""
        events = self._events
        out = events.feed(data)
        if events.news:
            for rule in events.take_news():
                self._call.site.metrics.count("llm_guard_findings_total", rule)
        if not events.blocked:
            return out
        message = f"the answer contained a secret ({events.found[0]}) and was cut off before it"
        # Of the kind "caller": nothing is wrong with the target.
        self._why = Failure("caller", 502, message, code="secret_in_answer")
        return out + error_event(self._call.dialect, 502, message, code="secret_in_answer", request_id=self._call.id)
