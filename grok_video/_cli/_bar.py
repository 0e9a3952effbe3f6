"""The progress bar: one line at the bottom of a terminal, gone when the work is.

Imported, as rich itself, only where there is a terminal. Colours follow NO_COLOR, as rich does.
"""

from __future__ import annotations

from rich.console import Console
from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeElapsedColumn
from rich.table import Column


class Bar:
    """A bar with the state of the job, its percentage where the server sends one, and a clock."""

    def __init__(self, text: str) -> None:
        self._progress = Progress(
            TextColumn("{task.description}", markup=False),
            BarColumn(),
            TaskProgressColumn(),
            # On a narrow terminal the bar gives way: two lines would not go as one does.
            TimeElapsedColumn(table_column=Column(no_wrap=True)),
            console=Console(stderr=True),
            transient=True,
            # stdout is the result's: a bar that captured it would put the path on stderr.
            redirect_stdout=False,
            redirect_stderr=False,
        )
        self._task = self._progress.add_task(text, total=None)
        self._progress.start()

    def say(self, line: str) -> None:
        """Put a line above the bar."""
        self._progress.console.print(
            line, markup=False, emoji=False, highlight=False, soft_wrap=True
        )

    def phase(self, text: str, percent: float | None = None) -> None:
        """Show a state; without a percentage the bar pulses."""
        self._progress.update(
            self._task,
            description=text,
            total=None if percent is None else 100.0,
            completed=percent or 0.0,
        )

    def stop(self) -> None:
        """Remove the bar from the screen."""
        self._progress.stop()
