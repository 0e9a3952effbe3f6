"""Worker threads of our own, apart from the application's: so many in each event loop.

anyio's default limiter has 40 for all the program. Where other work holds them, a call of ours
would wait for that work, whatever its own deadline is. What is imported late is imported there.
"""

from __future__ import annotations

import sys
from importlib import import_module
from typing import TYPE_CHECKING, Final, TypeVar, TypeVarTuple, Unpack

import anyio

if TYPE_CHECKING:
    from collections.abc import Callable

    from anyio.lowlevel import RunVar

__all__ = ["CHECKS", "FILES", "Threads", "load"]

T = TypeVar("T")
Ts = TypeVarTuple("Ts")


class Threads:
    """So many worker threads in each event loop that asks."""

    __slots__ = ("_count", "_limiters", "_name")

    def __init__(self, count: int, name: str) -> None:
        """See the class; older anyio tells such values apart by their names alone."""
        self._count = count
        self._name = name
        self._limiters: RunVar[anyio.CapacityLimiter] | None = None

    async def run(
        self, function: Callable[[Unpack[Ts]], T], *args: *Ts, abandon: bool = False
    ) -> T:
        """Return what the function returns, called in one of them.

        A cancelled caller waits until the function is done, because a thread that goes on would
        hold a file open; with `abandon` it leaves the thread to itself.
        """
        # Parts of anyio are imported with the first use: `import anyio` itself loads none of them.
        from anyio import to_thread

        return await to_thread.run_sync(
            function, *args, limiter=self._limiter(), abandon_on_cancel=abandon
        )

    def _limiter(self) -> anyio.CapacityLimiter:
        if self._limiters is None:
            from anyio.lowlevel import RunVar

            self._limiters = RunVar(f"grok_video threads for {self._name}")
        found = self._limiters.get(None)
        if found is None:
            found = anyio.CapacityLimiter(self._count)
            self._limiters.set(found)
        return found


#: For part files. A download uses one at a time, and by default 16 run at once; what is written or
#: hashed there does not hold the GIL.
FILES: Final = Threads(40, "files")
#: For what only looks at a disk and may be left alone there: apart from the part files, so that
#: looking at a disk that hangs keeps no download on another one from being closed.
CHECKS: Final = Threads(8, "checks")


async def load(name: str) -> None:
    """Return when a module of this package can be imported without holding the event loop."""
    parent, _, child = name.rpartition(".")
    # Not whether it is in `sys.modules`, where it is while another thread still imports it.
    if not hasattr(sys.modules[parent], child):
        await CHECKS.run(import_module, name)
