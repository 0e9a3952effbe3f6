"""Ends exchanges in which nothing happens for too long: all of one event loop, by a single timer.

aiohttp's own `total` sets a timer for each request, and a context around each wait within it: that
was a seventeenth of all bytecodes of a job (`benchmarks/counts.py`). As all exchanges of a client
have the same time, the one that began (or got on) first is due first, and one timer is enough.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from types import TracebackType

__all__ = ["Timeouts"]


class Timeouts:
    """The exchanges that go on in the running event loop, so many seconds at a stretch at most."""

    __slots__ = ("_loop", "_running", "_seconds", "_timer")

    def __init__(self, seconds: float) -> None:
        self._loop = asyncio.get_running_loop()
        self._seconds = seconds
        #: When each ends, in the order in which they began or got on: that in which they end.
        self._running: dict[_Exchange, float] = {}
        self._timer: asyncio.TimerHandle | None = None

    def exchange(self) -> _Exchange:
        """Return the context of one exchange.

        Leaving it raises `TimeoutError` if the time passed within, as `asyncio.timeout` would.
        """
        return _Exchange(self)

    def begin(self, exchange: _Exchange) -> None:
        """Count its time from now."""
        ends = self._running[exchange] = self._loop.time() + self._seconds
        if self._timer is None:
            self._timer = self._loop.call_at(ends, self._look)

    def renew(self, exchange: _Exchange) -> None:
        """Count its time from now again, unless it has ended."""
        if self._running.pop(exchange, None) is not None:
            self._running[exchange] = self._loop.time() + self._seconds

    def end(self, exchange: _Exchange) -> None:
        """Forget it; the timer stays for those that come after."""
        self._running.pop(exchange, None)

    def close(self) -> None:
        """Leave no timer behind; to be called when no exchange begins any more."""
        if self._timer is not None and not self._running:
            self._timer.cancel()
            self._timer = None

    def _look(self) -> None:
        """End the exchanges whose time has passed, and look again when that of the next has."""
        self._timer = None
        now = self._loop.time()
        for exchange, ends in list(self._running.items()):
            if ends > now:
                self._timer = self._loop.call_at(ends, self._look)
                return
            del self._running[exchange]
            exchange.break_off()


class _Exchange:
    """Cancels its task when told to, and makes a `TimeoutError` of that."""

    __slots__ = ("_broken_off", "_cancelling", "_task", "_timeouts")

    _task: asyncio.Task[object]

    def __init__(self, timeouts: Timeouts) -> None:
        self._timeouts = timeouts
        self._broken_off = False

    def __enter__(self) -> None:
        task = asyncio.current_task()
        assert task is not None  # noqa: S101 - aiohttp as well works inside of tasks only
        self._task = task
        #: How often others had asked to cancel it before.
        self._cancelling = task.cancelling()
        self._timeouts.begin(self)

    def get_on(self) -> None:
        """Have its whole time again: something happened that takes as long as it takes."""
        self._timeouts.renew(self)

    def break_off(self) -> None:
        self._broken_off = True
        self._task.cancel()

    def __exit__(
        self,
        _: type[BaseException] | None,
        error: BaseException | None,
        __: TracebackType | None,
    ) -> None:
        self._timeouts.end(self)
        if not self._broken_off:
            return
        # Where others asked to cancel it meanwhile, it is they who are heard.
        by_others = self._task.uncancel() > self._cancelling
        if isinstance(error, asyncio.CancelledError) and not by_others:
            raise TimeoutError from error
