"""The most load that still holds the objectives: bracket by doubling, then bisect, then confirm three times."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Final

from llmops.bench import live

if TYPE_CHECKING:
    from llmops.bench.report import Level
    from llmops.bench.run import Session

CONFIRMATIONS: Final = 3
_RESOLUTION: Final = 0.10
_MAX_LEVELS: Final = 30
_MOST_USERS: Final = 20_000
_MOST_PER_S: Final = 100_000
_TRIES: Final = 3


def find_max(session: Session, measure: Callable[[Session, float], Level]) -> tuple[list[Level], int, str]:
    """Search with ``measure``; returns every level tried, the index of the best, and what was found in words.

    A level holds when its verdict is PASS, and is confirmed when it holds three times in a row. A level that fails to
    confirm becomes the upper end and the search goes on below it.
    """
    search = _Search(session, measure)
    best = search.run()
    name = "users" if search.whole else "requests/s"
    if best is None:
        return search.levels, 0, f"no load from {search.lowest:g} {name} on holds every SLO"
    index = max(i for i, step in enumerate(search.steps) if step == best)
    top = f"; {search.failed:g} does not" if search.failed is not None else " (the largest tried)"
    return search.levels, index, f"{best:g} {name} hold every SLO, confirmed {CONFIRMATIONS} times{top}"


class _Search:
    def __init__(self, session: Session, measure: Callable[[Session, float], Level]) -> None:
        self.session = session
        self.measure = measure
        self.levels: list[Level] = []
        self.steps: list[float] = []
        self.whole = session.spec.rate is None
        start = session.spec.concurrency if self.whole else session.spec.rate
        self.lowest = float(start or 1)
        self.failed: float | None = None

    def run(self) -> float | None:
        """The confirmed best, None when nothing holds."""
        held: float | None = None
        step = self.lowest
        top = float(_MOST_USERS if self.whole else _MOST_PER_S)
        while self._may_go_on():
            if self._holds(step):
                held = step
                if step >= top:
                    break
                step = min(2 * step, top)
                if self.failed is not None:
                    break
            else:
                self.failed = step
                break
        return self._narrow(held)

    def _narrow(self, held: float | None) -> float | None:
        while held is not None and self.session.interrupted is None:
            middle = self._between(held) if self._may_go_on() else None
            if middle is not None:
                if self._holds(middle):
                    held = middle
                else:
                    self.failed = middle
                continue
            if all(self._holds(held) for _ in range(CONFIRMATIONS - 1)):
                return held
            self.failed = held
            held = max((s for s, lv in self._tried() if s < held and lv.verdict == "PASS"), default=None)
        return None

    def _tried(self) -> list[tuple[float, Level]]:
        return list(zip(self.steps, self.levels, strict=True))

    def _between(self, held: float) -> float | None:
        """The next level to try between the best that holds and the lowest that does not; None when they are close."""
        if self.failed is None:
            return None
        middle = (held + self.failed) / 2
        if self.whole:
            middle = float(int(middle))
        close = self.failed - held <= max(1.0 if self.whole else 0.0, _RESOLUTION * held)
        return None if close or middle <= held else middle

    def _may_go_on(self) -> bool:
        return self.session.interrupted is None and len(self.levels) < _MAX_LEVELS

    def _holds(self, step: float) -> bool:
        for _ in range(_TRIES):
            level = self.measure(self.session, step)
            self.steps.append(step)
            self.levels.append(level)
            self.session.progress.note(f"{live.row(level)}  {level.verdict}")
            # An invalid run says nothing about the server, so it neither holds nor fails: it is measured again.
            if level.validity.valid or self.session.interrupted is not None:
                break
        return level.verdict == "PASS"
