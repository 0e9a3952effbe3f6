"""Many jobs through one window: taken lazily, run side by side, told in the order they end.

The batch takes items from the manifest as places come free and owns the tasks that run them; what
happens to one item is in `_item`. Memory must never grow with the manifest, and there is no `yield`
in a task group: the tasks live from `async with` to its end, and outcomes come over a stream.
"""

from __future__ import annotations

import math
import os
from decimal import Decimal
from typing import TYPE_CHECKING, Final, Self

import anyio
from anyio import to_thread

from grok_video._budget import Budget
from grok_video._course import Course
from grok_video._earlier import check_ids, earlier_outcome, is_sent_again
from grok_video._entry import Entry
from grok_video._errors import (
    ConfigurationError,
    DestinationError,
    InvalidRequest,
    LedgerError,
    add_note,
    going_on_note,
    resume_hint,
)
from grok_video._gate import Gate
from grok_video._item import ItemRun
from grok_video._ledger import Journal, Ledger
from grok_video._lifecycle import Event, State
from grok_video._manifest import Line, Manifest, Unusable
from grok_video._outcomes import BatchSummary, Outcome, OutcomeState, Tally
from grok_video._public import publish
from grok_video._requests import refuse
from grok_video._session import logger
from grok_video._threads import load_anyio
from grok_video._transports._loops import current_time

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterable
    from pathlib import Path
    from types import TracebackType

    from anyio.abc import TaskGroup
    from anyio.streams.memory import MemoryObjectReceiveStream, MemoryObjectSendStream

    from grok_video._batchsettings import Settings
    from grok_video._manifest import BatchSource
    from grok_video._session import Session

__all__ = ["AsyncBatch", "farewell_of", "run_through"]


#: States of items whose jobs go on, or have ended and wait to be fetched.
_GOING_ON: Final = frozenset({State.PENDING, State.READY, State.FETCHING})
#: States in which an item may still take an id that a person found.
_FINDABLE: Final = frozenset({State.IN_DOUBT, State.PENDING})


class AsyncBatch:
    """A batch of jobs; made by `AsyncClient.batch`, used as a context manager and an iterator.

    Iterating gives an `Outcome` for each item, in the order in which they end. Leaving the context
    early sends no more, lets the creates that are on their way be answered and written down, and
    ends the waiting; the jobs go on at the provider, and the same call with the same ledger goes on
    with them. Without a ledger, the log is told the ids of those that had no outcome yet.
    """

    def __init__(self, session: Session, requests: BatchSource, settings: Settings) -> None:
        self._session = session
        self._settings = settings
        self._manifest = Manifest(requests)
        self._tally = Tally()
        #: Made on entering: only then is there an event loop, and somebody who closes them.
        self._course: Course | None = None
        self._tasks: TaskGroup
        #: Outcomes, each with its item if that was begun in this run.
        self._send: MemoryObjectSendStream[tuple[Outcome, Entry | None]]
        self._receive: MemoryObjectReceiveStream[tuple[Outcome, Entry | None]]
        #: The keys in flight: the window, and all that is held of the manifest.
        self._keys: set[str] = set()
        #: The items of which nobody was told yet: those in flight, and one that is handed over.
        self._untold: set[Entry] = set()
        self._all_taken = False
        #: The found ids whose items have not come yet.
        self._ids_left = dict(settings.found_ids)
        self._has_warned = False

    # --- from outside ----------------------------------------------------------------------------

    @property
    def summary(self) -> BatchSummary:
        """Where the batch stands; at any time, also afterwards."""
        course = self._course
        return self._tally.summary(
            in_flight=len(self._keys),
            cost_usd=course.budget.spent if course is not None else Decimal(0),
            open_usd=course.budget.open if course is not None else Decimal(0),
            stopped=course.gate.stopped if course is not None else None,
        )

    def stop(self) -> None:
        """No more creates are sent; what was sent is awaited, and the rest is told as left."""
        self._entered().stop("stop() was called")

    async def __aenter__(self) -> Self:
        if self._course is not None:
            message = "a batch is run once; make another one with the same ledger to go on"
            raise ConfigurationError(message)
        settings, session = self._settings, self._session
        await session.ready_transport()  # a closed client must say so before a ledger is made
        await load_anyio()
        if settings.out is not None:
            await to_thread.run_sync(_make_folder, settings.out)
        journal = Journal() if settings.ledger is None else await Ledger.open(settings.ledger)
        try:
            if settings.found_ids:
                check_ids(settings.found_ids, *await journal.look_up(settings.found_ids))
            self._course = Course(
                session,
                journal,
                Budget(settings.max_cost_usd, journal.spent_usd, journal.open_usd),
                Gate(session.retry, session.random, session.limits.connections, current_time),
                settings.out,
                settings.name,
                settings.overwrite,
                settings.sha256,
                settings.timeout,
            )
            tasks = anyio.create_task_group()
            await tasks.__aenter__()
        except BaseException:
            await journal.close()
            raise
        self._tasks = tasks
        ends = anyio.create_memory_object_stream[tuple[Outcome, Entry | None]](0)
        self._send, self._receive = ends
        try:
            self._manifest.start(tasks)
        except BaseException as error:
            await self.__aexit__(type(error), error, error.__traceback__)
            raise
        tasks.start_soon(self._feed, self._course, tasks)
        tasks.start_soon(self._stop_when_closed, self._course)
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        out = error
        try:
            await self._leave(kind, error, traceback)
        except BaseException as raised:
            out = raised  # a cancellation is often another one when it comes out
            raise
        finally:
            # A loop that was broken off by hand needs no note: nothing is raised there.
            if out is not None and not isinstance(out, GeneratorExit):
                note = self._farewell()
                if note is not None:
                    add_note(out, note)

    async def _leave(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        tasks, course = self._tasks, self._entered()
        if self._keys or not self._all_taken:
            course.stop("the batch was left")  # a create that was about to be sent is not
        self._manifest.close()  # first: places that come free now are nobody's
        # Creates that are on their way have a shield of their own and are let finish.
        tasks.cancel_scope.cancel()
        try:
            # Only a cancellation is the task group's business; it would wrap any other error.
            if isinstance(error, anyio.get_cancelled_exc_class()):
                await tasks.__aexit__(kind, error, traceback)
            else:
                await tasks.__aexit__(None, None, None)
        finally:
            self._send.close()
            self._receive.close()
            try:
                await course.journal.close()
            finally:
                if not course.journal.keeps:
                    self._log_untold()

    def _farewell(self) -> str | None:
        untold = sorted(self._untold, key=lambda entry: entry.key)
        going_on = [entry for entry in untold if entry.state in _GOING_ON]
        in_doubt = [entry.key for entry in untold if entry.state is State.IN_DOUBT]
        words: list[str] = []
        ledger = self._settings.ledger
        if self._course is not None and not self._course.journal.keeps:
            ledger = None  # it has not, or nobody would find it again
        if in_doubt:
            keys = ", ".join(map(repr, in_doubt[:20])) + (", ..." if len(in_doubt) > 20 else "")
            words.append(
                f"{len(in_doubt)} of the batch's creates may have been accepted and billed, and no "
                f"request_id is known of them: {keys}."
            )
        if going_on and ledger is None:
            words.append(going_on_note([entry.request_id or "" for entry in going_on]))
        elif going_on:
            jobs = "1 job was accepted and goes on"
            if len(going_on) > 1:
                jobs = f"{len(going_on)} jobs were accepted and go on"
            words.append(f"{jobs} at the provider, perhaps billed.")
        if words and ledger is not None:
            words.append(f"The ledger {ledger} has them: the same call with it goes on.")
        return " ".join(words) or None

    def _log_untold(self) -> None:
        """Tell the log of each item that may be billed and that nobody else knows of."""
        for entry in self._untold:
            if entry.request_id is not None:
                logger.warning(
                    "the batch was left before the outcome of item %r was told, and no ledger has "
                    "it: its job %s is %s and may be billed. %s",
                    entry.key,
                    entry.request_id,
                    entry.state,
                    resume_hint(entry.request_id),
                )
            elif entry.state is State.IN_DOUBT:
                logger.warning(
                    "the batch was left before the outcome of item %r was told, and no ledger has "
                    "it: its create may have been accepted and billed, and no request_id is known",
                    entry.key,
                )

    def __aiter__(self) -> AsyncIterator[Outcome]:
        return self

    async def __anext__(self) -> Outcome:
        course = self._entered()
        try:
            outcome, entry = await self._receive.receive()
        except (anyio.EndOfStream, anyio.ClosedResourceError):
            if course.failure is not None:
                raise course.failure from None
            raise StopAsyncIteration from None
        # Only here: a cancelled caller may have lost what was handed over.
        if entry is not None:
            self._untold.discard(entry)
        return outcome

    def _entered(self) -> Course:
        if self._course is None:
            message = "a batch is used inside its context: with client.batch(...) as batch"
            raise ConfigurationError(message)
        return self._course

    # --- inside ----------------------------------------------------------------------------------

    async def _feed(self, course: Course, tasks: TaskGroup) -> None:
        try:
            while lines := await self._manifest.take(await self._free_places(course)):
                await self._admit(lines, course, tasks)
        except LedgerError as error:
            course.fail(error)
        except Exception as error:  # noqa: BLE001 - the manifest's own
            # What was taken before is done before this is raised.
            course.failure = error
        else:
            if self._ids_left:
                logger.warning(
                    "found_ids has keys that the manifest has not, and nothing was done for them: "
                    "%s",
                    ", ".join(map(repr, self._ids_left)),
                )
        self._all_taken = True
        self._end_if_over()

    async def _stop_when_closed(self, course: Course) -> None:
        lifetime = course.session.lifetime
        await lifetime.sleep_until(math.inf)
        try:
            lifetime.require()
        except ConfigurationError as error:
            course.stop(error.message, error)

    async def _free_places(self, course: Course) -> int:
        while (free := self._settings.max_in_flight - len(self._keys)) < 1:
            await course.news()
        return free

    async def _admit(self, lines: list[Line | Unusable], course: Course, tasks: TaskGroup) -> None:
        found = await course.journal.find([one.item.key for one in lines if isinstance(one, Line)])
        missing = await self._without_file(found.known.values(), course)
        begun: set[str] = set()
        for line in lines:
            if isinstance(line, Unusable):
                await self._tell(Outcome(line.key, OutcomeState.FAILED, error=line.error))
                continue
            key = line.item.key
            if key in found.again or key in self._keys or key in begun:
                await self._tell(Outcome(key, OutcomeState.FAILED, error=_twice(key)))
                continue
            begun.add(key)
            found_id = self._ids_left.pop(key, None)
            entry = found.known.get(key) or Entry(key, line.fingerprint)
            is_over = key not in missing and self._is_over(entry, course.journal)
            is_changed = self._is_changed(entry, line)
            if is_over:
                await self._tell(earlier_outcome(entry, is_changed=is_changed))
            else:
                self._keys.add(key)
                if entry.state not in _FINDABLE or entry.request_id == found_id:
                    found_id = None  # an earlier run took it
                run = ItemRun(course, line.item, entry, found_id, is_changed=is_changed)
                tasks.start_soon(self._work, run, entry)

    async def _without_file(self, entries: Iterable[Entry], course: Course) -> set[str]:
        """Return the keys of saved items whose files are not here any more."""
        saved = [entry for entry in entries if entry.state is State.SAVED]
        if course.out is None or not saved:
            return set()
        # All of them in one hand-over to a thread: ten thousand are looked for in a second.
        return await to_thread.run_sync(_missing, saved, course)

    def _is_changed(self, entry: Entry, line: Line) -> bool:
        """Return whether the item was begun with another request than this one; the log is told."""
        if entry.fingerprint == line.fingerprint:
            return False
        if entry.state is State.PLANNED:
            entry.fingerprint = line.fingerprint  # nothing of the other one counts any more
            return False
        if not self._has_warned:
            self._has_warned = True  # a folder that was moved changes every one of them
            logger.warning(
                "item %r was begun with another request (and perhaps more were: their outcomes "
                "have is_changed); the key counts, and what was begun goes on. For a video of the "
                "new request give it a new key",
                entry.key,
            )
        return True

    def _is_over(self, entry: Entry, journal: Journal) -> bool:
        """Return whether nothing is to be done for an item; what a person decided is noted."""
        settings = self._settings
        match entry.state:
            case State.SAVED:
                return True
            case State.READY:
                # Without a folder there was, and is, nothing more to do.
                return settings.out is None
            case State.IN_DOUBT if entry.key in settings.found_ids:
                return False
            case State.FAILED | State.EXPIRED | State.IN_DOUBT:
                released = is_sent_again(
                    entry,
                    retry_failed=settings.retry_failed,
                    resubmit_in_doubt=settings.resubmit_in_doubt,
                )
            case _:
                return False
        if released:
            journal.note(entry, Event.RELEASED)
        return not released

    async def _work(self, run: ItemRun, entry: Entry) -> None:
        self._untold.add(entry)
        try:
            await self._tell(await run.outcome(), entry)
        finally:
            self._keys.discard(entry.key)
            self._entered().announce()
            self._end_if_over()

    async def _tell(self, outcome: Outcome, entry: Entry | None = None) -> None:
        self._tally.add(outcome)
        await self._send.send((outcome, entry))

    def _end_if_over(self) -> None:
        if self._all_taken and not self._keys:
            self._send.close()


def farewell_of(batch: AsyncBatch) -> str | None:
    """Return what somebody who is torn out of the batch should know; None if nothing goes on."""
    # A function beside the class: what is public there has a blocking twin.
    return batch._farewell()  # noqa: SLF001  # pyright: ignore[reportPrivateUsage] - as said


async def run_through(batch: AsyncBatch) -> None:
    """The batch has come to its end; its outcomes are heard by nobody.

    The log is told of jobs that go on, or whose files are not here, where no ledger has them.
    """
    async with batch:
        # A function beside the class: the blocking twin has no use for it.
        course = batch._entered()  # noqa: SLF001  # pyright: ignore[reportPrivateUsage]
        async for outcome in batch:
            if outcome.state in _UNFINISHED and outcome.request_id and not course.journal.keeps:
                logger.warning(
                    "no ledger has item %r: its job %s is %s and may be billed. %s",
                    outcome.key,
                    outcome.request_id,
                    outcome.state,
                    resume_hint(outcome.request_id),
                )


#: Outcomes of jobs that were accepted, of which more is to come.
_UNFINISHED: Final = (OutcomeState.PENDING, OutcomeState.UNFETCHED)


def _make_folder(folder: Path) -> None:
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        message = f"the folder {folder} cannot be made: {error.strerror}. Nothing was sent."
        raise DestinationError(message, request_id=None) from error


def _missing(entries: Iterable[Entry], course: Course) -> set[str]:
    """Return the keys of entries whose files are gone; one that was moved is noted. Blocks."""
    missing: set[str] = set()
    for entry in entries:
        if entry.path is None or _is_file(entry.path, entry.size):
            continue
        place = course.place(entry.key)
        if _is_file(place, entry.size):
            entry.path = str(place)  # the folder was moved, and `out` with it
        else:
            missing.add(entry.key)
    return missing


def _is_file(path: str | Path, size: int | None) -> bool:
    try:
        return size in (None, os.stat(path).st_size)  # noqa: PTH116 - many, one after another
    except (FileNotFoundError, NotADirectoryError):
        return False
    except OSError:
        return True  # nobody can tell


def _twice(key: str) -> InvalidRequest:
    limit = (
        "must be given once in a manifest, and the first one with it counts (for several videos of "
        "one request, give each a key of its own)"
    )
    return refuse("key", key, limit)


publish(globals(), ("AsyncBatch",))
