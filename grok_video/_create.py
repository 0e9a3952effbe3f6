"""One POST of a create: the money is spent here, and an id that was paid for is never thrown away.

Begun, it is finished even when its caller is cancelled, and what it means is told before anything
else happens. Whether it is sent again is decided in `_session`; the bytes are the transport's.
"""

from __future__ import annotations

import math
import time
from typing import TYPE_CHECKING, Final

from grok_video._errors import (
    APIConnectionError,
    APIError,
    APITimeoutError,
    CreateOutcomeUnknown,
    GrokVideoError,
    InvalidRequest,
    UnexpectedResponse,
    add_job_name,
    add_note,
    is_job_named,
    resume_hint,
    reword,
)
from grok_video._fingerprints import last_fingerprint, late_fingerprint
from grok_video._lifecycle import Event, meaning_of_failed_create
from grok_video._log import life, logger
from grok_video._threads import load_anyio
from grok_video._tracing import span
from grok_video._transports._base import transport_failed
from grok_video._transports._loops import current_time, ends_at, finish, is_cancellation, shield

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
    from typing import TypeAlias

    from grok_video._policies import Deadline
    from grok_video._requests import VideoRequest
    from grok_video._transports._base import Body

    #: Told of each step of a create before the next one is taken: (event, request_id).
    Record: TypeAlias = Callable[[Event, str | None], Awaitable[None]]

#: What stands on the cancellation of a create that was broken off before its last byte.
NOTHING_SENT: Final = "the create was broken off before it was sent whole: nothing was paid"
#: Seconds that a cancelled create goes on waiting for its answer: the slowest of 60 recorded
#: creates took 2.0 s, so 5 s find nearly every id and still let a process end.
CANCEL_GRACE: Final = 5.0


def log_unheard(request_id: str, error: BaseException | None = None) -> None:
    """Tell the log of a job that was accepted, unless the error that the caller gets names it."""
    if error is None or not is_job_named(error, request_id):
        logger.warning(
            "the call was broken off; job %s goes on and may be billed. %s",
            request_id,
            resume_hint(request_id),
        )


class Sending:
    """A body that knows how much of it a transport has been given, and can be withheld.

    Until that is all of it no server can have taken the create: it has less than the headers
    announce, and the last byte closes the document.
    """

    __slots__ = ("_body", "_is_watched", "given", "is_withheld")

    def __init__(self, body: Body, *, is_watched: bool) -> None:
        """See the class; `is_watched` is False for a transport that may send without asking."""
        self._body = body
        self._is_watched = is_watched
        #: Bytes that the transport was given, in all passes together.
        self.given: int = 0
        #: True once it is certain that the rest of it does not go out.
        self.is_withheld: bool = False

    @property
    def is_whole(self) -> bool:
        """True once a server may have all of it."""
        return not self._is_watched or self.given >= self._body.length

    def doubt(self) -> None:
        """A server has said yes before the end of it: nobody can tell what it has."""
        self._is_watched = False

    def withhold(self) -> bool:
        """Return whether no server can have all of it; then none ever will."""
        self.is_withheld = not self.is_whole
        return self.is_withheld

    @property
    def length(self) -> int:
        """Bytes, exactly."""
        return self._body.length

    def chunks(self) -> AsyncIterator[bytes]:
        """Return an iterator over the body from its beginning."""
        return _Watched(self, self._body.chunks())


class Withheld(Exception):
    """Nobody waits for this create any more: a transport may not send the rest of it."""


class _Watched:
    """One pass over a body: an object, as a generator would have to be closed."""

    __slots__ = ("_chunks", "_sending")

    def __init__(self, sending: Sending, chunks: AsyncIterator[bytes]) -> None:
        self._sending = sending
        self._chunks = chunks

    def __aiter__(self) -> _Watched:
        return self

    async def __anext__(self) -> bytes:
        sending = self._sending
        if sending.is_withheld:
            raise Withheld
        chunk = await self._chunks.__anext__()
        if sending.is_withheld:  # meanwhile
            raise Withheld
        sending.given += len(chunk)
        return chunk

    async def aclose(self) -> None:
        """Close the chunks, if they can be: those of a caller's own body may hold a file."""
        close = getattr(self._chunks, "aclose", None)
        if close is not None:
            await close()


class AttemptOutcome:
    """What one attempt at a create came to: an id, or a failure."""

    __slots__ = ("_fingerprint", "event", "failure", "request_id", "sent_at")

    def __init__(
        self,
        event: Event,
        *,
        request_id: str | None = None,
        failure: GrokVideoError | None = None,
        sent_at: float = 0.0,
    ) -> None:
        self.event = event
        self.request_id = request_id
        self.failure = failure
        #: When it was given to the transport, in seconds of the clock; 0 if it was not.
        self.sent_at = sent_at
        self._fingerprint = ""

    async def take_fingerprint(self, request: VideoRequest, known: str) -> None:
        """The hash of its request is known, as one whose answer was lost is told with it.

        It is `known` where that says something: as an item of a batch it may be another one.
        """
        self._fingerprint = known or await late_fingerprint(request)

    def fingerprint(self, request: VideoRequest) -> str:
        """Return the hash of its request, hashed here and now only where nobody could wait."""
        return self._fingerprint or last_fingerprint(request)

    @property
    def was_sent(self) -> bool:
        """True if it was given to the transport."""
        return self.sent_at > 0

    def as_error(
        self,
        request: VideoRequest,
        attempts: int,
        *,
        too_long: float | None = None,
        doubtful: Sequence[int] = (),
        then: Exception | None = None,
    ) -> GrokVideoError:
        """Return what the caller is told after so many attempts; `then` is what ended them.

        `too_long` is the server's wish in seconds, if it is that. `doubtful` are the numbers of
        those that may have been accepted, counted from 1.
        """
        failure = self.failure
        assert failure is not None  # noqa: S101 - for the type checker
        if self.event is Event.ANSWER_LOST:
            again = "Nothing was sent again."
            if len(doubtful) > 1:
                again = (
                    f"It was sent {len(doubtful)} times, and more than one may have been accepted."
                )
            elif attempts > doubtful[-1]:
                again = "What was sent again was not taken."
            error = _unknown(failure, self.fingerprint(request), self.sent_at, again)
            if then is not None and then is not failure:
                error.add_note(f"What ended the attempts after it: {then}")
            return error
        more = ""
        if attempts > 1:
            more = f" It was tried {attempts} times and never taken; nothing was created."
        elif isinstance(failure, APIError):
            more = " Nothing was created."
        if too_long is not None:
            more += f" The server asks to wait {too_long:g} s, longer than this call may."
        if more:
            reword(failure, f"{failure.message.rstrip('.')}.{more}")
        return failure


class Attempt:
    """One POST that ends with an answer, or with the knowledge that there is none.

    It runs in a task of its own: a cancelled caller waits for the answer, bounded, and then the
    cancellation goes on. What was learned is recorded before.
    """

    def __init__(
        self,
        request: VideoRequest,
        sending: Sending,
        post: Callable[[Sending], Awaitable[str]],
        record: Record | None,
        *,
        is_in_doubt: bool,
        fingerprint: str = "",
    ) -> None:
        """See the class; `post` sends the body once and returns the id.

        `fingerprint` is the hash of the request, if the caller has it. `is_in_doubt` if an attempt
        before it may have been accepted: then nothing that comes of this one means that nothing was
        paid.
        """
        self._request = request
        self._sending = sending
        self._post = post
        self._record = record
        self._is_in_doubt = is_in_doubt
        self._fingerprint = fingerprint
        #: What came of it as far as that is known, whether `run` returned it or not.
        self.outcome: AttemptOutcome | None = None
        self._sent_at = 0.0
        #: True once nobody waits for it any more.
        self._is_unwanted = False
        self._within = "the time of this call"
        #: What `record` raised, and whether it has heard what came of this attempt.
        self._unrecorded: Exception | None = None
        self._told = False

    @property
    def _was_not_taken(self) -> bool:
        return self.outcome is not None and self.outcome.event is Event.NOT_TAKEN

    async def run(self, until: Deadline, timeout: float) -> AttemptOutcome:
        """Return what came of it, at `until` and its grace at the latest.

        `timeout` is seconds after which `post` has ended by itself, infinity if nobody knows.
        Raises what `record` raised; a cancelled caller hears of its cancellation alone, and the log
        of the rest.
        """
        if until.timeout is not None:
            self._within = f"the {until.timeout:g} s of this call"
        try:
            if until.at == math.inf or current_time() + timeout < until.at:
                await finish(self._exchange, grace=self._grace)
            else:
                await load_anyio()
                with ends_at(until.at):
                    await finish(self._exchange, grace=self._grace)
        except BaseException as error:
            failure, self._unrecorded = self._unrecorded, None
            if failure is not error and not isinstance(error, Exception):
                self._log_untold(failure)
                if self._was_not_taken and not self._is_in_doubt:
                    add_note(error, NOTHING_SENT)
            raise
        failure, self._unrecorded = self._unrecorded, None
        if failure is not None:  # in the grace after the deadline
            raise failure
        self._log_untold(None)
        if self.outcome is None:
            self.outcome = self._silence()
            await self.outcome.take_fingerprint(self._request, self._fingerprint)
        return self.outcome

    def _silence(self) -> AttemptOutcome:
        silence = APITimeoutError(
            f"no answer within {self._within}, nor in the {CANCEL_GRACE:g} s after",
            may_have_been_sent=True,
        )
        return AttemptOutcome(Event.ANSWER_LOST, failure=silence, sent_at=self._sent_at)

    def _grace(self) -> float:
        """The seconds for which an answer is waited for by a caller that was cancelled just now.

        0 where no server can have it. A beginning that is still being recorded has them, too.
        """
        self._is_unwanted = True
        # A transport may write in a task of its own, which this cancellation reaches too late.
        return 0.0 if self._sent_at and self._sending.withhold() else CANCEL_GRACE

    async def _exchange(self) -> None:
        await self._begin()
        if self._is_unwanted:
            await self._note_unsent()
            return
        self._sent_at = time.time()
        try:
            with span("create", model=self._request.model) as told:
                request_id = await self._post(self._sending)
                told.note(request_id=request_id)
        except (APIError, APIConnectionError, InvalidRequest) as failure:
            if self._sending.is_withheld:
                await self._note_unsent()
                return
            if self._sending.withhold():
                _take_for_unsent(failure)
            event = meaning_of_failed_create(failure)
            # Without its frames, which hold what the server said before it was redacted.
            failure = failure.with_traceback(None)
            await self._note_end(AttemptOutcome(event, failure=failure, sent_at=self._sent_at))
        except GrokVideoError:
            raise  # what stands in the way of sending
        except Exception as error:
            if self._sending.withhold():
                await self._note_unsent()
                raise
            broken = transport_failed(error)
            lost = AttemptOutcome(Event.ANSWER_LOST, failure=broken, sent_at=self._sent_at)
            await self._note_end(lost)
        except BaseException as error:
            if is_cancellation(error):
                with shield():
                    await self._note_broken_off()
            raise
        else:
            self.outcome = AttemptOutcome(
                Event.ACCEPTED, request_id=request_id, sent_at=self._sent_at
            )
            try:
                await self._note(Event.ACCEPTED, request_id)
            except BaseException as error:
                if not add_job_name(error, request_id):
                    log_unheard(request_id)
                raise
            finally:
                # After the record, as a program's handlers may take their time.
                life.info("job %s was accepted (%s)", request_id, self._request.model)

    async def _begin(self) -> None:
        try:
            await self._note(Event.SENDING_BEGAN, None)
        except BaseException as error:
            if is_cancellation(error):
                # It may be recorded by now, and would be told as a create without an answer. What
                # hung once may hang again, and is waited for no longer than an answer.
                with shield():
                    await load_anyio()
                    with ends_at(current_time() + CANCEL_GRACE):
                        await self._note_unsent()
            raise

    async def _note_broken_off(self) -> None:
        if self._sending.is_withheld:
            await self._note_unsent()
            return
        self.outcome = self._silence()
        await load_anyio()
        with ends_at(current_time() + CANCEL_GRACE):  # nobody waits any longer for a record
            await self._note_end(self.outcome)

    async def _note_unsent(self) -> None:
        problem = f"no connection to the API came about within {self._within}; nothing was sent"
        if not self._sent_at:
            problem = f"its beginning was not recorded within {self._within}; nothing was sent"
        elif self._sending.given:
            problem = f"it could not be sent whole within {self._within}; nothing was created"
        failure = APITimeoutError(problem, may_have_been_sent=False)
        await self._note_end(
            AttemptOutcome(Event.NOT_TAKEN, failure=failure, sent_at=self._sent_at)
        )

    async def _note_end(self, outcome: AttemptOutcome) -> None:
        """The attempt has come to this, without an id."""
        self.outcome = outcome
        try:
            await self._note(outcome.event, None)
        finally:
            if outcome.event is Event.ANSWER_LOST:
                await outcome.take_fingerprint(self._request, self._fingerprint)

    async def _note(self, event: Event, request_id: str | None) -> None:
        if self._record is not None:
            try:
                await self._record(event, request_id)
            except Exception as error:
                self._unrecorded = error
                raise
        self._told = event is not Event.SENDING_BEGAN

    def _log_untold(self, failure: Exception | None) -> None:
        """Log what came of a create that was begun, if `record` failed or was cut off with it."""
        outcome = self.outcome
        if self._told or (outcome is None and not self._sent_at):
            return
        end = "has no id"
        if outcome is not None and outcome.request_id is not None:
            end = f"was accepted. {resume_hint(outcome.request_id)}"
        elif outcome is not None and outcome.event is Event.ANSWER_LOST:
            end = "may have been accepted and billed, and has no id"
        elif self._was_not_taken:
            end = "was not taken" + ("" if self._is_in_doubt else ", and nothing was created")
        logger.error(
            "what came of a create could not be recorded%s: it %s",
            "" if failure is not None else f" within {CANCEL_GRACE:g} s",
            end,
            exc_info=failure,
        )


def _take_for_unsent(failure: GrokVideoError) -> None:
    """Have the failure of a create that was never sent whole say that no job was made."""
    if isinstance(failure, APIConnectionError) and failure.may_have_been_sent:
        failure.may_have_been_sent = False
        # Whoever answers before the end and closes is often not heard: httpx on asyncio drops what
        # has come as soon as a write fails.
        reword(
            failure,
            f"{failure.message}; it was not sent whole, and nothing was created (it may have been "
            "refused early, for its size or the key)",
        )
    elif isinstance(failure, APIError) and failure.status >= 300:
        failure.refused = True


def _unknown(
    failure: GrokVideoError, fingerprint: str, sent_at: float, again: str
) -> CreateOutcomeUnknown:
    status = possible_id = None
    if isinstance(failure, APIError):
        status, possible_id = failure.status, failure.possible_id
    if possible_id is not None:
        again += (
            f" The answer names the id {possible_id!r}: if it is the job's and not just a trace, "
            "a poll of it will say so."
        )
    phase = (
        "reading the answer" if isinstance(failure, UnexpectedResponse) else "awaiting the answer"
    )
    error = CreateOutcomeUnknown(
        f"the create may have been accepted and billed, and no request_id is known: "
        f"{failure.message.rstrip('.')}. {again} Look at the account's usage before sending the "
        "same request again.",
        fingerprint=fingerprint,
        sent_at=sent_at,
        phase=phase,
        status=status,
    )
    error.possible_id = possible_id
    error.__cause__ = failure
    return error
