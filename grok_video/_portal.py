"""The door between plain threads and one event loop, which runs in a daemon thread of its own.

The thread starts with the first call and ends with `close`, with the last reference to the door,
or with the interpreter. A forked child starts with a door of its own. How a call crosses is in
`_crossing`; what is called, and by whom, is the business of `_twins` and `_sync`.
"""

from __future__ import annotations

import asyncio
import atexit
import contextlib
import os
import sys
import threading
import time
import weakref
from collections.abc import Generator
from typing import TYPE_CHECKING, Any, Final, NoReturn, Self, TypeVar

from grok_video import _fork
from grok_video._create import CANCEL_GRACE
from grok_video._crossing import (
    ABANDONED,
    BEAT,
    GRACE,
    INTERRUPTED,
    SILENCE,
    Call,
    FreshFuture,
    Promise,
    Pump,
)
from grok_video._errors import ConfigurationError, add_note
from grok_video._fresh import fresh
from grok_video._log import logger

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable
    from concurrent.futures import Future

    from grok_video._crossing import Crossing

T = TypeVar("T")
G = TypeVar("G")

#: Seconds the end of the interpreter waits for connections that nobody closed, and the same after
#: somebody interrupted twice.
_LAST_WAIT: Final = 1.0
_HURRIED_WAIT: Final = 0.1

_OWN_THREAD: Final = (
    "a blocking call was made in the client's own thread (from a callback of a future, say), where "
    "it would wait for itself for ever. Make it in another thread, or use AsyncClient"
)
_IN_THE_MIDDLE: Final = (
    "a blocking call was made in the middle of another one of its own thread (by a signal handler, "
    "say), which has to go on first. Note what is wanted, and do it when that call has ended"
)
_TOO_LATE: Final = (
    "the interpreter is ending, and its threads with it: nothing can be sent any more. Call the "
    "client before the program ends"
)
_OTHER_PROCESS: Final = (
    "this iterator was made before the fork and goes on in the parent process only; make a new "
    "one here"
)


class _Turn:
    """A lock that refuses its own holder, who would wait for ever.

    A signal handler runs in the middle of whatever its thread does, and so does what the garbage
    collector calls.
    """

    def __init__(self) -> None:
        self._lock = threading.RLock()
        self._is_taken = False

    def __enter__(self) -> None:
        self._lock.acquire()
        if self._is_taken:
            self._lock.release()
            raise ConfigurationError(_IN_THE_MIDDLE)
        self._is_taken = True

    def __exit__(self, *_: object) -> None:
        self._is_taken = False
        self._lock.release()


class Portal:
    """A door to an event loop whose thread starts with the first call and ends with `close`."""

    def __init__(self) -> None:
        #: Counts the processes this door has been in: it grows by one in a forked child.
        self.generation: int = 0
        self._lock = _Turn()
        self._line: Line | None = None
        _portals.add(self)

    def call(self, work: Callable[[], Awaitable[T]]) -> T:
        """Return what the coroutine function returns, run in the loop; raise what it raises."""
        return Call(self.enter(), work).run(as_it_is)

    def call_and_give(self, work: Callable[[], Awaitable[T]], give: Callable[[T], G]) -> G:
        """Return what is given for what the coroutine function returns, as one step of the call."""
        return Call(self.enter(), work).run(give)

    def promise(self, work: Callable[[], Awaitable[T]]) -> Future[T]:
        """Return the future of a coroutine function that runs in the loop from now on."""
        future: FreshFuture[T] = FreshFuture(self)
        Promise(self.enter(), work, future).send()
        return future

    def close(self) -> None:
        """Cancel what waits, say the loop's farewell and end its thread, if there is one.

        A call after it starts the loop again: whether there is anything to call is not known here.
        """
        line = self._line
        if line is not None:
            line.refuse_own_thread()
            line.stop()

    def farewell(self) -> Callable[[], Awaitable[object]]:
        """Return what is awaited in the loop before it ends; it must not hold this door."""
        return _nothing

    def forget(self) -> None:
        """Be as if nothing had been started: called in a forked child, whose threads are gone."""
        self._lock = _Turn()
        self.generation += 1
        line, self._line = self._line, None
        if line is not None:
            line.disown()

    def enter(self) -> Line:
        """Return the loop and its thread, started if need be.

        Raises `ConfigurationError` in that thread itself.
        """
        if sys.is_finalizing():
            raise ConfigurationError(_TOO_LATE)  # threads get no turn any more
        line = self._line
        if line is None or line.stopping:
            with self._lock:
                line = self._line
                if line is None or line.stopping:
                    line = self._line = Line(self.farewell())
        line.refuse_own_thread()
        return line

    @property
    def line(self) -> Line | None:
        """The loop and thread of the last call; None before the first."""
        return self._line

    def __del__(self) -> None:
        line = getattr(self, "_line", None)
        if line is not None:
            line.stop_soon()


def as_it_is(value: T) -> T:
    """Return the value."""
    return value


async def _nothing() -> None:
    """Do nothing."""


class Line:
    """One event loop in one daemon thread, from its first call to its last."""

    def __init__(self, farewell: Callable[[], Awaitable[object]]) -> None:
        #: Every call that is not over; a call is in here before the loop hears of it.
        self.crossings: set[Crossing[Any]] = set()
        #: True from the moment in which calls that wait are cancelled.
        self.stopping: bool = False
        #: True when the loop takes nothing any more, whatever is still in `crossings`.
        self.ended: bool = False
        #: True at the end of the interpreter: who waits in a daemon thread hears nothing any more,
        #: and the log is told of the jobs whose ids nobody has heard.
        self.leaving: bool = False
        #: What the farewell raised, until somebody who closes is told; at the end nobody is.
        self._failure: BaseException | None = None
        self._hurried = False
        self._farewell = farewell
        self._stop = asyncio.Event()
        self._over = threading.Event()
        self.loop: asyncio.AbstractEventLoop = _fork.make_loop()
        _lines.add(self)
        self.thread: threading.Thread = threading.Thread(
            target=self._run, name="grok-video", daemon=True
        )
        try:
            self.thread.start()
        except RuntimeError:  # no more threads can be had
            self.loop.close()
            raise
        except BaseException:  # interrupted: a thread that did start ends again
            self.stop_soon()
            raise

    def refuse_own_thread(self) -> None:
        """Raise `ConfigurationError` in the loop's own thread."""
        if threading.get_ident() == self.thread.ident:
            raise ConfigurationError(_OWN_THREAD)

    def stop_soon(self) -> None:
        """The loop is told to end, from any thread; nothing is waited for."""
        with contextlib.suppress(RuntimeError):  # it has ended
            self.loop.call_soon_threadsafe(self._stop.set)

    def stop(self) -> None:
        """The loop has ended and its thread is gone, or it had its time. Raises what that raised.

        The first interrupt lets a create be answered and is raised then, the second at once. In
        the middle of a call of this thread, whatever that asks is answered here; where it waits for
        this very function (`on_submitted`), the loop ends after it.
        """
        if any(call.is_asking for call in self._calls_of_this_thread()):
            self.stop_soon()
            return
        until = time.monotonic() + (_HURRIED_WAIT if self.is_hurried else GRACE + 1.0)
        try:
            self._ends_until(until)
        except BaseException:
            try:
                if not self._ends_until(min(until, time.monotonic() + SILENCE)):
                    logger.warning(INTERRUPTED, CANCEL_GRACE)
                    self._ends_until(until)
            except BaseException as again:
                self._hurried = True
                add_note(again, ABANDONED)
                raise
            raise
        failure, self._failure = self._failure, None
        if failure is not None:
            raise fresh(failure)

    def _ends_until(self, until: float) -> bool:
        self.stop_soon()  # each time: an interrupt may have come before the first
        for call in self._calls_of_this_thread():
            call.settle(until)
        is_over = self.is_over_within(until - time.monotonic())
        if is_over:
            self.thread.join(BEAT)
        return is_over

    @property
    def is_hurried(self) -> bool:
        """True when somebody interrupted twice, and what goes on is not to be waited for."""
        return self._hurried or any(crossing.is_abandoned for crossing in list(self.crossings))

    def is_over_within(self, seconds: float) -> bool:
        """Return True as soon as the loop has ended, False if it has not in so many seconds."""
        until = time.monotonic() + seconds
        while not self._over.wait(min(BEAT, max(0.0, until - time.monotonic()))):
            if time.monotonic() >= until:
                return False
        return True

    @property
    def is_busy(self) -> bool:
        """True while a call outlasts its cancellation, as a create does that is being answered."""
        tasks = [crossing.task for crossing in list(self.crossings)]
        return any(task is not None and not task.done() for task in tasks)

    def _calls_of_this_thread(self) -> list[Call[Any]]:
        here = threading.get_ident()
        crossings = list(self.crossings)
        return [each for each in crossings if isinstance(each, Call) and each.thread == here]

    def disown(self) -> None:
        """Leave this to the parent process: nothing of it is run, closed or freed here."""
        self.ended = True
        _fork.disown(self.loop)
        # The frames of the parent's thread, which nobody unwinds here, hold it too; this does not
        # depend on them.
        _parents_lines.append(self)
        for crossing in list(self.crossings):  # and they stay in there
            crossing.disown()

    def _run(self) -> None:
        try:
            with asyncio.Runner(loop_factory=lambda: self.loop) as runner:
                served = runner.get_loop().create_task(self._serve())
                while not served.done():
                    # What a manifest, a picture or a log handler raises to end the program ends
                    # asyncio's loop as well. It is its own task's already, and told to its caller.
                    with contextlib.suppress(SystemExit, KeyboardInterrupt):
                        self.loop.run_until_complete(served)
        finally:
            self.stopping = True
            self.ended = True
            for crossing in list(self.crossings):
                crossing.end(failure=crossing.closed())
            self._over.set()

    async def _serve(self) -> None:
        await self._stop.wait()
        self.stopping = True
        for crossing in list(self.crossings):
            crossing.cancel()
        tasks = [crossing.task for crossing in list(self.crossings) if crossing.task is not None]
        if tasks:
            await asyncio.wait(tasks, timeout=GRACE)
        try:
            await self._farewell()
        except BaseException as error:  # noqa: BLE001 - raised by `stop`
            self._failure = error


class BlockingIterator(Generator[T, None, None]):
    """A plain iterator over what an asynchronous one gives, all of it in one task of the loop.

    Begun by the first `next`; several threads may draw from it in turn. `close()`, or dropping it,
    ends what it does. `give` makes what is given from each value; `broken_off` is told of what is
    raised before it goes on.
    """

    def __init__(
        self,
        portal: Portal,
        values: AsyncIterator[Any],
        give: Callable[[Any], T],
        broken_off: Callable[[BaseException], None],
    ) -> None:
        self._portal = portal
        self._generation = portal.generation
        self._source: AsyncIterator[Any] | None = values
        self._give = give
        self._broken_off = broken_off
        self._pump: Pump | None = None
        self._turn = _Turn()

    def __iter__(self) -> Self:
        return self

    def __next__(self) -> T:
        if self._generation != self._portal.generation:
            raise ConfigurationError(_OTHER_PROCESS)
        with self._turn:
            if self._source is None:
                raise StopIteration
            if self._pump is None:
                self._pump = Pump(self._portal.enter(), self._source)
            self._pump.line.refuse_own_thread()
            more = False
            taken: list[Any] = []
            try:
                more = self._pump.next_comes()
                if more:
                    taken = self._pump.take()
                    return self._give(taken[0])
            except BaseException as error:
                self._broken_off(error)
                self._pump.log_untaken(error, taken)
                raise
            finally:
                if not more:
                    self._source = None
            raise StopIteration

    def send(self, value: None, /) -> T:
        """Return the next value; a generator is what `contextlib.closing` and checkers know."""
        if value is not None and self._pump is None and self._source is not None:
            message = "can't send non-None value to a just-started generator"
            raise TypeError(message)
        return next(self)

    def throw(self, kind: Any, value: Any = None, trace: Any = None, /) -> NoReturn:  # noqa: ANN401 - as Python has it
        """Close it and raise, as a generator does that handles nothing."""
        self.close()
        error = kind
        if not isinstance(kind, BaseException):
            given = () if value is None else (value,)
            error = value if isinstance(value, BaseException) else kind(*given)
        raise error if trace is None else error.with_traceback(trace)

    def close(self) -> None:
        """The iteration is over, and what it held is closed."""
        self._source = None
        pump = self._pump
        if pump is not None and self._generation == self._portal.generation:
            pump.line.refuse_own_thread()
            pump.close()

    def __del__(self) -> None:
        pump = getattr(self, "_pump", None)
        if pump is None or pump.is_over or self._generation != self._portal.generation:
            return
        pump.close_soon()


#: In a forked child: what is the parent's and must not be freed.
_parents_lines: Final[list[Line]] = []
_portals: weakref.WeakSet[Portal] = weakref.WeakSet()
#: Of this process; also those whose client is gone and that have not ended yet.
_lines: weakref.WeakSet[Line] = weakref.WeakSet()


def _forget_the_parent() -> None:
    _lines.clear()
    for portal in list(_portals):
        portal.forget()


def _close_the_rest() -> None:
    """What nobody closed is closed while the interpreter still works, and quietly."""
    lines = [line for line in list(_lines) if not line.ended]
    hurried = any(line.is_hurried for line in lines)
    began = time.monotonic()
    try:
        _end(lines, began, hurried=hurried)
    except KeyboardInterrupt:
        # As everywhere: the first one lets a create be answered, the second leaves at once.
        logger.warning(INTERRUPTED, CANCEL_GRACE)
        try:
            _end(lines, began, hurried=hurried)
        except KeyboardInterrupt:
            logger.warning("interrupted again. %s", ABANDONED)
            raise


def _end(lines: list[Line], began: float, *, hurried: bool) -> None:
    until = began + (_HURRIED_WAIT if hurried else _LAST_WAIT)
    for line in lines:
        line.leaving = True
        line.stop_soon()
    for line in lines:
        over = line.is_over_within(max(0.0, until - time.monotonic()))
        if not over and line.is_busy and not hurried:
            # The id of a create may already be paid for: it has the time it has elsewhere.
            over = line.is_over_within(max(0.0, began + GRACE - time.monotonic()))
        if not over:
            _fork.mute(line.loop)


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forget_the_parent)
atexit.register(_close_the_rest)
