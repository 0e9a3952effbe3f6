"""Runs that are cancelled after exactly so many steps of the event loop, and what they leave.

A step is one turn of asyncio's loop or one task step of trio: every suspension of every task of
the run lies between two of them, so that cancelling after each step cancels at each await.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import re
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Iterator
from pathlib import Path
from types import CoroutineType
from typing import Any, Final, TypeVar

import anyio
import anyio.lowlevel
import trio
from attrs import define, field

from grok_video._transports._loops import running_library

T = TypeVar("T")

PACKAGE: Final = f"{os.sep}grok_video{os.sep}"
#: How the cancelling is done: by asyncio itself, or through a scope of anyio or trio.
MANNERS: Final = {
    "asyncio": ("task", "task twice", "task at every step", "scope"),
    "trio": ("scope",),
}


@define
class Steps:
    """Counts the steps of a run, and cancels it after the chosen one."""

    at: int | None = None
    manner: str = "scope"
    taken: int = 0
    #: Where the tasks of the run were suspended after each step, for an instrumented run.
    sites: list[frozenset[str]] = field(factory=list)
    watching: bool = False
    #: The task that is cancelled, in trio.
    main: trio.lowlevel.Task | None = None
    _cancel: Callable[[], object] | None = None

    def begin(self, cancel: Callable[[], object]) -> None:
        """From now on steps count; `cancel` is called after the chosen one."""
        self._cancel = cancel

    def end(self) -> None:
        self._cancel = None

    def step(self, coroutines: Callable[[], Iterator[Any]]) -> None:
        """Note that one more step was taken."""
        cancel = self._cancel
        if cancel is None:
            return
        self.taken += 1
        if self.watching:
            self.sites.append(frozenset(filter(None, map(site, coroutines()))))
        if self.at is None or self.taken < self.at:
            return
        later = self.taken - self.at
        if (
            later == 0
            or self.manner == "task at every step"
            or (self.manner == "task twice" and later == 1)
        ):
            cancel()


class _SteppedLoop(asyncio.SelectorEventLoop):
    """asyncio's own loop, which tells of each of its turns."""

    def __init__(self, steps: Steps) -> None:
        super().__init__()
        self._steps = steps

    def _run_once(self) -> None:
        super()._run_once()  # type: ignore[misc]
        self._steps.step(lambda: (task.get_coro() for task in asyncio.all_tasks(self)))


class _SteppedTrio(trio.abc.Instrument):
    def __init__(self, steps: Steps) -> None:
        self._steps = steps

    def after_task_step(self, task: trio.lowlevel.Task) -> None:
        root = trio.lowlevel.current_root_task()
        if self._steps.main is not None and root is not None:
            # From the root: what a batch does is done in tasks that are no caller's.
            self._steps.step(lambda: (one.coro for one in descendants(root)))


def descendants(task: trio.lowlevel.Task) -> Iterator[trio.lowlevel.Task]:
    """Give a task of trio and all that live in its nurseries."""
    yield task
    for nursery in task.child_nurseries:
        for child in nursery.child_tasks:
            yield from descendants(child)


def run(loop: str, steps: Steps, work: Callable[[], Coroutine[Any, Any, T]]) -> T:
    """Return what the work returns, in a loop that counts."""
    if loop == "trio":
        return trio.run(work, instruments=[_SteppedTrio(steps)])
    with asyncio.Runner(loop_factory=lambda: _SteppedLoop(steps)) as runner:
        return runner.run(work())


async def cancelled_by(steps: Steps, work: Callable[[], Awaitable[T]]) -> T | None:
    """Return what the work returns, or None once it was cancelled as `steps` says."""
    try:
        if steps.manner == "scope":
            if running_library() == "trio":
                steps.main = trio.lowlevel.current_task()
            with anyio.CancelScope() as scope:
                steps.begin(scope.cancel)
                return await work()
            return None
        task = asyncio.ensure_future(work())
        steps.begin(task.cancel)
        # Not awaited itself: a cancelled task would look as if this one were cancelled.
        await asyncio.wait([task])
        steps.end()
        return None if task.cancelled() else task.result()
    finally:
        steps.end()


def site(coroutine: Any) -> str | None:
    """Return the innermost line of the package where a coroutine is suspended."""
    found = None
    while isinstance(coroutine, CoroutineType):
        frame = coroutine.cr_frame
        if frame is not None and PACKAGE in frame.f_code.co_filename:
            found = f"{Path(frame.f_code.co_filename).name}:{frame.f_lineno}"
        coroutine = coroutine.cr_await
    return found


# --- what is left --------------------------------------------------------------------------------


def tasks_alive(loop: str) -> int:
    """Return how many tasks there are, the system's own included."""
    if loop == "trio":
        return trio.lowlevel.current_statistics().tasks_living
    return len(asyncio.all_tasks())


def open_files(*places: Path) -> list[str]:
    """Return what this process holds open in these files and folders."""
    wanted = [str(place) for place in places]
    found = []
    for descriptor in os.listdir("/proc/self/fd"):
        with contextlib.suppress(OSError):
            path = os.readlink(f"/proc/self/fd/{descriptor}")
            if any(path.startswith(one) for one in wanted):
                found.append(path)
    return found


def client_sockets(*ports: int) -> int:
    """Return how many sockets of this process are connected, or connecting, to these ports.

    The emulator's ends have the port on their own side. Those that the kernel still keeps for a
    moment (TIME_WAIT) belong to no process.
    """
    inodes = set()
    for descriptor in os.listdir("/proc/self/fd"):
        with contextlib.suppress(OSError):
            match = re.fullmatch(r"socket:\[(\d+)\]", os.readlink(f"/proc/self/fd/{descriptor}"))
            if match:
                inodes.add(match[1])
    count = 0
    for line in Path("/proc/self/net/tcp").read_text().splitlines()[1:]:
        words = line.split()
        count += int(words[2].rpartition(":")[2], 16) in ports and words[9] in inodes
    return count


async def soon(holds: Callable[[], bool]) -> bool:
    """Return whether something becomes true within two seconds: threads and kernels take turns."""
    until = anyio.current_time() + 2
    while not (true := holds()) and anyio.current_time() < until:
        await anyio.lowlevel.checkpoint()
    return true


@contextlib.asynccontextmanager
async def closing(client: Any) -> AsyncIterator[Any]:
    try:
        yield client
    finally:
        with anyio.CancelScope(shield=True):
            await client.aclose()
