"""Work in a task of its own: whoever ends it need not be the task that began it.

A task group belongs to the task that has entered it. Entered in a caller's, it breaks where another
one leaves: a generator that its consumer breaks out of is closed by asyncio in a new task, and a
fixture may be set up in one task and torn down in another. A task that belongs to no caller enters
it here, and callers only tell that one. Nothing of it may escape: in trio that would be the end of
the whole run.
"""

from __future__ import annotations

import math
import sys
from contextvars import copy_context
from typing import TYPE_CHECKING, Final, TypeVar

import anyio

from grok_video._transports._loops import Bell, finish, running_library, running_loop

if TYPE_CHECKING:
    import asyncio
    from collections.abc import Awaitable, Callable

__all__ = ["OwnTask", "protected", "unprotected"]

F = TypeVar("F")

#: The tasks of asyncio that are not over: the loop itself holds them weakly, and what nobody holds
#: would be collected in the middle of what it does.
_kept: Final[set[asyncio.Task[None]]] = set()


class OwnTask:
    """A task for one piece of work, in the context of whoever starts it.

    It ends with its work, by `end`, or as the event loop does: asyncio's runner cancels all tasks,
    and trio its system's tasks once the main one is over.
    """

    def __init__(self, work: Callable[[], Awaitable[None]], at_its_end: Callable[[], None]) -> None:
        self._work = work
        #: Called also where the work was never begun.
        self._at_its_end = at_its_end
        self._scope = anyio.CancelScope()
        self._news = Bell()
        self.is_over = False
        #: What the work has raised, a cancellation as well unless `end` was its reason.
        self.failure: BaseException | None = None

    def start(self) -> None:
        """The work begins in the next turn of the running loop.

        Raises `RuntimeError` where trio's run is about to end.
        """
        if running_library() == "trio":
            spawn = sys.modules["trio"].lowlevel.spawn_system_task
            spawn(self._run, name="grok_video", context=copy_context())
            return
        task: asyncio.Task[None] = running_loop().create_task(self._run())
        for one in list(_kept):  # other threads go on meanwhile
            if one.get_loop().is_closed():  # by hand, and nothing in it will ever be over
                _kept.discard(one)
        _kept.add(task)
        # It may be cancelled before its first step.
        task.add_done_callback(self._end)

    async def end(self) -> None:
        """The work was cancelled, and is over; however often the caller is cancelled meanwhile."""
        self._scope.cancel()
        await finish(self.over)

    async def over(self) -> None:
        """Return when the work is over."""
        while not self.is_over:
            await self._news.wait_until(math.inf)

    async def _run(self) -> None:
        try:
            with self._scope:
                await self._work()
        except BaseException as error:  # noqa: BLE001 - told to those who ask for it
            self.failure = error
        finally:
            self._end()

    def _end(self, task: asyncio.Task[None] | None = None) -> None:
        if task is not None:
            _kept.discard(task)
        if not self.is_over:
            self.is_over = True
            self._at_its_end()
            self._news.ring()


def protected(function: F) -> F:
    """Return the function such that trio raises a Ctrl-C in its main task instead of in there."""
    return _marked(function, "enable_ki_protection")


def unprotected(function: F) -> F:
    """Return the function such that trio raises a Ctrl-C in there, whoever has called it."""
    return _marked(function, "disable_ki_protection")


def _marked(function: F, how: str) -> F:
    if running_library() != "trio":
        return function
    return getattr(sys.modules["trio"].lowlevel, how)(function)  # type: ignore[no-any-return]  # as it was given
