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


class Silent:
    """Draws nothing."""

    def phase(self, text: str) -> None: ...
    def update(self, done: float, total: float | None = None, note: str = "") -> None: ...
    def note(self, text: str) -> None: ...
