"""How an item of a batch gets its job: in the order of the manifest, for money that is there.

Each step asks the gate and the budget, tells the ledger first and does the effect after. What must
never happen here: a create before its beginning is on disk, and a second one for an item that may
have had one, unless a person says so; until that one goes, and where it is not taken, the item is
what it was.
"""

from __future__ import annotations

from decimal import Decimal
from typing import TYPE_CHECKING, Final

from grok_video import _download
from grok_video._budget import dollars, list_price
from grok_video._errors import CreateOutcomeUnknown, GrokVideoError, LedgerError, reword
from grok_video._gate import PATIENCE, Closed, NotYet, Turn, is_passing
from grok_video._lifecycle import Event, State
from grok_video._log import logger
from grok_video._transports._loops import current_time, ends_at

if TYPE_CHECKING:
    from grok_video._budget import Account
    from grok_video._course import Course
    from grok_video._create import Record
    from grok_video._entry import Entry
    from grok_video._requests import VideoRequest

__all__ = ["Sending", "write_down"]

#: What is written together with the beginning of a create, by the state that it is sent from: a
#: process that dies in between would come back as planned. (From "submitting" an answer was lost,
#: and the caller's `Retry` says to send again; from the others a person does.)
_BEFORE: Final = {
    State.PLANNED: (),
    State.SUBMITTING: (Event.ANSWER_LOST, Event.RELEASED),
    State.IN_DOUBT: (Event.RELEASED,),
    State.FAILED: (Event.RELEASED,),
    State.EXPIRED: (Event.RELEASED,),
}
_NOTHING: Final = Decimal(0)


class Sending:
    """The create of one item, from its turn at the money to an accepted job."""

    def __init__(
        self,
        course: Course,
        request: VideoRequest,
        entry: Entry,
        account: Account,
        fingerprint: str,
    ) -> None:
        """See the class; it stands in line for the money from here on."""
        self._course = course
        self._request = request
        self._entry = entry
        self._account = account
        self._fingerprint = fingerprint
        self._price = list_price(request)
        self._place = course.line.place()
        self._is_again = entry.state is not State.PLANNED
        #: True once the answer of a create was lost: whatever comes of one that is sent after it,
        #: the item may have been accepted and billed, and only an id takes it out of doubt.
        self.is_lost = False
        #: Why what was lost is not sent again though the caller's `Retry` says so; None elsewhere.
        self._why_not_again: str | None = None
        #: True as long as an item that a person let be sent again is what it was before.
        self.is_as_before: bool = self._is_again
        #: When it was accepted.
        self.accepted_at = current_time()
        if not self._is_again:
            entry.describe(request, self._price, fingerprint)

    async def run(self) -> None:
        """The item is accepted. Raises `Closed` if no more are sent."""
        course = self._course
        try:
            if course.settings.out is not None:
                place = course.place(self._entry.key)
                await _download.check_destination(
                    place, overwrite=course.settings.overwrite, request_id=None
                )
            if course.budget.ceiling is not None:
                await self._place.first()
            await self._take_money()
        finally:
            self._place.leave()
        is_accepted = False
        while not is_accepted:
            await self._wait_for_polls()
            try:
                async with course.gate.turn() as turn:
                    is_accepted = await self._try(turn)
            except NotYet:
                continue

    def take_back(self) -> None:
        """The create on its way was certainly not taken: the item is what it was before it.

        One whose answer was lost before goes on as that: on disk it is "submitting", which a death
        turns into doubt, and how it ends is written with its words.
        """
        entry = self._entry
        event = entry.take_back()
        if not self.is_lost:
            self._course.journal.note(entry, event)
            self.is_as_before = self._is_again
        self._account.tell(entry.cost_usd or _NOTHING, entry.unstated_usd)
        self._account.hold(self._price)

    async def _take_money(self) -> None:
        """The price is held, as soon as it fits. Raises `Closed` if it never will."""
        course, budget = self._course, self._course.budget
        while course.gate.stopped is None and not budget.fits(self._price):
            if budget.may_still_fit:
                await course.news()
                continue
            # This one alone: what costs less may fit.
            self._leave_for_money()
            raise Closed
        if course.gate.stopped is not None:
            raise Closed
        self._account.begin()
        self._account.hold(self._price)

    def _leave_for_money(self) -> str:
        """The batch knows that this create could lead beyond the ceiling; return how."""
        course, too_dear = self._course, self._too_dear()
        course.left_for_money = course.left_for_money or too_dear
        return too_dear

    def _too_dear(self) -> str:
        budget = self._course.budget
        assert budget.ceiling is not None  # noqa: S101 - for the type checker: all fits without
        return (
            f"one more create (up to {dollars(self._price)}) could lead beyond max_cost_usd "
            f"({dollars(budget.ceiling)}): {dollars(budget.spent)} are spent, and up to "
            f"{dollars(budget.open)} more may be billed"
        )

    async def _wait_for_polls(self) -> None:
        """Return when a job created now could be followed. Raises `Closed` if no more are sent.

        The server may want no poll for so long that every wait would end at once: a place in the
        window would come free with each create, and nobody would follow what was paid for.
        """
        course = self._course
        while self._course.gate.stopped is None:
            now = current_time()
            until = course.unfollowed_until()
            if until <= now:
                return
            if until - now > PATIENCE:
                asked = self._course.session.polls_blocked_until() - now
                course.stop(
                    f"the server asks for no poll in the next {asked:.0f} s: a job created now "
                    f"could not be followed within its timeout ({course.settings.timeout:g} s)"
                )
                break
            with ends_at(until):
                await course.news()
        raise Closed

    async def _try(self, turn: Turn) -> bool:
        """Send, tell the gate how it went, and return whether it was accepted.

        Raises what does not pass; what does leaves the item as it was.
        """
        try:
            await self._send(turn)
        except GrokVideoError as error:
            if self._why_not_again is not None:
                self._say_why_not_again(error, self._why_not_again)
            if self._course.gate.failed(error, current_time(), alone=turn.alone):
                logger.warning(
                    "no create is accepted (%s); one is tried now and then, for %g minutes in all",
                    error.message,
                    PATIENCE / 60,
                )
            self._course.announce()  # the gate may have stopped
            if self._entry.state is State.SUBMITTING or not is_passing(error):
                raise
            return False
        self._course.gate.accepted()
        return True

    async def _send(self, turn: Turn) -> None:
        turn.may_be_called_back(now=True)
        try:
            with turn.scope:
                await self._course.session.create(
                    self._request, record=self._recorder(turn), fingerprint=self._fingerprint
                )
            if turn.scope.cancelled_caught:
                raise Closed
        finally:
            turn.may_be_called_back(now=False)

    def _recorder(self, turn: Turn) -> Record:
        entry, course = self._entry, self._course

        async def record(event: Event, request_id: str | None) -> None:
            if event is Event.SENDING_BEGAN:
                await self._begin(turn)
            elif event is Event.ACCEPTED:
                entry.request_id = request_id
                entry.fail(None)
                self.accepted_at = current_time()
                # Accepted; where it cannot be written down, it is fetched all the same.
                await write_down(course, entry, event)
                if course.journal.trouble is not None:
                    course.stop(course.journal.trouble)
            elif event is Event.ANSWER_LOST:
                # Not written yet: on disk it is "submitting", which a death turns into doubt.
                self.is_lost, self.is_as_before = True, False
            elif event is Event.NOT_TAKEN or (event is Event.REFUSED and entry.was_in_doubt):
                # (Refused for good, it leaves the one before it where it is: in doubt.)
                self.take_back()
                turn.may_be_called_back(now=not self.is_lost)
            # Any other becomes an error in a moment, and is noted with its words.

        return record

    async def _begin(self, turn: Turn) -> None:
        """The beginning is on disk and the create may go. Raises if not; nothing was sent then.

        An item whose last create was lost stays as it is if this one may not go: in doubt.
        """
        course, entry, account = self._course, self._entry, self._account
        has_begun = False
        try:
            turn.check()
            if self.is_lost:
                self._take_money_again()
            turn.may_be_called_back(now=False)
            if self._is_again:
                entry.describe(self._request, self._price, self._fingerprint)
            has_begun, self.is_as_before = True, False
            await course.journal.record(entry, *_BEFORE[entry.state], Event.SENDING_BEGAN)
            account.hold(_NOTHING)
            account.tell(entry.cost_usd or _NOTHING, entry.unstated_usd)
            # News may have come while the disk was busy.
            unfollowed = course.unfollowed_until()
            turn.check(blocked_until=max(course.session.creates_blocked_until(), unfollowed))
        except (Closed, NotYet, LedgerError) as refusal:
            if isinstance(refusal, LedgerError):
                course.fail(refusal)
            if has_begun:
                self.take_back()
            if self.is_lost:
                raise self._not_sent_again(refusal) from None
            raise

    def _take_money_again(self) -> None:
        """The price of one more create is held. Raises `CreateOutcomeUnknown` if it does not fit.

        What was lost may be billed, whatever becomes of the next one.
        """
        self._account.hold(_NOTHING)
        if not self._course.budget.fits(self._price):
            raise self._unknown(self._leave_for_money())
        self._account.hold(self._price)

    def _not_sent_again(self, refusal: Exception) -> CreateOutcomeUnknown:
        reason = "creates were held back when its turn came"
        if isinstance(refusal, Closed):
            reason = f"the batch sends no more: {self._course.stopped}"
        elif isinstance(refusal, LedgerError):
            reason = refusal.message
        return self._unknown(reason)

    def _unknown(self, reason: str) -> CreateOutcomeUnknown:
        self._why_not_again = reason.rstrip(".")
        return self._entry.unknown(
            "the create may have been accepted and billed, and no request_id is known: its answer "
            f"was lost. It was not sent again ({self._why_not_again})."
        )

    def _say_why_not_again(self, error: GrokVideoError, reason: str) -> None:
        """The session tells of the create that was lost, and has the reason in a note only.

        A note is not in the ledger, nor in what the command line says of an item.
        """
        reword(
            error,
            f"{error.message} Why it was not sent again: {reason}. With the id that the account "
            "shows give found_ids, or resubmit_in_doubt to send it again.",
        )


async def write_down(course: Course, entry: Entry, event: Event) -> None:
    """The event is on disk, or the batch knows that it cannot be; the item goes on."""
    try:
        await course.journal.record(entry, event)
    except LedgerError as error:
        course.fail(error)
