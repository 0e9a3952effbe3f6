"""What belongs to an event loop: its clock, its alarms, and things that live as long as it does.

A client may be made at import time and used across several `asyncio.run` calls, so what belongs to
a loop (sessions, semaphores) must follow the loop's life, not the client's. asyncio and trio both
finish the asynchronous generators that are alive when a run ends, while the loop still works; a
generator that holds the thing is therefore told in time. Nothing here knows what the thing is.
"""

from __future__ import annotations

import asyncio
import contextlib
import math
import sys
from typing import TYPE_CHECKING, Any, Final, Generic, TypeVar

import anyio

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Awaitable, Callable, Coroutine

T = TypeVar("T")


def running_library() -> str:
    """Return "asyncio" or "trio": what runs the current coroutine."""
    trio = sys.modules.get("trio")
    return "trio" if trio is not None and trio.lowlevel.in_trio_task() else "asyncio"


def running_loop() -> Any:  # noqa: ANN401 - an asyncio loop or a trio token
    """Return what identifies the running event loop. Raises `RuntimeError` outside one."""
    # Asked three times for each poll: not by way of `running_library`.
    trio = sys.modules.get("trio")
    if trio is not None and trio.lowlevel.in_trio_task():
        return trio.lowlevel.current_trio_token()
    return asyncio.get_running_loop()


def caller_of(loop: Any) -> Callable[..., object]:  # noqa: ANN401 - as `running_loop` returns it
    """Return what runs a function in an event loop, called from another thread.

    What it returns raises a `RuntimeError` where the loop is over.
    """
    if isinstance(loop, asyncio.AbstractEventLoop):
        return loop.call_soon_threadsafe
    return loop.run_sync_soon  # type: ignore[no-any-return]  # trio has no types here


def current_time() -> float:
    """Return the running loop's clock, in seconds.

    What `anyio.current_time` says at a tenth of its price: it is asked several times for each
    poll.
    """
    trio = sys.modules.get("trio")
    if trio is not None and trio.lowlevel.in_trio_task():
        return trio.current_time()  # type: ignore[no-any-return]
    return asyncio.get_running_loop().time()


class Bell:
    """Wakes whoever waits for it: at a time, or when it is rung before.

    An anyio event inside a cancel scope does the same and costs three times as much on asyncio,
    which counts where 10,000 jobs wait.
    """

    __slots__ = ("_event", "_future", "_others", "_run")

    def __init__(self) -> None:
        # Most bells wake one: a list for each would be one object more where 10,000 jobs wait.
        self._future: asyncio.Future[None] | None = None
        self._others: list[asyncio.Future[None]] | None = None
        # trio's own, for the same reason, and the run of trio that it belongs to.
        self._event: Any = None
        self._run: Any = None

    async def wait_until(self, when: float) -> None:
        """Return at `when` on the loop's clock, or when the bell is rung."""
        if running_library() == "trio":
            trio = sys.modules["trio"]
            run = trio.lowlevel.current_trio_token()
            if self._event is None or self._run is not run:  # one of a run that is over
                self._event, self._run = trio.Event(), run
            with trio.CancelScope(deadline=when):
                await self._event.wait()
            return
        loop = asyncio.get_running_loop()
        future = loop.create_future()
        if self._future is None:
            self._future = future
        elif self._others is None:
            self._others = [future]
        else:
            self._others.append(future)
        timer = loop.call_at(when, _wake, future) if when < math.inf else None
        try:
            await future
        finally:
            if self._future is future:
                self._future = None
            elif self._others is not None:
                self._others.remove(future)
            if timer is not None:
                timer.cancel()

    def ring(self) -> None:
        """Wake everyone who waits now, in whichever event loop."""
        future, others = self._future, self._others
        event, self._event = self._event, None
        if future is None and not others and event is None:
            return
        here = None
        with contextlib.suppress(RuntimeError):  # none runs where a coroutine is only collected
            here = running_loop()
        if future is not None:
            _in_loop(future.get_loop(), here, _wake, future)
        for other in list(others or ()):
            _in_loop(other.get_loop(), here, _wake, other)
        if event is not None:
            _in_loop(self._run, here, event.set)


def _wake(future: asyncio.Future[None]) -> None:
    if not future.done():
        future.set_result(None)


def _in_loop(loop: Any, here: Any, function: Callable[..., object], *args: object) -> None:  # noqa: ANN401 - as `running_loop` returns them
    """Call the function now if it belongs to the loop that runs here, else in its own."""
    if loop is here:
        function(*args)
    else:
        with contextlib.suppress(RuntimeError):  # that loop is over, and who waited in it
            caller_of(loop)(function, *args)


async def finish(work: Callable[[], Coroutine[Any, Any, T]], *, grace: float = math.inf) -> T:
    """Return what the work returns, done to its end however often the caller is cancelled.

    A cancelled caller waits for it, at most `grace` seconds in which this process was awake; then
    the work is cancelled as well, and the caller's cancellation goes on. A shield alone does not do
    that: asyncio's own `task.cancel()` knows nothing of it, and a second one would break off what
    the first began.
    """
    if running_library() == "trio":
        return await _finish_in_group(work, grace)
    loop = asyncio.get_running_loop()
    ended = loop.create_future()

    def wake(_: object) -> None:
        _wake(ended)

    async def run() -> T:
        # Asked for, because an eager task factory runs this before `task` has a value.
        current = asyncio.current_task()
        assert current is not None  # noqa: S101 - for the type checker: it is this one
        current.remove_done_callback(wake)
        try:
            return await work()
        finally:
            _wake(ended)  # one turn of the loop earlier than a callback of the task would

    # A task that no cancellation of the caller reaches. A task group would do the same at five
    # times the price, which counts where each create is one; `asyncio.shield` reports to the loop
    # what a cancelled caller did not hear, and there is nothing to report: it is heard below.
    task = loop.create_task(run())
    # Nor one of those who cancel all tasks of a loop, as `asyncio.run` does at its end: they find
    # the caller, and it waits for this one.
    asyncio.tasks._unregister_task(task)  # noqa: SLF001 - documented, for those who extend asyncio
    task.add_done_callback(wake)  # it may be cancelled before its first step
    try:
        await ended
    except asyncio.CancelledError:
        await _outlast(task, grace)
        if not task.done():
            task.cancel()
            await _outlast(task, math.inf)
        raise
    return task.result()


#: In how many parts a grace is waited for. A machine that sleeps, or a process that is stopped,
#: takes one part of it: awake again, the answer still has the others to come in.
_PARTS: Final = 10


async def _outlast(task: asyncio.Task[Any], grace: float) -> None:
    """Return when the task is done, or the grace is over; no cancellation ends it before."""
    loop = asyncio.get_running_loop()
    part = grace / _PARTS
    while not task.done() and grace > 0:
        began = loop.time()
        with contextlib.suppress(asyncio.CancelledError), anyio.CancelScope(shield=True):
            await asyncio.wait({task}, timeout=min(part, grace) if grace < math.inf else None)
        grace -= min(loop.time() - began, part)
    if task.done() and not task.cancelled():
        task.exception()  # the caller's cancellation is what is told; this one was seen


async def _finish_in_group(work: Callable[[], Coroutine[Any, Any, T]], grace: float) -> T:
    results: list[T] = []
    failures: list[BaseException] = []
    trio = sys.modules["trio"]
    done = anyio.Event()
    scope = anyio.CancelScope(shield=True)

    async def run() -> None:
        try:
            with scope:
                results.append(await work())
        except trio.Cancelled:
            raise
        except BaseException as error:  # noqa: BLE001 - raised below: here it would be in a group
            failures.append(error)
        finally:
            done.set()

    interrupt: KeyboardInterrupt | None = None
    # Ctrl-C is raised in whatever task runs at the moment, unless that is protected: then it is
    # raised where this one waits.
    protected = trio.lowlevel.enable_ki_protection(run)
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(protected)
        try:
            await done.wait()
        except BaseException as error:
            interrupt = await _outlast_event(done, grace)
            scope.cancel()
            if isinstance(error, KeyboardInterrupt):
                interrupt = error
            elif interrupt is None:
                raise
            # An interrupt is raised below: here it would come out inside a group.
    if interrupt is not None:
        raise interrupt
    if failures:
        raise failures[0]
    return results[0]


async def _outlast_event(done: anyio.Event, grace: float) -> KeyboardInterrupt | None:
    """Return when it is set, or the grace is over, as `_outlast`; and a Ctrl-C that came then."""
    interrupt: KeyboardInterrupt | None = None
    part = grace / _PARTS
    while not done.is_set() and grace > 0:
        began = anyio.current_time()
        try:
            with anyio.move_on_after(min(part, grace), shield=True):
                await done.wait()
        except KeyboardInterrupt as error:
            interrupt = error
        grace -= min(anyio.current_time() - began, part)
    return interrupt


class LoopLocal(Generic[T]):
    """Holds one value for each event loop that asks."""

    def __init__(self, make: Callable[[], T], close: Callable[[T], Awaitable[None]]) -> None:
        self._make = make
        self._close = close
        self._values: dict[Any, tuple[T, AsyncGenerator[T, None]]] = {}

    def held(self) -> T | None:
        """Return the running loop's value if it has one: the quick way of `get`."""
        held = self._values.get(running_loop())
        return held[0] if held is not None else None

    async def get(self) -> T:
        """Return the running loop's value, made now if it has none."""
        loop = running_loop()
        held = self._values.get(loop)
        if held is not None:
            return held[0]
        self._forget_dead_loops()
        value = self._make()
        keeper = self._keep(loop, value)
        self._values[loop] = (value, keeper)
        await keeper.asend(None)
        return value

    async def aclose(self) -> None:
        """Close the running loop's value, if it has one."""
        held = self._values.pop(running_loop(), None)
        if held is not None:
            await held[1].aclose()

    async def _keep(self, loop: Any, value: T) -> AsyncGenerator[T, None]:  # noqa: ANN401
        try:
            yield value
        finally:
            self._values.pop(loop, None)
            with anyio.CancelScope(shield=True):
                await self._close(value)

    def _forget_dead_loops(self) -> None:
        # A loop that was closed by hand, without `shutdown_asyncgens`: its sockets cannot be
        # closed in it any more, and the interpreter's own ResourceWarning says so.
        for loop in list(self._values):
            if getattr(loop, "is_closed", bool)():
                del self._values[loop]
