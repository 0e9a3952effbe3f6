"""A batch under way: items taken lazily, run side by side, told in the order in which they end.

It takes items from the manifest as places come free and owns the tasks that run them; what happens
to one item is in `_item`. Memory must never grow with the manifest, and there is no `yield` in a
task group: a task of the batch's own holds them from `begin` to `leave`, whichever tasks these are
called in, and each waits until its outcome was taken.
"""

from __future__ import annotations

import math
import os
from typing import TYPE_CHECKING, Final, cast

import anyio

from grok_video._arguments import refuse
from grok_video._budget import Budget
from grok_video._course import Course
from grok_video._earlier import check_ids, earlier_outcome, is_sent_again
from grok_video._entry import Entry
from grok_video._errors import (
    ConfigurationError,
    DestinationError,
    InvalidRequest,
    JobExpired,
    JobFailed,
    LedgerError,
    going_on_note,
    resume_hint,
)
from grok_video._gate import Gate
from grok_video._handover import Handover, Over
from grok_video._item import ItemRun
from grok_video._ledger import Journal, Ledger
from grok_video._lifecycle import Event, State
from grok_video._log import logger
from grok_video._manifest import Line, Manifest, Unusable
from grok_video._outcomes import BatchSummary, Outcome, OutcomeState, Tally
from grok_video._owntask import OwnTask, protected
from grok_video._threads import CHECKS
from grok_video._transports._loops import current_time, has_ended, is_cancellation, running_task

if TYPE_CHECKING:
    from collections.abc import Iterable
    from pathlib import Path

    from anyio.abc import TaskGroup

    from grok_video._batchsettings import Settings
    from grok_video._manifest import BatchSource
    from grok_video._session import Session

__all__ = ["BatchRun"]


#: States of items whose jobs go on, or have ended and wait to be fetched.
_GOING_ON: Final = frozenset({State.PENDING, State.READY, State.FETCHING})
#: States in which an item may still take an id that a person found.
_FINDABLE: Final = frozenset({State.IN_DOUBT, State.PENDING})


class BatchRun:
    """What is between entering a batch and leaving it."""

    def __init__(self, session: Session, requests: BatchSource, settings: Settings) -> None:
        self._session = session
        self._settings = settings
        self._manifest = Manifest(requests)
        self._tally = Tally()
        #: What its items share; made by `begin`, as it holds the ledger.
        self.course: Course
        #: Outcomes, each with its item if that was begun, in this run or before.
        self._ends: Handover[tuple[Outcome, Entry | None]] = Handover()
        #: Holds the tasks of the items; the ledger is closed at its end.
        self._own = OwnTask(self._live, self._ends.close)
        #: True once nothing more is begun, and once that is what the caller wants.
        self._is_wound_up = self._is_left = False
        #: What broke the batch off, once somebody was told of it.
        self._told_crash: BaseException | None = None
        #: The keys in flight: the window. Which keys came before it the journal knows.
        self._keys: set[str] = set()
        #: The items of which nobody was told yet: those in flight.
        self.untold: set[Entry] = set()
        #: Those whose links were told, each with the task that has it, until that asks for more or
        #: the batch is left of its caller's own will. Broken off before, it may have kept none.
        self._told: list[tuple[object, Entry]] = []
        #: True once the caller is known to leave so, whatever the batch is left with.
        self.is_heard_out = False
        self._all_taken = False
        #: True once that was the whole manifest, and not what came before a stop.
        self._is_whole = False
        #: The found ids whose items have not come yet.
        self._ids_left = dict(settings.found_ids)
        self._has_warned = False

    def summary(self) -> BatchSummary:
        """Return where it stands; at any time, also afterwards."""
        return self._tally.summary(
            in_flight=len(self._keys),
            is_over=self._is_whole and not self._keys,
            cost_usd=self.course.budget.spent,
            open_usd=self.course.budget.open,
            stopped=self.course.stopped,
            is_at_ceiling=self.course.left_for_money is not None,
        )

    async def begin(self) -> None:
        """The ledger is held, and items are taken; to be ended by `leave`.

        Raises `DestinationError` and `LedgerError` if the folder or the ledger cannot be used, and
        `InvalidRequest` for a found id that is wrong. Nothing is read of the manifest here: what it
        raises comes from `receive`.
        """
        settings, session = self._settings, self._session
        if settings.out is not None:
            await CHECKS.run(_make_folder, settings.out)
        journal = Journal() if settings.ledger is None else await Ledger.open(settings.ledger)
        try:
            if settings.found_ids:
                check_ids(settings.found_ids, *await journal.look_up(settings.found_ids))
            self.course = Course(
                session,
                journal,
                Budget(settings.max_cost_usd, journal.spent_usd, journal.open_usd),
                Gate(session.retry, session.random, session.limits.connections, current_time),
                settings,
            )
            self._own.start()
        except BaseException:
            await journal.close()
            raise

    async def leave(self, error: BaseException | None) -> None:
        """Nothing more is sent; creates on their way are answered, and nothing stays open.

        `error` is what the caller leaves with. Raises what broke the batch off, if nobody was told.
        """
        self._is_left = True
        if error is None or self.is_heard_out:
            self._note_told(self._told)
        self._told = []
        self._wind_up()
        try:
            # Creates that are on their way have a shield of their own and are let finish.
            await self._own.end()
        finally:
            await self.course.journal.close()  # it is, unless that task has had no step at all
        crash = self._crash()
        if crash is not None and crash is not self._told_crash:
            raise crash from None

    def _wind_up(self) -> None:
        """Nothing more is begun."""
        if self._is_wound_up:
            return
        self._is_wound_up = True
        if self._keys or not self._all_taken:
            # A create that was about to be sent is not.
            self.course.stop("the batch was left" if self._is_left else "the batch was broken off")
        self._manifest.close()  # first: places that come free now are nobody's

    def _crash(self) -> BaseException | None:
        """Return what the tasks have raised, if they have: a manifest's `sys.exit()`, say."""
        failure = self._own.failure
        if failure is None or isinstance(failure, Exception):
            return failure
        if isinstance(failure, BaseExceptionGroup):
            return _sole(cast("BaseExceptionGroup[BaseException]", failure))
        return None if is_cancellation(failure) else failure

    def farewell(self) -> str | None:
        """Return what somebody who is torn out of it should know; None if nothing goes on."""
        untold = sorted(self.untold, key=lambda entry: entry.key)
        going_on = [entry for entry in untold if entry.state in _GOING_ON]
        in_doubt = [entry.key for entry in untold if entry.state is State.IN_DOUBT]
        words: list[str] = []
        ledger = self._settings.ledger
        if not self.course.journal.keeps:
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
        for entry in self.untold:
            if entry.request_id is not None:
                logger.warning(
                    "the batch was left before the outcome of item %r was told, and no ledger has "
                    "it: its job %s is %s and may be billed. %s",
                    entry.key,
                    entry.request_id,
                    entry.state,
                    resume_hint(entry.request_id, uploaded=entry.is_delivered),
                )
            elif entry.state is State.IN_DOUBT:
                logger.warning(
                    "the batch was left before the outcome of item %r was told, and no ledger has "
                    "it: its create may have been accepted and billed, and no request_id is known",
                    entry.key,
                )

    def log_unkept(self, outcome: Outcome) -> None:
        """Tell the log of a job that goes on, or whose file is not here, where no ledger has it."""
        if outcome.state in _UNFINISHED and outcome.request_id and not self.course.journal.keeps:
            logger.warning(
                "no ledger has item %r: its job %s is %s and may be billed. %s",
                outcome.key,
                outcome.request_id,
                outcome.state,
                resume_hint(outcome.request_id),
            )

    async def receive(self) -> Outcome:
        """Return the next outcome. Raises `StopAsyncIteration` at the end, or what ended it."""
        me = running_task()
        self._note_told([one for one in self._told if one[0] is me])
        try:
            outcome, entry = await self._ends.take()
        except Over:
            if not self._is_left and (self._is_wound_up or self._own.is_over):
                await self._own.over()
                self._told_crash = self._crash()
                raise self._told_crash or ConfigurationError(_BROKEN_OFF) from None
            if self.course.failure is not None:
                raise self.course.failure from None
            raise StopAsyncIteration from None
        if entry is not None:
            self.untold.discard(entry)
            is_gone = entry.state is State.READY and isinstance(outcome.error, _ENDS)
            if outcome.state is OutcomeState.DONE or is_gone:
                self._told.append((me, entry))
                # A task for each question (`wait_for` makes one) asks for no more.
                asked_once = [one for one in self._told if has_ended(one[0])]
                self._note_told(asked_once[:-_TOLD_AT_MOST])
        return outcome

    def _note_told(self, told: list[tuple[object, Entry]]) -> None:
        """The links told so far have done their service: the next run need not tell them again.

        Never before: one that its caller has not got, or broke at, would be "skipped" for ever
        after. Nobody waits for the disk: a death before tells them once more, for a poll each.
        """
        self._told = [one for one in self._told if one not in told]
        for _, entry in told:
            self.course.journal.note(entry, Event.TOLD)

    # --- inside ----------------------------------------------------------------------------------

    async def _live(self) -> None:
        """Hold the tasks of the items until the batch is left, or its event loop ends."""
        try:
            async with anyio.create_task_group() as tasks:
                try:
                    if not self._is_left:
                        self._manifest.start(tasks)
                        # A Ctrl-C in there would wait for a caller who asks for an outcome.
                        tasks.start_soon(protected(self._feed), tasks)
                        tasks.start_soon(protected(self._stop_when_closed))
                        tasks.start_soon(protected(self._hurry_when_stopped))
                    await anyio.sleep_forever()
                finally:
                    self._wind_up()
        finally:
            try:
                await self.course.journal.close()
            finally:
                if not self.course.journal.keeps:
                    self._log_untold()

    async def _feed(self, tasks: TaskGroup) -> None:
        course = self.course
        try:
            while lines := await self._manifest.take(await self._free_places(course)):
                await self._admit(lines, course, tasks)
        except LedgerError as error:
            course.fail(error)
        except Exception as error:  # noqa: BLE001 - the manifest's own
            # What was taken before is done before this is raised.
            course.failure = error
        else:
            self._is_whole = not self._manifest.is_hurried
            if self._ids_left and self._is_whole:
                logger.warning(
                    "found_ids has keys that the manifest has not, and nothing was done for them: "
                    "%s",
                    ", ".join(map(repr, self._ids_left)),
                )
        self._all_taken = True
        self._end_if_over()

    async def _stop_when_closed(self) -> None:
        lifetime = self.course.session.lifetime
        await lifetime.sleep_until(math.inf)
        try:
            lifetime.require()
        except ConfigurationError as error:
            self.course.stop(error.message, error)

    async def _hurry_when_stopped(self) -> None:
        while self.course.gate.stopped is None:
            await self.course.news()
        self._manifest.hurry()

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
            is_again = is_sent_again(entry, self._settings)
            is_changed = not is_again and self._is_changed(entry, line)
            if key not in missing and not is_again and self._is_over(entry):
                await self._tell(earlier_outcome(entry, is_changed=is_changed), entry)
            else:
                self._keys.add(key)
                if entry.state not in _FINDABLE or entry.request_id == found_id:
                    found_id = None  # an earlier run took it
                run = ItemRun(
                    course, line.item, entry, line.fingerprint, found_id, is_again=is_again
                )
                tasks.start_soon(protected(self._work), run, entry)

    async def _without_file(self, entries: Iterable[Entry], course: Course) -> set[str]:
        """Return the keys of saved items whose files are not here any more."""
        saved = [entry for entry in entries if entry.state is State.SAVED]
        if course.settings.out is None or not saved:
            return set()
        # All of them in one hand-over to a thread: ten thousand are looked for in a second.
        return await CHECKS.run(_missing, saved, course)

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

    def _is_over(self, entry: Entry) -> bool:
        """Return whether nothing is to be done for an item that is not to be sent again."""
        settings = self._settings
        match entry.state:
            case State.SAVED:
                return True
            case State.READY:
                # Without a folder there is nothing more to do once its link was told. What was
                # delivered elsewhere has none, and its job may be forgotten.
                return entry.is_elsewhere or (settings.out is None and entry.was_told)
            case State.IN_DOUBT:
                return entry.key not in settings.found_ids
            case _:
                return entry.state in (State.FAILED, State.EXPIRED)

    async def _work(self, run: ItemRun, entry: Entry) -> None:
        self.untold.add(entry)
        polls, was_saved = entry.polls, entry.state is State.SAVED
        try:
            outcome = await run.outcome()
            self._tally.add(outcome, polls_before=polls, was_saved=was_saved)
            await self._ends.give((outcome, entry))
        finally:
            self._keys.discard(entry.key)
            self.course.announce()
            self._end_if_over()

    async def _tell(self, outcome: Outcome, entry: Entry | None = None) -> None:
        """Tell of an item for which nothing is to be done; `entry` is what the ledger has of it."""
        self._tally.add(outcome, polls_before=outcome.polls, was_saved=True)
        await self._ends.give((outcome, entry))

    def _end_if_over(self) -> None:
        if self._all_taken and not self._keys:
            self._ends.close()


#: Links of tasks that ended with them, for better or worse, and are not noted yet, at most.
_TOLD_AT_MOST: Final = 100
#: What the API says of a job that is no more: it has no link that could be told.
_ENDS: Final = (JobFailed, JobExpired)
#: Outcomes of jobs that were accepted, of which more is to come.
_UNFINISHED: Final = (OutcomeState.PENDING, OutcomeState.UNFETCHED)


#: Told to who iterates when tasks were cancelled that nobody but the batch knows.
_BROKEN_OFF: Final = (
    "the batch was broken off: its tasks were cancelled, and not by leaving it (at the end of an "
    "event loop all of them are). Nothing more is sent, and the jobs that were accepted go on at "
    "the provider; the same call with the same ledger goes on with them"
)


def _sole(group: BaseExceptionGroup[BaseException]) -> BaseException | None:
    """Return what ends the program out of what the tasks raised together: the first of it.

    None where all the rest of it are cancellations.
    """
    for error in group.exceptions:
        if isinstance(error, BaseExceptionGroup):
            found = _sole(cast("BaseExceptionGroup[BaseException]", error))
            if found is not None:
                return found
        elif not (isinstance(error, Exception) or is_cancellation(error)):
            return error
    return None


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
