"""The progress of a batch: one line at the bottom of a terminal, gone when the batch is.

Rich draws it from a thread of its own and asks for the numbers as it does; nothing here changes
anything of the batch.
"""

from __future__ import annotations

import time
from collections import deque
from typing import TYPE_CHECKING, Final

from rich.console import Console
from rich.progress import BarColumn, Progress, ProgressColumn, Task, TextColumn
from rich.table import Column
from rich.text import Text

from grok_video._cli._bar import Bar
from grok_video._outcomes import BatchSummary, OutcomeState

if TYPE_CHECKING:
    from collections.abc import Callable

#: Seconds over which the rate is taken: a job takes about one minute, and a batch has good and bad
#: hours.
_WINDOW: Final = 120.0


class BatchBar(Bar):
    """A bar with what is done, running, failed and in doubt, the cost, the rate and an ETA."""

    def __init__(self, summary: Callable[[], BatchSummary], total: int) -> None:
        self._progress = Progress(
            TextColumn("{task.completed:,.0f}/{task.total:,.0f}", markup=False),
            BarColumn(bar_width=24),
            _Numbers(summary),
            console=Console(stderr=True),
            transient=True,
            redirect_stdout=False,
            redirect_stderr=False,
            refresh_per_second=5,
        )
        self._task = self._progress.add_task("", total=total)
        self._progress.start()

    def advance(self, done: int) -> None:
        """Show how many items have ended."""
        self._progress.update(self._task, completed=done)


class _Numbers(ProgressColumn):
    def __init__(self, summary: Callable[[], BatchSummary]) -> None:
        # The bar gives way first, then the end of this: two lines would not go as one does.
        super().__init__(table_column=Column(no_wrap=True))
        self._summary = summary
        self._text = Text()
        #: When so many items had ended in this run, over the last minutes.
        self._samples: deque[tuple[float, int]] = deque()

    def render(self, task: Task) -> Text:
        summary = self._summary()
        rate = self._rate(summary)
        self._text = Text(numbers(summary, rate=rate, remaining=task.remaining or 0))
        return self._text

    def _rate(self, summary: BatchSummary) -> float:
        """Return items per second; those of earlier runs cost no time and do not count."""
        now, done = time.monotonic(), summary.total - summary.counts.get(OutcomeState.SKIPPED, 0)
        samples = self._samples
        samples.append((now, done))
        while now - samples[0][0] > _WINDOW:
            samples.popleft()
        seconds = now - samples[0][0]
        return (done - samples[0][1]) / seconds if seconds > 0 else 0.0


def numbers(summary: BatchSummary, *, rate: float, remaining: float) -> str:
    """Return the numbers of a batch on one line."""
    counts = summary.counts
    saved = sum(
        counts.get(state, 0)
        for state in (OutcomeState.SAVED, OutcomeState.DONE, OutcomeState.SKIPPED)
    )
    failed = counts.get(OutcomeState.FAILED, 0) + counts.get(OutcomeState.EXPIRED, 0)
    words = [f"{saved:,} done", f"{summary.in_flight:,} running"]
    if failed:
        words.append(f"{failed:,} failed")
    if in_doubt := counts.get(OutcomeState.IN_DOUBT, 0):
        words.append(f"{in_doubt:,} in doubt")
    words.append(f"{summary.cost_usd:.2f} USD")
    if rate > 0:
        words.append(f"{rate * 60:.0f}/min" if rate < 10 else f"{rate:.0f}/s")
        words.append(f"{clock(remaining / rate)} left")
    return " · ".join(words)


def clock(seconds: float) -> str:
    """Return a time to come as a person says it: 45 s, 12 min, 3 h 5 min."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    minutes = round(seconds / 60)
    return f"{minutes} min" if minutes < 90 else f"{minutes // 60} h {minutes % 60} min"
