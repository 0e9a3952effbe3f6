"""The life of one item of a batch in this process: sent, awaited, fetched, and written down.

How it is sent stands in `_sending`; here it goes on with its job, and each step is told to the
ledger and to the budget. What must never happen here: an item that ends without an outcome.
"""

from __future__ import annotations

import math
import time
from decimal import Decimal
from typing import TYPE_CHECKING, Final

from grok_video import _download
from grok_video._budget import Account
from grok_video._earlier import earlier_outcome, earlier_video, not_sent_again
from grok_video._errors import (
    APIError,
    AuthenticationError,
    BadRequest,
    GrokVideoError,
    JobError,
    JobExpired,
    JobFailed,
    LedgerError,
    LinkExpired,
    NotFound,
    reword,
)
from grok_video._gate import Closed
from grok_video._job import save
from grok_video._lifecycle import Event, State
from grok_video._models import JobStatus
from grok_video._outcomes import OutcomeState
from grok_video._policies import NO_END, Deadline
from grok_video._poller import Poller
from grok_video._sending import Sending, write_down
from grok_video._transports._loops import current_time
from grok_video._verdicts import is_full, meaning, say_what_to_do, unproven
from grok_video._wire import shows_a_job

if TYPE_CHECKING:
    from pathlib import Path

    from grok_video._course import Course
    from grok_video._entry import Entry
    from grok_video._models import Snapshot, Video
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
        fingerprint: str,
        found_id: str | None = None,
        *,
        is_again: bool = False,
    ) -> None:
        """See the class; `found_id` is the request_id that a person found for the item.

        `fingerprint` is the hash of what the item asks for now, and `is_again` says that a person
        lets it be sent again with which an earlier run ended.
        """
        self._course = course
        self._session = course.session
        self._journal = course.journal
        self._item = item
        self._entry = entry
        self._found_id = found_id
        self._fingerprint = fingerprint
        self._account = Account(course.budget, entry.cost_usd or _NOTHING, entry.unstated_usd)
        #: None if an earlier run had it accepted.
        self._sending: Sending | None = None
        if is_again or entry.state is State.PLANNED:
            self._sending = Sending(course, item.request, entry, self._account, fingerprint)
        #: True if a file of its name may be its own, which nobody wrote down.
        self._may_be_saved = entry.may_be_saved
        #: True if its file is gone: it is fetched again, and stays saved whatever comes of that.
        self._is_lost = entry.state is State.SAVED
        #: True if only its link is told again: it stays ready whatever comes of that. A job that is
        #: dropped after a day may have been heard of, and is bought again by nobody's mere retry;
        #: one whose video was to be delivered may have been so.
        self._is_told_again = entry.state is State.READY and (
            course.settings.out is None or entry.is_delivered
        )
        self._polls_before = entry.polls
        #: When the create was.
        self._began = current_time()
        self._video: Video | None = None

    async def outcome(self) -> Outcome:
        """Return what became of the item. Raises nothing but a cancellation."""
        entry, sending = self._entry, self._sending
        error: Exception | None = None
        try:
            if sending is not None:
                await sending.run()
                self._began = sending.accepted_at
            elif entry.open_usd:
                self._account.begin()
            if self._is_lost:
                await self._fetch_again()
            else:
                await self._finish()
        except Closed:
            error = self._course.gate.error
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
            self._tell_money()
            self._account.close()
        if sending is not None and sending.is_as_before:
            error = not_sent_again(entry, str(error or self._course.stopped))
        is_changed = entry.state is not State.PLANNED and entry.fingerprint != self._fingerprint
        if self._is_told_again and entry.was_told and isinstance(error, JobExpired | JobFailed):
            # Delivered elsewhere and told as done: that the provider keeps it no longer is no news.
            return earlier_outcome(entry, is_changed=is_changed)
        done = entry.state is State.READY and error is None
        state = OutcomeState.DONE if done else self._called(error)
        return entry.outcome(state, video=self._video, error=error, is_changed=is_changed)

    def _called(self, error: Exception | None) -> OutcomeState:
        if not (self._is_lost or self._is_told_again) or error is None:
            return _CALLED[self._entry.state]
        gone = isinstance(error, JobExpired | JobFailed)
        # It is asked for again, and a link that was never told may come back.
        gone = gone or (self._is_lost and isinstance(error, NotFound))
        return OutcomeState.EXPIRED if gone else OutcomeState.UNFETCHED

    # --- waiting and fetching --------------------------------------------------------------------

    async def _finish(self) -> None:
        """The video is rendered, and saved where there is a folder for it."""
        entry = self._entry
        request_id = self._found_id or entry.request_id
        assert request_id is not None  # noqa: S101 - for the type checker: it was accepted
        age = 0.0
        if self._sending is None:
            began_at = entry.accepted_at if self._found_id is None else None
            # Wall clocks of two processes: never nothing, because that means "made just now".
            age = max(1e-3, time.time() - (began_at or entry.sent_at or math.inf))
            self._began -= age
        poller = Poller(
            self._session,
            request_id,
            self._item.request,
            age=age,
            # As it was begun: an address that the manifest has lost makes no job a failure.
            is_delivered=entry.is_delivered,
        )
        deadline = Deadline.after(current_time(), self._course.settings.timeout)
        try:
            if self._found_id is not None:
                await self._take_id(self._found_id, poller, deadline)
            self._video = video = await poller.wait(deadline)
            self._note_cost(video.cost_usd)
            if not self._is_lost and (self._course.settings.out is None or video.url is None):
                if entry.state is not State.READY or entry.seconds is None:
                    entry.seconds = current_time() - self._began
                entry.polls = self._polls_before + poller.polls
                entry.is_elsewhere = video.url is None
                await write_down(self._course, entry, Event.RENDERED)
            else:
                if not self._is_lost:
                    self._journal.note(entry, Event.RENDERED)
                self._is_told_again = False  # it is fetched as any other
                await self._fetch(poller, video)
        finally:
            entry.polls = self._polls_before + poller.polls

    async def _fetch_again(self) -> None:
        """The file of a saved item is here once more; nothing is ever sent for that."""
        entry, overwrite = self._entry, self._course.settings.overwrite
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
            # came to its place since is somebody's. (A part beside it says nothing: it may be that
            # of a run that died while it compared.)
            self._video = video = await save(
                poller,
                video,
                self._place(),
                overwrite=self._course.settings.overwrite,
                adopt=self._may_be_saved,
                sha256=self._course.settings.sha256,
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
        await write_down(self._course, entry, Event.SAVED)

    def _place(self) -> Path:
        return self._course.place(self._entry.key)

    # --- what went wrong -------------------------------------------------------------------------

    async def _note(self, failure: Exception) -> None:
        """Write down what a failure means for the item, with its words."""
        entry, sending = self._entry, self._sending
        if isinstance(failure, JobFailed | JobExpired) and failure.snapshot is not None:
            self._note_end(failure.snapshot)
        if isinstance(failure, AuthenticationError) or is_full(failure):
            self._course.stop(str(failure), failure if isinstance(failure, APIError) else None)
        if isinstance(failure, LedgerError):
            self._course.fail(failure)
            return
        say_what_to_do(failure, entry)
        if self._is_lost or self._is_told_again:
            return
        if sending is not None and sending.is_as_before:
            return
        entry.fail(failure)
        entry.seconds = current_time() - self._began if entry.request_id else None
        for event in meaning(failure, entry.state, lost=sending is not None and sending.is_lost):
            if event is Event.NOT_TAKEN and sending is not None:
                sending.take_back()
            else:
                await write_down(self._course, entry, event)

    # --- money -----------------------------------------------------------------------------------

    def _note_cost(self, cost_usd: Decimal | None) -> None:
        """The provider has said what the item's last create costs, if it has; once for each."""
        # A job taken up when it was ready may have named its price in an earlier run.
        if cost_usd is not None and self._entry.open_usd:
            self._entry.charge(cost_usd)
            self._tell_money()

    def _note_end(self, snapshot: Snapshot) -> None:
        """The job ended without a video; what that costs is known, if it is."""
        reason = snapshot.error
        self._note_cost(reason.cost_usd if reason is not None else None)
        # What fails before it is rendered is not charged, as far as is known; of what moderation
        # held back, what has no link and what has expired it is not known (contract.md, section 5).
        is_plain = reason is not None and not (reason.moderated or reason.rendered)
        is_plain = is_plain and snapshot.status is JobStatus.FAILED
        if is_plain and self._entry.state is State.PENDING and self._entry.open_usd:
            self._entry.charge(None)

    def _tell_money(self) -> None:
        entry = self._entry
        self._account.tell(entry.cost_usd or _NOTHING, entry.unstated_usd)


_NOTHING: Final = Decimal(0)
