"""What the blocking twins have in common; the twins themselves are generated, in `_sync`.

A client and its jobs share one core: the asynchronous client, the door to its loop, and the jobs
that were accepted and are not known to be finished. Whoever interrupts is told of those.
"""

from __future__ import annotations

import inspect
import weakref
from functools import partial
from typing import TYPE_CHECKING, Any, Final, Generic, NoReturn, TypeVar, cast

from grok_video._arguments import refuse
from grok_video._client import AsyncClient, end, renewed
from grok_video._crossing import accept
from grok_video._errors import (
    ConfigurationError,
    JobTimeout,
    add_job_name,
    add_note,
    going_on_note,
    is_job_named,
)
from grok_video._job import DEFAULT_TIMEOUT, AsyncJob, poller_of
from grok_video._log import logger
from grok_video._portal import BlockingIterator, Portal, as_it_is

if TYPE_CHECKING:
    from collections.abc import (
        AsyncGenerator,
        AsyncIterator,
        Awaitable,
        Callable,
        Generator,
        Iterable,
        Iterator,
    )
    from concurrent.futures import Future

    from grok_video._batch import AsyncBatch
    from grok_video._manifest import BatchSource
    from grok_video._models import Video
    from grok_video._outcomes import Outcome

T = TypeVar("T")
H = TypeVar("H")
J = TypeVar("J", bound="JobTwin")

#: Jobs that are remembered for an interrupt: the newest, at about 2 KB each.
_REMEMBERED: Final = 10_000


class Core(Portal):
    """What a blocking client and its jobs share."""

    def __init__(self, client: AsyncClient) -> None:
        super().__init__()
        self._client = client
        self._is_the_parents = False
        #: In a forked child: its own client, by generation. One of those that threads make at once
        #: is the first, and a signal handler may come in the middle.
        self._renewed: dict[int, AsyncClient] = {}
        #: Accepted jobs by id, oldest first; the finished ones are swept out now and then.
        self._accepted: dict[str, AsyncJob] = {}
        self._sweep_at = 64
        #: The twin of each handle by the handle's id, so that one job stays one object. Plain
        #: references, swept now and then: a Ctrl-C that comes while the callback of a weak
        #: dictionary runs would be lost.
        self._twins: dict[int, weakref.ref[JobTwin]] = {}
        self._sweep_twins_at = 64

    @property
    def client(self) -> AsyncClient:
        """The asynchronous client; another one in a forked child.

        Raises `ConfigurationError` in a child whose parent has used connections that were given.
        """
        if self._is_the_parents:
            self._client = self._renewed.setdefault(self.generation, renewed(self._client))
            self._is_the_parents = False
        return self._client

    def farewell(self) -> Callable[[], Awaitable[object]]:
        """Return what closes the asynchronous client in the loop that ends."""
        return self.client.aclose

    def close(self) -> None:
        """The loop has ended, if there was one, and the client is closed for good."""
        super().close()
        end(self._client)  # also where no loop has run, and where one starts just now

    def forget(self) -> None:
        """Be as if nothing had been called and accepted: called in a forked child."""
        # A client that was never used has nothing that must not be shared.
        self._is_the_parents = self._is_the_parents or self.line is not None
        super().forget()
        self._renewed = {}
        self._accepted = {}
        self._twins = {}

    # --- jobs ------------------------------------------------------------------------------------

    def twin(self, kind: type[J], handle: AsyncJob) -> J:
        """Return the twin of a handle: the same object as long as anybody has it."""
        known = self._twins.get(id(handle))
        twin = known() if known is not None else None
        # A dead twin's handle may have left its id to this one; a living twin holds its handle.
        return twin if isinstance(twin, kind) else kind(self, handle)

    def remember(self, twin: JobTwin, handle: AsyncJob) -> None:
        """The twin is the one of this handle from now on."""
        self._twins[id(handle)] = weakref.ref(twin)
        if len(self._twins) >= self._sweep_twins_at:
            for key, known in list(self._twins.items()):
                if known() is None:
                    self._twins.pop(key, None)
            self._sweep_twins_at = 2 * len(self._twins) + 64

    def accept(self, handle: AsyncJob) -> None:
        """The job is told of when somebody interrupts before it is finished."""
        self._accepted[handle.request_id] = handle
        if len(self._accepted) >= self._sweep_at:
            accepted = list(self._accepted.items())
            for request_id, job in accepted:
                if job.is_finished:
                    self._accepted.pop(request_id, None)
            for request_id, _ in accepted[: len(self._accepted) - _REMEMBERED]:
                self._accepted.pop(request_id, None)
            self._sweep_at = 2 * len(self._accepted) + 64

    def tell(self, error: BaseException, jobs: Iterable[AsyncJob] | None = None) -> None:
        """Note on the exception which of the jobs go on, and how to come back to them.

        Left out, `jobs` are all that were accepted.
        """
        named = frozenset(error.pending if isinstance(error, JobTimeout) else ())
        ids = [
            job.request_id
            for job in (list(self._accepted.values()) if jobs is None else jobs)
            if not (
                job.is_finished or job.request_id in named or is_job_named(error, job.request_id)
            )
        ]
        if ids:
            tell(error, going_on_note(ids))


def tell(error: BaseException, note: str) -> None:
    """The exception has the note, once; the log is told where its class takes none."""
    if note not in getattr(error, "__notes__", ()) and not add_note(error, note):
        logger.warning("%s", note)


async def _awaitable(function: Callable[..., T], *args: object) -> T:
    return function(*args)


class Twin(Generic[H]):
    """The blocking twin of one asynchronous object, the handle."""

    def __init__(self, core: Core, handle: H) -> None:
        self._core = core
        self._own_handle = handle

    @property
    def _handle(self) -> H:
        return self._own_handle

    def __repr__(self) -> str:
        handle = self._handle
        return repr(handle).replace(type(handle).__name__, type(self).__name__, 1)

    def __reduce__(self) -> NoReturn:
        kind = type(self).__name__
        message = (
            f"a {kind} is neither pickled nor copied; make a client in the process that uses it"
        )
        if isinstance(self._handle, AsyncJob):
            message += f", and client.job({self._handle.request_id!r})"
        raise TypeError(message)

    def _call(
        self,
        function: Callable[..., Awaitable[T]],
        /,
        *args: Any,  # noqa: ANN401 - whatever the function takes
        **words: Any,  # noqa: ANN401 - whatever the function takes
    ) -> T:
        """Return what the method of the handle returns; this thread waits for it."""
        try:
            return self._core.call(partial(function, *args, **words))
        except BaseException as error:
            self._tell(error)
            raise

    def _iterate(self, values: AsyncIterator[T]) -> Generator[T]:
        """Return a plain iterator over what a method of the handle gives."""
        return BlockingIterator(self._core, values, as_it_is, self._tell)

    def _tell(self, error: BaseException) -> None:
        """What ends the program (Ctrl-C, `sys.exit`) is told which jobs go on, all of them.

        An `Exception`, even one that a signal handler raises, may come again and again: it is told
        of those that it was about, by whoever knows them.
        """
        if not isinstance(error, Exception):
            self._core.tell(error)


class JobTwin(Twin[AsyncJob]):
    """What `Job` has beside the generated methods."""

    def __init__(self, core: Core, handle: AsyncJob) -> None:
        super().__init__(core, handle)
        self._generation = core.generation
        core.remember(self, handle)

    def future(self, timeout: float | None = DEFAULT_TIMEOUT) -> Future[Video]:
        """Return a future of the video; the job is waited for in the background from now on.

        For `concurrent.futures.wait` and `as_completed`. It ends as `result(timeout)` would, and
        cancelling it ends the waiting, not the job. Callbacks added to it are called in the
        client's own thread: they must be short and must not call the client.
        """
        return self._core.promise(partial(self._handle.result, timeout))

    @property
    def _handle(self) -> AsyncJob:
        if self._generation != self._core.generation:
            # In a forked child: the parent's handle may wait for a task that is not here.
            old = self._own_handle
            self._own_handle = self._core.client.job(old.request_id)
            poller_of(self._own_handle).take_over(poller_of(old))
            self._generation = self._core.generation
            self._core.remember(self, self._own_handle)
        return self._own_handle

    def _tell(self, error: BaseException) -> None:
        if isinstance(error, Exception):
            add_job_name(error, self._own_handle.request_id)
        else:
            # Also where it was made from an id: somebody was waiting for it.
            self._core.accept(self._handle)
            self._core.tell(error)


class ClientTwin(Twin[AsyncClient]):
    """What `Client` has beside the generated methods."""

    def __init__(self, client: AsyncClient) -> None:
        super().__init__(Core(client), client)

    @property
    def _handle(self) -> AsyncClient:
        return self._core.client

    def _twin(self, kind: type[J], handle: AsyncJob) -> J:
        """Return the blocking twin of a job."""
        return self._core.twin(kind, handle)

    def _call_for(
        self,
        kind: type[J],
        function: Callable[..., Awaitable[AsyncJob]],
        /,
        *args: Any,  # noqa: ANN401 - whatever the function takes
        **words: Any,  # noqa: ANN401 - whatever the function takes
    ) -> J:
        """Return the twin of the job that a method makes; what comes between is told of it."""
        try:
            give = partial(self._core.twin, kind)
            return self._core.call_and_give(partial(function, *args, **words), give)
        except BaseException as error:
            self._tell(error)
            raise

    def _iterate_twins(self, kind: type[J], handles: AsyncIterator[AsyncJob]) -> Iterator[J]:
        """Return a plain iterator over the blocking twins of jobs."""
        from grok_video._completion import Completion

        jobs = handles.jobs if isinstance(handles, Completion) else []

        def tell(error: BaseException) -> None:
            if isinstance(error, Exception):
                self._core.tell(error, jobs)
            else:
                self._core.tell(error)

        return BlockingIterator(self._core, handles, partial(self._core.twin, kind), tell)

    def _handles(self, jobs: Iterable[JobTwin]) -> list[AsyncJob]:
        """Return the handles of this client's jobs, taken from the iterable in this thread."""
        from grok_video._completion import require_many

        require_many(jobs)
        handles: list[AsyncJob] = []
        for job in jobs:
            if not isinstance(job, JobTwin) or job._core is not self._core:  # noqa: SLF001
                raise refuse("jobs", job, "must hold jobs of this very client")
            handles.append(job._handle)  # noqa: SLF001  # pyright: ignore[reportPrivateUsage]
        return handles

    def _aside(self, requests: BatchSource) -> BatchSource:
        """Return the requests of a batch such that the loop does not wait for a plain iterable."""
        # Imported here, as the batch itself is.
        from grok_video._sources import Aside

        return cast("BatchSource", Aside(requests))

    def _hook(
        self, kind: type[J], hook: Callable[[J], object] | None
    ) -> Callable[[AsyncJob], Awaitable[None]]:
        """Return the hook as the asynchronous client takes it; it is called in this thread."""
        if inspect.iscoroutinefunction(hook) or inspect.iscoroutinefunction(
            getattr(hook, "__call__", None)  # noqa: B004 - whether it is a coroutine function
        ):
            raise refuse("on_submitted", hook, "must be a plain function for a blocking client")
        if hook is not None and not callable(hook):
            limit = "must be a function that can be called with the job, or None"
            raise refuse("on_submitted", hook, limit)

        async def accepted(handle: AsyncJob) -> None:
            self._core.accept(handle)
            told = None if hook is None else partial(hook, self._core.twin(kind, handle))
            await accept(handle.request_id, told)

        return accepted

    def _leave(self, error: BaseException | None) -> None:
        """The client is closed; what leaves, also from closing, is told which jobs go on."""
        try:
            self._core.close()
        except BaseException as raised:
            error = raised
            raise
        finally:
            # Only now it is known what became of the creates that others had on their way.
            if error is not None:
                self._core.tell(error)


class BatchTwin(Twin["AsyncBatch"]):
    """What `Batch` has beside the generated methods: one task enters, iterates and leaves."""

    def __init__(self, core: Core, handle: AsyncBatch) -> None:
        super().__init__(core, handle)
        self._outcomes: BlockingIterator[Outcome] | None = None

    def _enter(self) -> None:
        outcomes = BlockingIterator(self._core, _from_within(self._handle), _told, self._tell)
        next(outcomes)  # entered; it raises what entering raises
        self._outcomes = outcomes

    def _iterate_over(self) -> Iterator[Outcome]:
        """Return the outcomes; a batch that was not entered is, and is left at their end."""
        return self._run() if self._outcomes is None else self._outcomes

    def _run(self) -> Iterator[Outcome]:
        # Safe in plain code, where a generator that is dropped half-way is closed and the batch is
        # left. An `async for` that is broken off tells nobody: there the context is needed.
        self._enter()
        try:
            yield from self._outcomes or ()
        except BaseException as error:
            self._leave(error)
            raise
        self._leave(None)

    def _next(self) -> Outcome:
        if self._outcomes is None:
            message = "a batch is used inside its context: with client.batch(...) as batch"
            raise ConfigurationError(message)
        return next(self._outcomes)

    def _leave(self, error: BaseException | None) -> None:
        """The batch is left; what tears somebody out of it is told which jobs go on."""
        # Here, as the batch is.
        from grok_video._batch import farewell_of, hear_out

        if error is None:
            hear_out(self._handle)
        try:
            if self._outcomes is not None:
                self._outcomes.close()
        except BaseException as raised:
            error = raised
            raise
        finally:
            if error is not None:
                self._tell(error)
                # Only now it knows what became of its last creates.
                if (note := farewell_of(self._handle)) is not None:
                    tell(error, note)

    def _call_plain(self, function: Callable[[], T]) -> T:
        """Return what a plain method of the handle returns, called in the loop's thread."""
        return self._core.call(partial(_awaitable, function))


async def _from_within(batch: AsyncBatch) -> AsyncGenerator[Outcome | None, None]:
    """Yield None once the batch is entered, and then its outcomes; one task runs it to its end."""
    async with batch:
        yield None
        async for outcome in batch:
            yield outcome


def _told(outcome: Outcome | None) -> Outcome:
    return cast("Outcome", outcome)
