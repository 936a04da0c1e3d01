"""How long work tells the person watching where it is, without knowing who draws it."""

from __future__ import annotations

from typing import Protocol


class Progress(Protocol):
    """Receives the progress of long work. Implementations never raise and are cheap to call."""

    def phase(self, text: str) -> None:
        """A new phase begins; one line without a terminal."""

    def update(self, done: float, total: float | None = None, note: str = "") -> None:
        """``done`` of ``total`` within the current phase, in any unit; ``note`` is shown beside it."""

    def note(self, text: str) -> None:
        """Something worth a line of its own."""

    def done(self, text: str) -> None:
        """The phase is over, and this is its result."""


class Within:
    """The progress of a part of larger work: each phase is shown with the larger one's name before it."""

    def __init__(self, outer: Progress, name: str) -> None:
        self._outer, self._name = outer, name

    def phase(self, text: str) -> None:
        self._outer.phase(f"{self._name}: {text}")

    def update(self, done: float, total: float | None = None, note: str = "") -> None:
        self._outer.update(done, total, note)

    def note(self, text: str) -> None:
        self._outer.note(text)

    def done(self, text: str) -> None:
        self._outer.done(text)


class Silent:
    """Draws nothing."""

    def phase(self, text: str) -> None: ...
    def update(self, done: float, total: float | None = None, note: str = "") -> None: ...
    def note(self, text: str) -> None: ...
    def done(self, text: str) -> None: ...
