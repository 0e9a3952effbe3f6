"""Calls on their way from a plain thread to the loop and back, each as data.

A crossing's work is done by one task; what comes of it, a value or a failure, is fetched by the
thread that waits. An exception is raised fresh for each thread, never the same object in two. What
interrupts a waiting thread (Ctrl-C) cancels its call. Threads and loops are made in `_portal`.
"""

from __future__ import annotations

import asyncio
import contextlib
import queue
import threading
import time
from concurrent.futures import Future
from contextvars import ContextVar, copy_context
from typing import TYPE_CHECKING, Any, Final, Generic, TypeVar, cast

import anyio

from grok_video._create import CANCEL_GRACE, log_unheard
from grok_video._errors import (
    ConfigurationError,
    add_job_name,
    add_note,
    resume_hint,
)
from grok_video._fresh import fresh
from grok_video._log import logger
from grok_video._transports._loops import variable_of_sniffio

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable
    from contextvars import Context

    from grok_video._portal import Line

T = TypeVar("T")
G = TypeVar("G")

#: Seconds between two looks of a waiting thread: Windows cannot interrupt a wait without a limit.
BEAT: Final = 0.5
#: Seconds an interrupted thread waits for its call to end: the grace of a create, and its farewell.
GRACE: Final = CANCEL_GRACE + 1.0
#: Seconds after which such a wait is explained: anything but a create ends in milliseconds.
SILENCE: Final = 0.25

CLOSED: Final = (
    "this client was closed while the call was on its way; jobs that were accepted go on at the "
    "provider"
)

FORKED: Final = (
    "this call was begun before the process was forked, and goes on in the parent process alone; "
    "what comes of it is known there"
)

ABANDONED: Final = (
    "What was on its way was not waited for; if that was a create, it may have been accepted and "
    "billed."
)

#: Said at the first interrupt, with seconds.
INTERRUPTED: Final = (
    "interrupted; waiting at most %g s for what is on its way (the id of a create may already be "
    "paid for). Interrupt again to leave at once."
)

#: The call that the running task belongs to.
_current: ContextVar[Crossing[Any]] = ContextVar("grok_video_crossing")


async def accept(request_id: str, hook: Callable[[], object] | None) -> None:
    """The running call has its job, and the hook was called in the plain thread that waits for it.

    Raises what the hook raised. It is not called where that thread has been interrupted and is
    gone: then the log is told.
    """
    await _current.get().accept(request_id, hook)


class Crossing(Generic[T]):
    """The loop's half of a call."""

    def __init__(self, line: Line, work: Callable[[], Awaitable[T]]) -> None:
        self.line = line
        self.task: asyncio.Task[None] | None = None
        #: True once the loop has nothing more to do with it.
        self.is_over: bool = False
        #: True where somebody interrupted twice: nobody waits for the end of it.
        self.is_abandoned: bool = False
        #: The thread that waits for it and answers what it asks.
        self.thread: int | None = None
        #: True while it waits for what that thread does for it.
        self.is_asking: bool = False
        #: The job that the call has made, known before anybody is told of it.
        self.request_id: str | None = None
        #: True once the caller's own function was told of the job, to its end.
        self.is_heard: bool = False
        #: What the work wanted to be known when it was cancelled, for what interrupted it.
        self.last_words: list[str] = []
        self._work: Callable[[], Awaitable[T]] | None = work
        self._scope: anyio.CancelScope | None = None
        self._withdrawn = False

    def send(self) -> None:
        """Hand the call to the loop. Raises `ConfigurationError` if the loop has ended."""
        self.line.crossings.add(self)
        try:
            # Asked after the line was told: either this sees that the loop has ended, or the
            # loop's last act sees this call. Neither leaves anybody waiting.
            if self.line.ended:
                raise RuntimeError  # noqa: TRY301 - as the loop itself does
            self.line.loop.call_soon_threadsafe(self._start, copy_context())
        except RuntimeError:
            self.line.crossings.discard(self)
            self.is_over = True
            raise ConfigurationError(CLOSED) from None

    def cancel_soon(self) -> None:
        """The call is cancelled, from any thread."""
        with contextlib.suppress(RuntimeError):  # the loop has ended, and the call with it
            self.line.loop.call_soon_threadsafe(self.cancel)

    def cancel(self) -> None:
        """Cancel the call, in the loop's thread."""
        self._withdrawn = True
        if self._scope is not None:
            self._scope.cancel()
        elif self.task is None:
            # The interrupt came between telling the line and telling the loop.
            self.end(failure=self.closed())

    def closed(self, why: str = CLOSED) -> ConfigurationError:
        """Return what is raised where closing the client, or else a fork, breaks the call off."""
        hint = f". {resume_hint(self.request_id)}" if self.request_id is not None else ""
        error = ConfigurationError(why + hint, request_id=self.request_id)
        for words in self.last_words:
            error.add_note(words)
        return error

    def disown(self) -> None:
        """In a forked child: whoever waits for the call here hears that it is the parent's."""
        if not self.is_over:
            self.report(None, self.closed(FORKED))

    def end(self, value: T | None = None, failure: BaseException | None = None) -> None:
        """Note what came of it; only the first time counts."""
        if not (self.is_over or self.line.leaving):
            self.line.crossings.discard(self)
            self.report(value, failure)

    def report(self, value: T | None, failure: BaseException | None) -> None:
        """Tell whoever waits, and be over."""
        raise NotImplementedError

    async def accept(self, request_id: str, hook: Callable[[], object] | None) -> None:
        """The call has its job, and the hook was called in the thread that waits."""
        raise NotImplementedError

    def _start(self, context: Context) -> None:
        if self.is_over:
            return
        self.task = self.line.loop.create_task(self._run(), context=context)

    async def _run(self) -> None:
        library = variable_of_sniffio()
        if library is not None:
            library.set("asyncio")  # the context is the caller's, who may live in another loop
        _current.set(self)
        work, self._work = self._work, None
        assert work is not None  # noqa: S101 - for the type checker: run once
        try:
            with anyio.CancelScope() as scope:
                self._scope = scope
                if self._withdrawn or self.line.stopping:
                    scope.cancel()
                try:
                    self.end(await work())
                except asyncio.CancelledError as error:
                    self.last_words = list(getattr(error, "__notes__", ()))
                    raise
        except asyncio.CancelledError:
            pass
        except BaseException as error:  # noqa: BLE001 - raised on the other side of the door
            self.end(failure=error)
        finally:
            self._scope = None
            self.end(failure=self.closed())  # cancelled, if it is not over
            if not self.is_over and self.request_id is not None and not self.is_heard:
                log_unheard(self.request_id)  # the interpreter ends, and nobody is told


class Call(Crossing[T]):
    """A call for which a thread waits."""

    def __init__(self, line: Line, work: Callable[[], Awaitable[T]]) -> None:
        super().__init__(line, work)
        #: Questions to the waiting thread; None says that there is news.
        self._inbox: queue.SimpleQueue[_Question | None] = queue.SimpleQueue()
        self._gone = False
        self._value: T | None = None
        self._failure: BaseException | None = None

    def run(self, give: Callable[[T], G]) -> G:
        """Send the call and return what is given for what comes of it.

        An exception that a signal handler raises here (KeyboardInterrupt) cancels the call, waits
        for it to end, bounded, and is raised then; a second one is raised at once. Whatever is
        raised names the job that was accepted, if there is one.
        """
        self.thread = threading.get_ident()
        try:
            try:
                self.send()
                while not self.is_over:
                    self._listen()
            except BaseException as error:
                self.withdraw()
                for words in self.last_words:
                    add_note(error, words)
                raise
            return give(self._outcome())
        except BaseException as error:
            if self.request_id is not None:
                if not self.is_heard:
                    # Nobody may look at its notes: `sys.exit` shows none.
                    log_unheard(self.request_id, error)
                add_job_name(error, self.request_id)
            raise

    def withdraw(self) -> None:
        """Nothing of the call goes on, or it had its time to end."""
        if self.is_over:
            return
        began = time.monotonic()
        try:
            self.cancel_soon()
            if not self._settles(began + SILENCE):
                logger.warning(INTERRUPTED, CANCEL_GRACE)
                self._settles(began + GRACE)
        except BaseException as error:
            self.is_abandoned = True
            add_note(error, ABANDONED)
            raise
        finally:
            self._gone = True
            self.thread = None

    def settle(self, until: float) -> None:
        """The call is over, or had its time; for its own thread, in the middle of the call."""
        self._settles(until)
        self._inbox.put(None)  # what was taken here is missed where it was waited for

    def report(self, value: T | None, failure: BaseException | None) -> None:
        self._value, self._failure = value, failure
        self.is_over = True
        self._inbox.put(None)

    async def accept(self, request_id: str, hook: Callable[[], object] | None) -> None:
        self.request_id = request_id
        if hook is not None and not self._gone:
            question = _Question(hook, self.line.loop)
            self._inbox.put(question)
            await question.reply
            self.is_heard = question.is_answered
        # Asked after the id was set: either this sees that the thread is gone, or the thread sees
        # the id.
        if self._gone and not self.is_heard:
            log_unheard(request_id)

    def _listen(self, until: float | None = None) -> bool:
        """Return True at the next news and False at `until`, answering questions meanwhile."""
        while True:
            wait = BEAT if until is None else min(BEAT, until - time.monotonic())
            if wait <= 0:
                return False
            try:
                question = self._inbox.get(timeout=wait)
            except queue.Empty:
                # Several threads may draw from one iterator: another may have had the news.
                if until is None or self.is_over or self.line.ended:
                    return True
                continue
            if question is None:
                return True
            self.is_asking = True
            try:
                question.answer()
            finally:
                self.is_asking = False

    def _settles(self, until: float) -> bool:
        while not (self.is_over or self.line.ended):
            if not self._listen(until):
                return False
        return True

    def _outcome(self) -> T:
        failure, self._failure = self._failure, None
        if failure is not None:
            raise fresh(failure)
        return cast("T", self._value)


class _Question:
    """Something to be done in the thread that waits, while the loop waits for it."""

    def __init__(self, function: Callable[[], object], loop: asyncio.AbstractEventLoop) -> None:
        self._function = function
        self._loop = loop
        self.reply: asyncio.Future[None] = loop.create_future()
        #: True once the function has returned.
        self.is_answered = False

    def answer(self) -> None:
        failure: Exception | None = None
        try:
            self._function()
            self.is_answered = True
        except Exception as error:  # noqa: BLE001 - raised on the other side of the door
            failure = fresh(error)
        finally:
            # Also for what is no Exception: the loop must not wait for a thread that leaves.
            with contextlib.suppress(RuntimeError):
                self._loop.call_soon_threadsafe(self._settle, failure)

    def _settle(self, failure: Exception | None) -> None:
        if self.reply.done():
            return
        if failure is None:
            self.reply.set_result(None)
        elif isinstance(failure, StopIteration):
            # No future takes one, and no coroutine may raise one.
            self.reply.set_exception(RuntimeError("on_submitted raised StopIteration"))
        else:
            self.reply.set_exception(failure)


class Pump(Call[None]):
    """A call that gives many values: one task owns an asynchronous iterator to its end."""

    def __init__(self, line: Line, values: AsyncIterator[Any]) -> None:
        super().__init__(line, self._feed)
        self._source = values
        self._wanted = asyncio.Event()
        self._closing = False
        #: True while the task waits for somebody to want the next value.
        self._is_resting = False
        self._sent = False
        self._given: list[Any] = []

    def next_comes(self) -> bool:
        """Return whether there is a next value, for `take`. Raises what the iterator raised."""
        try:
            if self._sent:
                self._wake()
            else:
                self._sent = True
                self.send()
            while not (self._given or self.is_over):
                self._listen()
        except BaseException:
            self.withdraw()
            raise
        if not self._given:
            self._outcome()
        return bool(self._given)

    def log_untaken(self, error: BaseException, taken: list[Any]) -> None:
        """Tell the log of an outcome that nobody was given: its batch takes it for told.

        It came too late to be taken, or was `taken` and not returned. Unless the error, which kept
        it from that, names its job.
        """
        if not (self._given or taken):
            return
        from grok_video._outcomes import Outcome  # loaded long ago, where it is one

        for value in self._given or taken:
            if isinstance(value, Outcome) and value.request_id is not None:
                log_unheard(value.request_id, error)

    def take(self) -> list[Any]:
        """Return the value that has come, alone."""
        taken, self._given = self._given, []
        return taken

    def close_soon(self) -> None:
        """The iterator will be closed by its own task, which ends.

        Where another thread waits for a value, its wait ends with an error.
        """
        with contextlib.suppress(RuntimeError):  # as in `_wake`
            self.line.loop.call_soon_threadsafe(self._end)

    def _end(self) -> None:
        self._closing = True
        self._wanted.set()
        if not self._is_resting:
            self.cancel()

    def close(self) -> None:
        """The iterator is closed, or had its time to be, also where somebody interrupts once."""
        try:
            self.close_soon()
            self._settles(time.monotonic() + GRACE)
        except BaseException:
            self.withdraw()
            raise

    def _wake(self) -> None:
        with contextlib.suppress(RuntimeError):  # the loop has ended, and the task with it
            self.line.loop.call_soon_threadsafe(self._wanted.set)

    async def _feed(self) -> None:
        try:
            async for value in self._source:
                self._given.append(value)
                del value
                self._inbox.put(None)
                self._is_resting = True
                await self._wanted.wait()
                self._is_resting = False
                self._wanted.clear()
                if self._closing:
                    break
        finally:
            aclose = getattr(self._source, "aclose", None)
            if aclose is not None:
                await aclose()


class Promise(Crossing[T]):
    """A call for which nobody waits: what comes of it is in a future."""

    def __init__(
        self, line: Line, work: Callable[[], Awaitable[T]], future: FreshFuture[T]
    ) -> None:
        super().__init__(line, work)
        self._future = future
        future.add_done_callback(self._on_done)

    def report(self, value: T | None, failure: BaseException | None) -> None:
        self.is_over = True
        self._future.release()
        if self._future.set_running_or_notify_cancel():
            if failure is None:
                self._future.set_result(cast("T", value))
            else:
                self._future.set_exception(failure)

    def disown(self) -> None:
        if not self.is_over:
            self.is_over = True
            self._future.disown(self.closed(FORKED))

    def _on_done(self, future: Future[T]) -> None:
        if future.cancelled():
            self.cancel_soon()


class FreshFuture(Future[T]):
    """A future that raises a new exception for each thread that asks.

    `keeper` is what the work needs to go on, such as the client; it is let go with its end.
    """

    def __init__(self, keeper: object) -> None:
        super().__init__()
        self._keeper: object = keeper

    def release(self) -> None:
        """The work is over: whoever still has the future does not keep the client alive with it.

        A pool has it too, as long as it has connections: its timer runs in the work's context.
        """
        self._keeper = None

    def result(self, timeout: float | None = None) -> T:
        failure = super().exception(timeout)
        if failure is not None:
            raise fresh(failure)
        return super().result()

    def exception(self, timeout: float | None = None) -> BaseException | None:
        failure = super().exception(timeout)
        return None if failure is None else fresh(failure)

    def disown(self, failure: BaseException) -> None:
        """In a forked child: it has this failure, and nobody is called whom the parent calls."""
        self.release()
        self.__dict__["_done_callbacks"] = []  # known to no stub, and since Python 3.2
        # Only a thread that is here can give back what it has taken.
        if self._condition.acquire(blocking=False):
            self._condition.release()
        else:
            self._condition = threading.Condition()
        if not self.done():
            self.set_exception(failure)
