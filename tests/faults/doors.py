"""The doors of the matrix: every event loop and transport, in both modes, behind one function.

Work is written once, as a coroutine over a client. A door runs it: in an event loop of its own, or
over the blocking client, whose calls have answered when they return, so that the same coroutine
never really waits. A run that takes longer than it may is broken off by a signal, whatever hangs.
"""

from __future__ import annotations

import asyncio
import contextlib
import signal
from collections.abc import AsyncIterator, Callable, Coroutine
from types import FrameType, TracebackType
from typing import Any, Self, TypeVar

import trio
from attrs import frozen

import grok_video
from grok_video import AsyncClient

from ..conftest import EAGER, LANES, NO_LIMITS, QUICK

T = TypeVar("T")

#: Seconds that any one run may take: the slowest honest one takes two, on a busy machine six.
BOUND = 60.0

#: What every client of the matrix is given, unless a case says otherwise.
DEFAULTS = {"polling": QUICK, "limits": NO_LIMITS, "retry": EAGER, "timeout": 10.0}


class Hang(BaseException):
    """The run did not end by itself. No `Exception`, so that nothing takes it for a failure."""


@frozen
class Door:
    """One way to the package."""

    name: str
    loop: str
    transport: str
    blocking: bool = False

    def run(self, work: Callable[[], Coroutine[Any, Any, T]], *, debug: bool = False) -> T:
        """Return what the work returns. Raises `Hang` if it takes too long."""
        with bounded():
            if self.blocking:
                return _drive(work())
            if self.loop == "trio":
                return trio.run(work)
            return asyncio.run(work(), debug=debug)

    @contextlib.asynccontextmanager
    async def client(self, **words: Any) -> AsyncIterator[Any]:
        """Give a client whose methods are awaited, whatever the mode."""
        words = DEFAULTS | {"transport": self.transport} | words
        if self.blocking:
            with grok_video.Client(**words) as client:
                yield _Awaitable(client)
        else:
            async with AsyncClient(**words) as client:
                yield client


DOORS = {name: Door(name, *lane) for name, lane in LANES.items()}
if hasattr(grok_video, "Client"):
    DOORS |= {
        f"blocking-{transport}": Door(f"blocking-{transport}", "asyncio", transport, blocking=True)
        for transport in ("aiohttp", "httpx")
    }


class _Awaitable:
    """A blocking client or job as the matrix uses it: each call has ended when it is awaited."""

    def __init__(self, inner: Any) -> None:
        self._inner = inner

    def job(self, request_id: str) -> Self:
        return type(self)(self._inner.job(request_id))

    def __getattr__(self, name: str) -> Any:
        found = getattr(self._inner, name)
        if not callable(found):
            return found

        async def call(*values: Any, **words: Any) -> Any:
            result = found(*values, **words)
            return type(self)(result) if isinstance(result, grok_video.Job) else result

        return call


def _drive(work: Coroutine[Any, Any, T]) -> T:
    try:
        work.send(None)
    except StopIteration as end:
        return end.value
    work.close()
    raise AssertionError("work over the blocking client waited for something else")


class bounded:  # noqa: N801 - reads like the function it could be
    """Raises `Hang` in the main thread after so many seconds, whatever it is doing then."""

    def __init__(self, seconds: float = BOUND) -> None:
        self._seconds = seconds

    def __enter__(self) -> None:
        self._before = signal.signal(signal.SIGALRM, self._ring)
        signal.setitimer(signal.ITIMER_REAL, self._seconds)

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, self._before)

    def _ring(self, number: int, frame: FrameType | None) -> None:
        raise Hang(f"still not over after {self._seconds:g} s")


__all__ = ["BOUND", "DEFAULTS", "DOORS", "Door", "Hang", "bounded"]
