"""Worker threads of our own, apart from the application's: so many in each event loop.

anyio's default limiter has 40 for all the program. Where other work holds them, a call of ours
would wait for that work, whatever its own deadline is. What is imported late is imported in a
thread as well: one of its own, because anyio's threads are among what is imported late.
"""

from __future__ import annotations

import contextlib
import math
import os
import threading
from collections import deque
from importlib import import_module
from typing import TYPE_CHECKING, Any, Final, TypeVar, TypeVarTuple, Unpack

from grok_video._transports._loops import (
    is_imported,
    new_sleeper,
    running_library,
    running_loop,
    sleep_until,
    wake,
)

if TYPE_CHECKING:
    from collections.abc import Callable

    from anyio import CapacityLimiter
    from anyio.lowlevel import RunVar

__all__ = ["CHECKS", "FILES", "Threads", "load", "load_anyio"]

T = TypeVar("T")
Ts = TypeVarTuple("Ts")


class Threads:
    """So many worker threads in each event loop that asks."""

    __slots__ = ("_count", "_limiters", "_name")

    def __init__(self, count: int, name: str) -> None:
        """See the class; older anyio tells such values apart by their names alone."""
        self._count = count
        self._name = name
        self._limiters: RunVar[CapacityLimiter] | None = None

    async def run(
        self, function: Callable[[Unpack[Ts]], T], *args: *Ts, abandon: bool = False
    ) -> T:
        """Return what the function returns, called in one of them.

        A cancelled caller waits until the function is done, because a thread that goes on would
        hold a file open; with `abandon` it leaves the thread to itself.
        """
        await load_anyio()
        from anyio import to_thread

        return await to_thread.run_sync(
            function, *args, limiter=self._limiter(), abandon_on_cancel=abandon
        )

    def _limiter(self) -> CapacityLimiter:
        if self._limiters is None:
            from anyio.lowlevel import RunVar

            self._limiters = RunVar(f"grok_video threads for {self._name}")
        found = self._limiters.get(None)
        if found is None:
            from anyio import CapacityLimiter

            found = CapacityLimiter(self._count)
            self._limiters.set(found)
        return found


#: For part files. A download uses one at a time, and by default 16 run at once; what is written or
#: hashed there does not hold the GIL.
FILES: Final = Threads(40, "files")
#: For what only looks at a disk and may be left alone there: apart from the part files, so that
#: looking at a disk that hangs keeps no download on another one from being closed.
CHECKS: Final = Threads(8, "checks")


#: The libraries for which anyio is loaded.
_with_anyio: Final[set[str]] = set()


async def load_anyio() -> None:
    """Return when scopes, threads and task groups of anyio can be had without holding the loop.

    Their import takes as long as a hundred polls, and most programs on asyncio that only wait for
    jobs never need one.
    """
    library = running_library()
    if library not in _with_anyio:
        await load("anyio.lowlevel", "anyio.to_thread", f"anyio._backends._{library}")
        _with_anyio.add(library)


async def load(*names: str) -> None:
    """Return when these modules can be imported without holding the event loop.

    One that cannot be imported is left to who needs it.
    """
    if all(map(is_imported, names)):
        return
    loop = running_loop()
    sleeper = new_sleeper(loop)
    try:
        is_over = _imports.begin(names).wake_at_its_end(sleeper, loop)
    except RuntimeError:
        return  # no thread can be had: then it holds the loop
    if not is_over:
        await sleep_until(math.inf, sleeper, loop)


class _Import:
    """What one thread imports, for all who wait for the same.

    Without a lock: a signal handler may come in between, and wait for a call that loads the same.
    """

    def __init__(self, names: tuple[str, ...], lock: threading.RLock) -> None:
        self._names = names
        self._lock = lock
        self._waiting: deque[tuple[Any, Any]] = deque()
        self.is_over = False

    def wake_at_its_end(self, sleeper: object, loop: object) -> bool:
        """Wake the sleeper when it is over; return whether it is, which then may tell nobody."""
        self._waiting.append((sleeper, loop))
        if self.is_over:
            # Its thread may have told it all the same, or tell others at this moment.
            with contextlib.suppress(ValueError, IndexError):
                self._waiting.remove((sleeper, loop))
        return self.is_over

    def run(self) -> None:
        for name in self._names:
            with self._lock, contextlib.suppress(BaseException):
                import_module(name)
        self.is_over = True  # before it looks who waits: who comes now sees it
        while self._waiting:  # and holds nobody's loop any longer
            # Whatever a loop of others raises: the next hears of it.
            with contextlib.suppress(Exception):
                wake(*self._waiting.popleft())  # creates go in the order of the calls


class _Imports:
    """What is imported in such threads.

    A lock is held while something is imported there, and across each fork: in a child that is
    forked in the middle of an import, Python's own lock of that module belongs for ever to a thread
    that is not there.
    """

    def __init__(self) -> None:
        self.lock = threading.RLock()  # a module that forks while it is imported has it already
        self._under_way: dict[tuple[str, ...], _Import] = {}

    def begin(self, names: tuple[str, ...]) -> _Import:
        """Return the import of these, begun now if none is under way.

        Raises `RuntimeError` if no thread can be had.
        """
        found = self._under_way.get(names)
        if found is None or found.is_over:
            found = _Import(names, self.lock)
            threading.Thread(target=found.run, name="grok_video import", daemon=True).start()
            # Only now: who is interrupted before leaves nobody waiting for what was not begun.
            self._under_way[names] = found
        return found

    def before_fork(self) -> None:
        self.lock.acquire(timeout=_LONGEST_IMPORT)

    def after_in_parent(self) -> None:
        with contextlib.suppress(RuntimeError):  # it took too long, or was interrupted
            self.lock.release()

    def after_in_child(self) -> None:
        # Neither the threads of the parent are here nor those who wait for them.
        self.lock = threading.RLock()
        self._under_way = {}


#: Seconds a fork waits for an import: dozens of times what any of these takes. A thread that forks
#: while it imports something may itself have what the import waits for.
_LONGEST_IMPORT: Final = 5.0
_imports: Final = _Imports()
if hasattr(os, "register_at_fork"):
    # After `logging` (asyncio has imported it): what registers later is run earlier, and an import
    # may want the lock that `logging` takes.
    os.register_at_fork(
        before=_imports.before_fork,
        after_in_parent=_imports.after_in_parent,
        after_in_child=_imports.after_in_child,
    )
