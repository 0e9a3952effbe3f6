"""Many jobs through one window: the context and the iterator that a caller holds.

What goes on between entering it and leaving it is `_batchrun`: with SQLite and all the rest that
takes a hundred polls' time to import, and is imported by a thread while the batch is entered.
"""

from __future__ import annotations

from decimal import Decimal
from typing import TYPE_CHECKING, Self

from grok_video._errors import ConfigurationError, add_note
from grok_video._public import publish
from grok_video._sources import require_source
from grok_video._threads import load, load_anyio

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from types import TracebackType

    from grok_video._batchrun import BatchRun
    from grok_video._batchsettings import Settings
    from grok_video._manifest import BatchSource
    from grok_video._outcomes import BatchSummary, Outcome
    from grok_video._session import Session

__all__ = ["AsyncBatch", "farewell_of", "hear_out", "run_through"]


class AsyncBatch:
    """A batch of jobs; made by `AsyncClient.batch`, used as a context manager and an iterator.

    Iterating gives an `Outcome` for each item, in the order in which they end. Leaving the context
    early sends no more, lets the creates that are on their way be answered and written down, and
    ends the waiting; the jobs go on at the provider, and the same call with the same ledger goes on
    with them. Without a ledger, the log is told the ids of those that had no outcome yet.

    What breaks the batch off from inside (a manifest that raises `SystemExit`, or a Ctrl-C that
    hits its code) begins nothing more. It is raised where the next outcome is asked for, or on
    leaving: whoever is busy with something else is not interrupted for it.
    """

    def __init__(self, session: Session, requests: BatchSource, settings: Settings) -> None:
        require_source(requests)
        self._session = session
        #: None once it is entered, by one task alone; whoever reads them ends them, in its thread.
        self._requests: BatchSource | None = requests
        self._settings = settings
        #: Made on entering: only then is there an event loop, and somebody who ends it.
        self._run: BatchRun | None = None

    @property
    def summary(self) -> BatchSummary:
        """Where the batch stands; at any time, also afterwards."""
        if self._run is None:
            from grok_video._outcomes import Tally

            nothing = Decimal(0)
            return Tally().summary(
                in_flight=0, is_over=False, cost_usd=nothing, open_usd=nothing, stopped=None
            )
        return self._run.summary()

    def stop(self) -> None:
        """No more creates are sent; what was sent is awaited, and the rest is told as left.

        That ends where an asynchronous manifest, or one of a blocking client, has nothing to give
        for a second.
        """
        self._entered().course.stop("stop() was called")

    async def __aenter__(self) -> Self:
        requests, self._requests = self._requests, None
        if requests is None:
            message = "a batch is run once; make another one with the same ledger to go on"
            raise ConfigurationError(message)
        try:
            # A closed client must say so before a ledger is made.
            await self._session.ready_transport()
            await load_anyio()
            await load("grok_video._batchrun")
            from grok_video._batchrun import BatchRun

            run = BatchRun(self._session, requests, self._settings)
            await run.begin()
        except BaseException:
            self._requests = requests
            raise
        self._run = run
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        run, out = self._entered(), error
        try:
            await run.leave(error)
        except BaseException as raised:
            out = raised  # a cancellation is often another one when it comes out
            raise
        finally:
            # A loop that was broken off by hand needs no note: nothing is raised there.
            if out is not None and not isinstance(out, GeneratorExit):
                note = run.farewell()
                if note is not None:
                    add_note(out, note)

    def __aiter__(self) -> AsyncIterator[Outcome]:
        return self

    async def __anext__(self) -> Outcome:
        return await self._entered().receive()

    def _entered(self) -> BatchRun:
        if self._run is None:
            message = "a batch is used inside its context: with client.batch(...) as batch"
            raise ConfigurationError(message)
        return self._run


# Functions beside the class: what is public there has a blocking twin.


def farewell_of(batch: AsyncBatch) -> str | None:
    """Return what somebody who is torn out of the batch should know; None if nothing goes on."""
    run = batch._run  # noqa: SLF001  # pyright: ignore[reportPrivateUsage] - as said
    return run.farewell() if run is not None else None


def hear_out(batch: AsyncBatch) -> None:
    """Whoever leaves the batch now has heard all that it told, the last outcome as well."""
    run = batch._run  # noqa: SLF001  # pyright: ignore[reportPrivateUsage] - as said
    if run is not None:
        run.is_heard_out = True


async def run_through(batch: AsyncBatch) -> None:
    """The batch has come to its end; its outcomes are heard by nobody.

    The log is told of jobs that go on, or whose files are not here, where no ledger has them.
    """
    async with batch:
        run = batch._entered()  # noqa: SLF001  # pyright: ignore[reportPrivateUsage] - as said
        async for outcome in batch:
            run.log_unkept(outcome)


publish(globals(), ("AsyncBatch",))
