"""The life of one item of a batch in this process: sent, awaited, fetched, and written down.

Each step asks the gate and the budget, tells the ledger first and does the effect after. What must
never happen here: a create before its beginning is on disk, a second create for an item that may
have had one, and an item that ends without an outcome.
"""

from __future__ import annotations

import math
import time
from decimal import Decimal
from typing import TYPE_CHECKING, Final

from grok_video import _download
from grok_video._budget import dollars, list_price
from grok_video._earlier import earlier_video
from grok_video._errors import (
    APIError,
    AuthenticationError,
    BadRequest,
    CreateOutcomeUnknown,
    GrokVideoError,
    JobError,
    JobExpired,
    JobFailed,
    LedgerError,
    LinkExpired,
    ModerationRefused,
    NotFound,
    reword,
)
from grok_video._gate import PATIENCE, Closed, NotYet, Turn, is_passing
from grok_video._job import save
from grok_video._lifecycle import Event, State
from grok_video._log import logger
from grok_video._outcomes import OutcomeState
from grok_video._policies import NO_END, Deadline
from grok_video._poller import Poller
from grok_video._transports._loops import current_time, ends_at
from grok_video._verdicts import is_full, meaning, unproven
from grok_video._wire import shows_a_job

if TYPE_CHECKING:
    from pathlib import Path

    from grok_video._course import Course
    from grok_video._create import Record
    from grok_video._entry import Entry
    from grok_video._models import Video
    from grok_video._outcomes import BatchItem, Outcome

__all__ = ["ItemRun"]

#: What an item is called whose time in this process is over.
_CALLED: Final = {
    State.PLANNED: OutcomeState.LEFT,
    State.SUBMITTING: OutcomeState.IN_DOUBT,
    State.PENDING: OutcomeState.PENDING,
    State.READY: OutcomeState.UNFETCHED,
    State.FETCHING: OutcomeState.UNFETCHED,
    State.SAVED: OutcomeState.SAVED,
    State.FAILED: OutcomeState.FAILED,
    State.EXPIRED: OutcomeState.EXPIRED,
    State.IN_DOUBT: OutcomeState.IN_DOUBT,
}


class ItemRun:
    """One item from where the ledger has it to where it can go."""

    def __init__(
        self,
        course: Course,
        item: BatchItem,
        entry: Entry,
        found_id: str | None = None,
        *,
        is_changed: bool = False,
    ) -> None:
        """See the class; `found_id` is the request_id that a person found for the item.

        `is_changed` says that what an earlier run began is not what the item asks for now.
        """
        self._course = course
        self._session = course.session
        self._journal = course.journal
        self._gate = course.gate
        self._item = item
        self._entry = entry
        self._found_id = found_id
        self._is_changed = is_changed
        self._price = list_price(item.request)
        self._committed = False
        #: True once the answer of a create was lost: whatever comes of one that is sent after it,
        #: the item may have been accepted and billed, and only an id takes it out of doubt.
        self._lost = False
        #: What the provider charges for this attempt; None until it says so.
        self._charged: Decimal | None = None
        #: True if an earlier run had it accepted.
        self._taken_up = entry.state is not State.PLANNED
        #: True if a file of its name may be its own, which nobody wrote down.
        self._may_be_saved = entry.may_be_saved
        #: True if its file is gone: it is fetched again, and stays saved whatever comes of that.
        self._is_lost = entry.state is State.SAVED
        self._polls_before = entry.polls
        #: When the create was.
        self._began = current_time()
        self._video: Video | None = None
        if not self._taken_up:
            entry.describe(item.request, self._price)

    async def outcome(self) -> Outcome:
        """Return what became of the item. Raises nothing but a cancellation."""
        entry = self._entry
        error: Exception | None = None
        try:
            if entry.state is State.PLANNED:
                await self._create()
            elif entry.state in (State.PENDING, State.IN_DOUBT) or entry.cost_usd is None:
                self._commit(known=True)
            if self._is_lost:
                await self._fetch_again()
            else:
                await self._finish()
        except Closed:
            error = self._gate.error
        except Exception as failure:  # noqa: BLE001 - one failure never ends the batch
            # Without its traceback, which would keep the frames of this run alive.
            error = failure.with_traceback(None)
            await self._note(failure)
        except BaseException:
            # Cancelled; a create whose answer did not come in time is one that nobody knows of.
            if entry.state is State.SUBMITTING:
                self._journal.note(entry, Event.ANSWER_LOST)
            elif entry.state is State.FETCHING:
                self._journal.note(entry, Event.FETCHING_BROKE)
            raise
        finally:
            self._settle(error)
        done = entry.state is State.READY and error is None
        state = OutcomeState.DONE if done else self._called(error)
        return entry.outcome(state, video=self._video, error=error, is_changed=self._is_changed)

    def _called(self, error: Exception | None) -> OutcomeState:
        if not self._is_lost or error is None:
            return _CALLED[self._entry.state]
        gone = isinstance(error, JobExpired | JobFailed | NotFound)
        return OutcomeState.EXPIRED if gone else OutcomeState.UNFETCHED

    # --- sending ---------------------------------------------------------------------------------

    async def _create(self) -> None:
        """The item is accepted. Raises `Closed` if no more are sent."""
        if self._course.out is not None:
            await _download.check_destination(
                self._place(), overwrite=self._course.overwrite, request_id=None
            )
        await self._wait_for_money()
        while self._entry.state is State.PLANNED:
            await self._wait_for_polls()
            try:
                async with self._gate.turn() as turn:
                    await self._try(turn)
            except NotYet:
                continue

    async def _wait_for_money(self) -> None:
        """The price is committed, as soon as it fits. Raises `Closed` if it never will."""
        course, budget = self._course, self._course.budget
        while self._gate.stopped is None and not budget.fits(self._price):
            if budget.may_still_fit:
                await course.news()
                continue
            assert budget.ceiling is not None  # noqa: S101 - for the type checker: all fits without
            # This one alone: what costs less may fit.
            course.left_for_money = course.left_for_money or (
                f"one more create (up to {dollars(self._price)}) could lead beyond max_cost_usd "
                f"({dollars(budget.ceiling)}): {dollars(budget.spent)} are spent, and up to "
                f"{dollars(budget.open)} more may be billed"
            )
            raise Closed
        if self._gate.stopped is not None:
            raise Closed
        self._commit()

    async def _wait_for_polls(self) -> None:
        """Return when a job created now could be followed. Raises `Closed` if no more are sent.

        The server may want no poll for so long that every wait would end at once: a place in the
        window would come free with each create, and nobody would follow what was paid for.
        """
        course = self._course
        while self._gate.stopped is None:
            now = current_time()
            until = course.unfollowed_until()
            if until <= now:
                return
            if until - now > PATIENCE:
                asked = self._session.polls_blocked_until() - now
                course.stop(
                    f"the server asks for no poll in the next {asked:.0f} s: a job created now "
                    f"could not be followed within its timeout ({course.timeout:g} s)"
                )
                break
            with ends_at(until):
                await course.news()
        raise Closed

    async def _try(self, turn: Turn) -> None:
        """Send, and tell the gate how it went. A failure that passes leaves the item planned."""
        try:
            await self._send(turn)
        except GrokVideoError as error:
            if self._gate.failed(error, current_time(), alone=turn.alone):
                logger.warning(
                    "no create is accepted (%s); one is tried now and then, for %g minutes in all",
                    error.message,
                    PATIENCE / 60,
                )
            self._course.announce()  # the gate may have stopped
            if not (is_passing(error) and self._entry.state is State.PLANNED):
                raise
        else:
            self._gate.accepted()

    async def _send(self, turn: Turn) -> None:
        turn.may_be_called_back(now=True)
        try:
            with turn.scope:
                await self._session.create(self._item.request, record=self._recorder(turn))
            if turn.scope.cancelled_caught:
                raise Closed
        finally:
            turn.may_be_called_back(now=False)

    def _recorder(self, turn: Turn) -> Record:
        entry, journal = self._entry, self._journal

        async def record(event: Event, request_id: str | None) -> None:
            if event is Event.SENDING_BEGAN:
                await self._begin_sending(turn)
            elif event is Event.ACCEPTED:
                entry.request_id = request_id
                entry.fail(None)
                self._began = current_time()
                # Accepted; where it cannot be written down, it is fetched all the same.
                await self._write_down(event)
                if journal.is_low:
                    self._course.stop("the disk of the ledger is full")
            elif event is Event.ANSWER_LOST:
                # Not written yet: on disk it is "submitting", which a death turns into doubt.
                self._lost = True
            elif event is Event.NOT_TAKEN and not self._lost:
                journal.note(entry, event)
                turn.may_be_called_back(now=True)
            # Any other becomes an error in a moment, and is noted with its words.

        return record

    async def _begin_sending(self, turn: Turn) -> None:
        """The beginning is on disk and the create may go. Raises if not; nothing was sent then.

        An item whose last create was lost stays as it is if this one may not go: in doubt.
        """
        entry, journal = self._entry, self._journal
        # Sent again after a create of unknown outcome: the caller's `Retry` says so. Written
        # together with the beginning, or a process that dies in between comes back as planned.
        released = (Event.ANSWER_LOST, Event.RELEASED) if self._lost else ()
        try:
            turn.check()
            turn.may_be_called_back(now=False)
            await journal.record(entry, *released, Event.SENDING_BEGAN)
            # News may have come while the disk was busy.
            unfollowed = self._course.unfollowed_until()
            turn.check(blocked_until=max(self._session.creates_blocked_until(), unfollowed))
        except (Closed, NotYet, LedgerError) as refusal:
            if isinstance(refusal, LedgerError):
                self._course.fail(refusal)
            if self._lost:
                raise self._not_sent_again(refusal) from None
            if entry.state is State.SUBMITTING:
                journal.note(entry, Event.NOT_TAKEN)
            raise

    def _not_sent_again(self, refusal: Exception) -> CreateOutcomeUnknown:
        reason = "creates were held back when its turn came"
        if isinstance(refusal, Closed):
            reason = f"the batch sends no more: {self._course.stopped}"
        elif isinstance(refusal, LedgerError):
            reason = refusal.message
        return CreateOutcomeUnknown(
            "the create may have been accepted and billed, and no request_id is known: its answer "
            f"was lost. It was not sent again ({reason.rstrip('.')}). Look at the account's usage; "
            "then give found_ids, or resubmit_in_doubt to send it again.",
            fingerprint=self._entry.fingerprint,
            sent_at=self._entry.sent_at or 0.0,
            phase="awaiting the answer",
        )

    # --- waiting and fetching --------------------------------------------------------------------

    async def _finish(self) -> None:
        """The video is rendered, and saved where there is a folder for it."""
        entry = self._entry
        request_id = self._found_id or entry.request_id
        assert request_id is not None  # noqa: S101 - for the type checker: it was accepted
        age = 0.0
        if self._taken_up:
            began_at = entry.accepted_at if self._found_id is None else None
            # Wall clocks of two processes: never nothing, because that means "made just now".
            age = max(1e-3, time.time() - (began_at or entry.sent_at or math.inf))
            self._began -= age
        poller = Poller(self._session, request_id, self._item.request, age=age)
        deadline = Deadline.after(current_time(), self._course.timeout)
        try:
            if self._found_id is not None:
                await self._take_id(self._found_id, poller, deadline)
            self._video = video = await poller.wait(deadline)
            self._note_cost(video.cost_usd)
            if not self._is_lost and (self._course.out is None or video.url is None):
                entry.seconds = current_time() - self._began
                entry.polls = self._polls_before + poller.polls
                await self._write_down(Event.RENDERED)
            else:
                if not self._is_lost:
                    self._journal.note(entry, Event.RENDERED)
                await self._fetch(poller, video)
        finally:
            entry.polls = self._polls_before + poller.polls

    async def _fetch_again(self) -> None:
        """The file of a saved item is here once more; nothing is ever sent for that."""
        entry, overwrite = self._entry, self._course.overwrite
        self._video = earlier_video(entry)
        try:
            # It may be another file of somebody's, or this one as somebody has changed it.
            await _download.check_destination(
                self._place(), overwrite=overwrite, request_id=entry.request_id
            )
            await self._finish()
        except GrokVideoError as error:
            size = f" ({entry.size} bytes)" if entry.size is not None else ""
            reword(
                error,
                f"the file that an earlier run saved as {entry.path}{size} is not there any more "
                f"as it was, and was not fetched again: {error.message}",
            )
            raise

    async def _take_id(self, found_id: str, poller: Poller, deadline: Deadline) -> None:
        """The id is the item's, and the API knows it; else nothing has changed.

        A person may mistype it, and what stands in the ledger is polled for ever after.
        """
        entry = self._entry
        try:
            while poller.snapshot is None or not shows_a_job(poller.snapshot):
                if poller.is_finished:
                    poller.video()  # raises
                await poller.step(deadline)
        except (NotFound, BadRequest, JobError) as error:
            raise unproven(found_id, entry, error) from error
        entry.request_id = found_id
        entry.fail(None)
        self._journal.note(entry, Event.ID_FOUND)

    async def _fetch(self, poller: Poller, video: Video) -> None:
        session, entry = self._session, self._entry
        slots = await session.download_slots.get()
        await slots.take(NO_END.at)
        try:
            if not self._is_lost:
                self._journal.note(entry, Event.FETCHING_BEGAN)
            # A death between the file's name and its record leaves the whole video there. Nobody
            # knows but by comparing: a fetch that was torn out may have left nothing, and whatever
            # came to its place since is somebody's. (As long as its part is there, it certainly is
            # not this item's.)
            adopt = self._may_be_saved and not await _download.is_under_way(self._place())
            self._video = video = await save(
                poller,
                video,
                self._place(),
                overwrite=self._course.overwrite,
                adopt=adopt,
                sha256=self._course.sha256,
                deadline=NO_END,
            )
        except LinkExpired as error:
            # The job itself ended meanwhile, and that is what became of the item.
            if isinstance(error.__cause__, JobFailed | JobExpired):
                raise error.__cause__ from None
            raise
        finally:
            slots.release()
        entry.path = str(video.path)
        entry.size, entry.sha256 = video.size, video.sha256
        if not self._is_lost:
            entry.seconds = current_time() - self._began
        entry.polls = self._polls_before + poller.polls
        await self._write_down(Event.SAVED)

    async def _write_down(self, event: Event) -> None:
        """The event is on disk, or the batch knows that it cannot be; the item goes on."""
        try:
            await self._journal.record(self._entry, event)
        except LedgerError as error:
            self._course.fail(error)

    def _place(self) -> Path:
        return self._course.place(self._entry.key)

    # --- what went wrong -------------------------------------------------------------------------

    async def _note(self, failure: Exception) -> None:
        """Write down what a failure means for the item, with its words."""
        entry = self._entry
        if isinstance(failure, JobFailed) and failure.snapshot is not None:
            reason = failure.snapshot.error
            self._note_cost(reason.cost_usd if reason is not None else None)
        if isinstance(failure, AuthenticationError) or is_full(failure):
            self._course.stop(str(failure), failure if isinstance(failure, APIError) else None)
        if isinstance(failure, LedgerError):
            self._course.fail(failure)
            return
        if self._is_lost:
            return
        entry.fail(failure)
        entry.seconds = current_time() - self._began if entry.request_id else None
        for event in meaning(failure, entry.state, lost=self._lost):
            await self._write_down(event)

    # --- money -----------------------------------------------------------------------------------

    def _commit(self, *, known: bool = False) -> None:
        self._course.budget.commit(self._price, known=known)
        self._committed = True

    def _note_cost(self, cost_usd: Decimal | None) -> None:
        entry = self._entry
        # A job taken up when it was ready has named its price in an earlier run.
        if cost_usd is not None and self._committed and self._charged is None:
            self._charged = cost_usd
            entry.cost_usd = cost_usd + (entry.cost_usd or 0)

    def _settle(self, error: Exception | None) -> None:
        if not self._committed:
            return
        charged = self._charged
        if charged is None and (
            self._entry.state is State.PLANNED
            or (self._entry.state is State.FAILED and not isinstance(error, ModerationRefused))
        ):
            charged = _NOTHING
        self._course.budget.settle(self._price, charged)


_NOTHING: Final = Decimal(0)
