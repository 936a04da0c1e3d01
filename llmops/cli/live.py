"""Progress for people: a live line on a terminal, one line a phase elsewhere. Always on stderr."""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Iterator
from typing import TYPE_CHECKING, TextIO

from llmops.masking import mask as _mask
from llmops.masking import visible
from llmops.units import format_duration

if TYPE_CHECKING:
    from llmops.progress import Progress

LINE_EVERY_S = 10.0
SHORT_S, LONG_S = 0.05, 5.0


def mask(text: str) -> str:
    """What may be shown of ``text``."""
    return visible(_mask(text))


@contextlib.contextmanager
def progress(stream: TextIO) -> Iterator[Progress]:
    """A live display on a terminal, else plain lines; closed with the block."""
    live = stream.isatty() and os.environ.get("TERM") != "dumb" and not os.environ.get("LLMOPS_NO_PROGRESS")
    sink = Live(stream) if live and not os.environ.get("CI") else Lines(stream)
    try:
        yield sink
    finally:
        sink.close()


class Lines:
    """One line a phase, and at most one every ten seconds inside it."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream
        self._last = time.monotonic()

    def phase(self, text: str) -> None:
        self._write(text)

    def update(self, done: float, total: float | None = None, note: str = "") -> None:
        if time.monotonic() - self._last >= LINE_EVERY_S:
            share = f"{done:g}/{total:g}" if total else f"{done:g}"
            self._write(f"  {share} {note}".rstrip())

    def note(self, text: str) -> None:
        self._write(f"  {text}")

    def done(self, text: str) -> None:
        self._write(f"  {text}")

    def close(self) -> None:
        """Nothing is open."""

    def _write(self, text: str) -> None:
        self._last = time.monotonic()
        self._stream.write(mask(text) + "\n")
        self._stream.flush()


class Live:
    """The current phase with a bar and its age; each finished phase stays as a line with its time."""

    def __init__(self, stream: TextIO) -> None:
        from rich.console import Console
        from rich.progress import BarColumn, TextColumn, TimeElapsedColumn
        from rich.progress import Progress as Bars

        self._console = Console(file=stream, highlight=False, markup=False, emoji=False)
        self._bars = Bars(
            TextColumn("{task.description}", markup=False),
            BarColumn(bar_width=24),
            TextColumn("{task.fields[note]}", style="dim", markup=False),
            TimeElapsedColumn(),
            console=self._console,
            transient=True,
        )
        self._task: int | None = None
        self._text = ""
        self._began = 0.0
        self._titled = False
        self._bars.start()

    def phase(self, text: str) -> None:
        self._finish()
        self._text, self._began, self._titled = mask(text), time.monotonic(), False
        self._task = self._bars.add_task(self._text, total=None, note="")

    def update(self, done: float, total: float | None = None, note: str = "") -> None:
        if self._task is not None:
            self._bars.update(self._task, completed=done, total=total, note=mask(note)[:40])  # type: ignore[arg-type]  # rich's TaskID is a NewType of int

    def note(self, text: str) -> None:
        if self._task is not None and not self._titled:
            self._bars.console.print(self._text, style="dim")
            self._titled = True
        self._bars.console.print("  " + mask(text), style="dim")

    def done(self, text: str) -> None:
        self._finish()
        self._bars.console.print("  " + mask(text))

    def close(self) -> None:
        """Remove the live line."""
        self._finish()
        self._bars.stop()

    def _finish(self) -> None:
        if self._task is not None:
            self._bars.remove_task(self._task)  # type: ignore[arg-type]  # as above
            took = time.monotonic() - self._began
            # A phase that flashed by needs no line; one whose notes stand under its title needs no
            # second one unless it took long.
            if not self._titled and took >= SHORT_S:
                self._bars.console.print(f"{self._text}  ({format_duration(took)})", style="dim")
            elif self._titled and took >= LONG_S:
                self._bars.console.print(f"  took {format_duration(took)}", style="dim")
            self._task = None
