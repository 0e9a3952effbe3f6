"""Event loops: one clock for all, sleepers and bells, work that no cancellation breaks off.

What runs here is asyncio or trio; which of them, and whether it is here at all, is asked of nothing
but what was imported already. Nothing here knows a request.
"""

from __future__ import annotations

import asyncio
import contextlib
import contextvars
import math
import sys
import time
import weakref
from functools import partial
from typing import TYPE_CHECKING, Any, Final, TypeVar
from weakref import WeakKeyDictionary

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable
    from contextlib import AbstractContextManager

    import anyio

T = TypeVar("T")


def running_library() -> str:
    """Return "asyncio" or "trio": what runs the current coroutine."""
    trio = sys.modules.get("trio")
    return "trio" if trio is not None and _runs_here(trio) else "asyncio"


def _runs_here(trio: Any) -> bool:  # noqa: ANN401 - a module
    # Another thread may be in the middle of importing it (httpx does, with its first client): then
    # nothing runs on it yet, and it lacks what it is asked for.
    in_trio_task = getattr(getattr(trio, "lowlevel", None), "in_trio_task", None)
    return in_trio_task is not None and in_trio_task()


def is_imported(name: str) -> bool:
    """Return whether a part of a package is here as a whole.

    In `sys.modules` it is while another thread still imports it, in its package once that is done.
    """
    parent, _, child = name.rpartition(".")
    return parent in sys.modules and child in vars(sys.modules[parent])


def variable_of_sniffio() -> contextvars.ContextVar[str | None] | None:
    """Return where sniffio is told what runs a context; None where nobody has imported it."""
    return getattr(sys.modules.get("sniffio"), "current_async_library_cvar", None)


def context_without_loop() -> contextvars.Context:
    """Return a copy of this context, for a thread in which no event loop runs."""
    context = contextvars.copy_context()
    library = variable_of_sniffio()
    if library is not None:
        context.run(library.set, None)
    return context


def running_loop() -> Any:  # noqa: ANN401 - an asyncio loop or a trio token
    """Return what identifies the running event loop. Raises `RuntimeError` outside one."""
    # Asked three times for each poll: not by way of `running_library`.
    trio = sys.modules.get("trio")
    if trio is not None and _runs_here(trio):
        return trio.lowlevel.current_trio_token()
    return asyncio.get_running_loop()


def running_task() -> Any:  # noqa: ANN401 - a task of asyncio or of trio
    """Return the running task."""
    if running_library() == "trio":
        return sys.modules["trio"].lowlevel.current_task()
    return asyncio.current_task()


def has_ended(task: Any) -> bool:  # noqa: ANN401 - as above
    """Return whether a task is over, however it ended."""
    if asyncio.isfuture(task):  # of whatever kind a loop makes
        return task.done()
    return task is None or task.coro.cr_frame is None  # none where a coroutine is driven by hand


def _is_of_asyncio(loop: Any) -> bool:  # noqa: ANN401 - as `running_loop` returns it
    return isinstance(loop, asyncio.AbstractEventLoop)


#: The running loop of asyncio, or None on trio; asked for each poll, where `running_loop` is slow.
loop_of_asyncio: Final = asyncio._get_running_loop  # noqa: SLF001 - public in all but its name


def goes_on(loop: asyncio.AbstractEventLoop | None) -> bool:
    """Return whether what was begun there will end: trio sees to that, Ctrl-C may stop asyncio."""
    return loop is None or loop.is_running()


def caller_of(loop: Any) -> Callable[..., object]:  # noqa: ANN401 - as `running_loop` returns it
    """Return what runs a function in an event loop, called from another thread.

    What it returns raises a `RuntimeError` where the loop is over.
    """
    if _is_of_asyncio(loop):
        return loop.call_soon_threadsafe  # type: ignore[no-any-return]  # a loop is Any here
    return loop.run_sync_soon  # type: ignore[no-any-return]  # trio has no types here


def call_in_next_turn(loop: Any, function: Callable[[], object]) -> None:  # noqa: ANN401 - as above
    """Have the function called in the loop's next turn; never, where that loop is over."""
    here: Any = None
    with contextlib.suppress(RuntimeError):  # none runs where a coroutine is only collected
        here = running_loop()
    with contextlib.suppress(RuntimeError):
        if loop is here and _is_of_asyncio(loop):
            # Not in a copy of the caller's context, which would be one more thing to hold.
            loop.call_soon(function, context=_clock_for(loop).context)
        else:
            caller_of(loop)(function)


def soon_in(loop: Any) -> Callable[[Callable[[], object]], object]:  # noqa: ANN401 - as above
    """Return a quicker `call_in_next_turn`, for who calls it in that loop and nowhere else."""
    if not _is_of_asyncio(loop):
        return partial(call_in_next_turn, loop)
    return partial(loop.call_soon, context=_clock_for(loop).context)


class _Clock:
    """What one event loop's clock is behind the one that all share, and what it was told last."""

    __slots__ = ("behind", "context", "told")

    def __init__(self, behind: float) -> None:
        self.behind = behind
        self.told = -math.inf
        #: Where the loop's timers run. A copy of the caller's own would be one more thing to hold
        #: for each who waits, and waking needs nothing of it. Two threads must not share one.
        self.context = contextvars.Context()


#: Weakly: a client may outlive many loops.
_clocks: WeakKeyDictionary[Any, _Clock] = WeakKeyDictionary()
#: The loop that asked last, held weakly, and its clock: most programs have one.
_last: tuple[Callable[[], Any], _Clock] = (lambda: None, _Clock(0.0))
#: The latest time told in a loop before the last change of loops: a clock may run ahead.
_latest = -math.inf
#: Seconds that a loop which has Python's monotonic clock may be behind it: some look once a turn.
_SAME_CLOCK: Final = 1.0
#: What a clock is behind is rounded up to a whole number of these, a microsecond each: sums of
#: round numbers stay exact.
_GRAIN: Final = 2.0**-20
#: asyncio runs a timer that is due within this.
_EARLY: Final = time.get_clock_info("monotonic").resolution


def current_time() -> float:
    """Return seconds on a clock that all event loops of this process share.

    It is Python's monotonic clock, which is asyncio's own. Each run of trio begins its clock
    somewhere else, and one that a test turns or freezes may jump: such a clock is read as so many
    seconds since the loop's first look at this one. A loop that comes later is told no earlier
    time, and none is told that time went back.
    """
    # Asked several times for each poll: everything is spelled out here.
    trio = sys.modules.get("trio")
    if trio is not None and _runs_here(trio):
        loop, own = trio.lowlevel.current_trio_token(), trio.current_time()
    else:
        loop = asyncio.get_running_loop()
        own = loop.time()
    known, clock = _last
    if known() is not loop:
        clock = _clock_of(loop, own)
    now: float = own + clock.behind
    if now < clock.told:
        clock.behind = _round_up(clock.told - own)
        now = own + clock.behind
    clock.told = now
    return now


def _clock_of(loop: Any, own: float) -> _Clock:  # noqa: ANN401 - as `running_loop` returns it
    """Return the clock of the running loop, which itself says `own` now."""
    global _last, _latest  # noqa: PLW0603 - of the process, as the clock is
    _latest = max(_latest, _last[1].told)
    clock = _clocks.get(loop)
    if clock is None:
        behind = time.monotonic() - own
        if abs(behind) < _SAME_CLOCK and _latest <= own:
            behind = 0.0
        else:
            behind = _round_up(max(behind, _latest - own))
        _clocks[loop] = clock = _Clock(behind)
    _last = weakref.ref(loop), clock
    return clock


def _round_up(seconds: float) -> float:
    return (math.floor(seconds / _GRAIN) + 2) * _GRAIN


def _clock_for(loop: Any) -> _Clock:  # noqa: ANN401 - as `running_loop` returns it
    """Return the clock of the running loop."""
    known, clock = _last
    if known() is loop:
        return clock
    own = loop.time() if _is_of_asyncio(loop) else sys.modules["trio"].current_time()
    return _clock_of(loop, own)


def _on_clock(clock: _Clock, loop: Any, when: float) -> float:  # noqa: ANN401 - as above
    """Return what the running loop's own clock says at `when`, or the next moment after it."""
    behind = clock.behind
    if not behind or math.isinf(when):
        return when
    own = when - behind
    # Woken a hair too early, by a clock that a test has stopped, a waiter would go round for ever.
    if own + behind < when:
        own += 2 * math.ulp(max(abs(own), abs(when)))
    return own + 1.5 * _EARLY if _is_of_asyncio(loop) else own


def ends_at(when: float) -> anyio.CancelScope:
    """Return a scope that is cancelled at `when`, a time as `current_time` tells it."""
    from anyio import CancelScope  # as below: whoever needs no scope waits for no import

    loop = running_loop()
    return CancelScope(deadline=_on_clock(_clock_for(loop), loop, when))


def shield() -> AbstractContextManager[object]:
    """Return a scope that no cancelled scope around it reaches; asyncio's `task.cancel()` does."""
    if running_library() == "trio":
        scope: AbstractContextManager[object] = sys.modules["trio"].CancelScope(shield=True)
        return scope
    if not is_imported("anyio._backends._asyncio"):
        return contextlib.nullcontext()  # then there is no scope around
    from anyio import CancelScope

    return CancelScope(shield=True)


def new_sleeper(loop: Any) -> Any:  # noqa: ANN401 - as `running_loop` returns it
    """Return what a coroutine of this loop can be woken by: a future, or an event of trio."""
    return loop.create_future() if _is_of_asyncio(loop) else sys.modules["trio"].Event()


async def sleep_until(when: float, sleeper: Any, loop: Any) -> None:  # noqa: ANN401 - as above
    """Return at `when`, a time as `current_time` tells it, or when the sleeper is woken.

    An anyio event inside a cancel scope costs three times as much on asyncio, and Python's garbage
    collection visits the dozen objects of each again and again, which counts where 10,000 jobs
    wait.
    """
    clock = _clock_for(loop)
    own = _on_clock(clock, loop, when)
    if not _is_of_asyncio(loop):
        with sys.modules["trio"].CancelScope(deadline=own):
            await sleeper.wait()
        return
    timer, is_over = None, False
    try:
        if own < math.inf:
            timer = loop.call_at(own, _wake_future, sleeper, True, context=clock.context)
        is_over = await sleeper
    finally:
        if timer is not None and not is_over:
            timer.cancel()


def wake(sleeper: Any, loop: Any) -> None:  # noqa: ANN401 - as above
    """Wake whoever sleeps, from any thread; nothing happens where that loop is over."""
    here = None
    with contextlib.suppress(RuntimeError):  # none runs where a coroutine is only collected
        here = running_loop()
    if loop is here:
        _wake(sleeper)
    else:
        with contextlib.suppress(RuntimeError):
            caller_of(loop)(_wake, sleeper)


def _wake(sleeper: Any) -> None:  # noqa: ANN401 - a future of asyncio or an event of trio
    if asyncio.isfuture(sleeper):
        _wake_future(sleeper)
    else:
        sleeper.set()


def _wake_future(future: asyncio.Future[bool], by_timer: bool = False) -> None:
    if not future.done():
        future.set_result(by_timer)


class Bell:
    """Wakes whoever waits for it: at a time, or when it is rung before.

    Those who wait and those who ring may be in any event loop of any thread.
    """

    __slots__ = ("_waiting",)

    def __init__(self) -> None:
        #: What wakes each who waits, and its event loop.
        self._waiting: dict[Any, Any] = {}

    async def wait_until(
        self,
        when: float,
        unless: Callable[[], bool] | None = None,
        among: dict[Any, Bell] | None = None,
    ) -> None:
        """Return at `when`, a time as `current_time` tells it, or when the bell is rung.

        At once where `unless` returns true. It is asked when a ring would be heard already, so that
        nothing happens unheard between the question and the wait. The bell stands in `among` as
        long as someone waits for it.
        """
        loop = running_loop()
        sleeper = new_sleeper(loop)
        self._waiting[sleeper] = loop
        if among is not None:
            among[sleeper] = self
        try:
            is_needless = unless is not None and unless()
            unless = None  # not to be held by each of 10,000 who wait
            if not is_needless:
                await sleep_until(when, sleeper, loop)
        finally:
            del self._waiting[sleeper]
            if among is not None:
                del among[sleeper]

    def ring(self) -> None:
        """Wake everyone who waits now, in whichever event loop."""
        if self._waiting:
            # A copy in one step: other threads go on meanwhile.
            for sleeper, loop in self._waiting.copy().items():
                wake(sleeper, loop)


def is_cancellation(error: BaseException) -> bool:
    """Return whether this is how the running library cancels; in groups of trio's as well."""
    if running_library() == "asyncio":
        return isinstance(error, asyncio.CancelledError)
    within: tuple[BaseException, ...] = getattr(error, "exceptions", ())  # of a group
    if within:
        return all(map(is_cancellation, within))
    return isinstance(error, sys.modules["trio"].Cancelled)


async def checkpoint() -> None:
    """Return, unless the caller was cancelled meanwhile: then its cancellation is raised."""
    if running_library() == "trio":
        await sys.modules["trio"].lowlevel.checkpoint_if_cancelled()
    else:
        # A turn of the loop: what anyio's scopes cancel is told by then as well. anyio's own way to
        # ask imports half of it, which holds the loop for as long as a hundred of these.
        await asyncio.sleep(0)


def _forever() -> float:
    return math.inf


async def finish(work: Callable[[], Awaitable[T]], *, grace: Callable[[], float] = _forever) -> T:
    """Return what the work returns, done to its end however often the caller is cancelled.

    A cancelled caller waits for it, for at most the seconds that `grace` says then, in which this
    process was awake; after them the work is cancelled as well, and the caller's cancellation goes
    on. A shield alone does not do that: asyncio's own `task.cancel()` knows nothing of it, and a
    second one would break off what the first began.
    """
    if running_library() == "trio":
        return await _finish_in_group(work, grace)
    loop = asyncio.get_running_loop()
    ended = loop.create_future()

    def wake(_: object) -> None:
        _wake_future(ended)

    async def run() -> T:
        # Asked for, because an eager task factory runs this before `task` has a value.
        current = asyncio.current_task()
        assert current is not None  # noqa: S101 - for the type checker: it is this one
        current.remove_done_callback(wake)
        try:
            return await work()
        finally:
            _wake_future(ended)  # one turn of the loop earlier than a callback of the task would

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
        await _outlast(task, grace())
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
        with contextlib.suppress(asyncio.CancelledError), shield():
            await asyncio.wait({task}, timeout=min(part, grace) if grace < math.inf else None)
        grace -= min(loop.time() - began, part)
    if task.done() and not task.cancelled():
        task.exception()  # the caller's cancellation is what is told; this one was seen


async def _finish_in_group(work: Callable[[], Awaitable[T]], grace: Callable[[], float]) -> T:
    import anyio

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
            interrupt = await _outlast_event(done, grace())
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
    import anyio

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
