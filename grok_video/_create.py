"""One POST of a create: the money is spent here, and an id that was paid for is never thrown away.

Begun, it is finished even when its caller is cancelled, and what it means is told before anything
else happens. Whether it is sent again is decided in `_session`; the bytes are the transport's.
"""

from __future__ import annotations

import logging
import math
import time
from typing import TYPE_CHECKING, Final

import anyio

from grok_video._errors import (
    APIConnectionError,
    APIError,
    APITimeoutError,
    CreateOutcomeUnknown,
    GrokVideoError,
    InvalidRequest,
    UnexpectedResponse,
    name_job,
    names_job,
    resume_hint,
    reword,
)
from grok_video._lifecycle import Event, meaning_of_failed_create
from grok_video._tracing import span
from grok_video._transports._loops import current_time, ends_at, finish

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable
    from typing import TypeAlias

    from grok_video._policies import Deadline
    from grok_video._requests import VideoRequest

    #: Told of each step of a create before the next one is taken: (event, request_id).
    Record: TypeAlias = Callable[[Event, str | None], Awaitable[None]]

#: Seconds that a cancelled create goes on waiting for its answer: the slowest of 60 recorded
#: creates took 2.0 s, so 5 s find nearly every id and still let a process end.
CANCEL_GRACE: Final = 5.0

_log: Final = logging.getLogger("grok_video")


def log_unheard(request_id: str, error: BaseException | None = None) -> None:
    """Tell the log of a job that was accepted, unless the error that the caller gets names it."""
    if error is None or not names_job(error, request_id):
        _log.warning(
            "the call was broken off; job %s goes on and may be billed. %s",
            request_id,
            resume_hint(request_id),
        )


class AttemptOutcome:
    """What one attempt at a create came to: an id, or a failure."""

    __slots__ = ("event", "failure", "request_id", "sent_at")

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
        self.sent_at = sent_at

    def as_error(
        self,
        request: VideoRequest,
        attempts: int,
        delay: float | None,
        *,
        then: Exception | None = None,
    ) -> GrokVideoError:
        """Return what the caller is told after so many attempts; `then` is what ended them."""
        failure = self.failure
        assert failure is not None  # noqa: S101 - for the type checker
        if self.event is Event.ANSWER_LOST:
            error = _unknown(failure, request, self.sent_at, attempts)
            if then is not None and then is not failure:
                error.add_note(f"What ended the attempts after it: {then}")
            return error
        wish = failure.retry_after if isinstance(failure, APIError) else None
        more = ""
        if wish is not None and (delay is not None or attempts == 1):
            more = (
                f" The server asks to wait {wish:g} s, longer than this call may: nothing was "
                "created, and it was not sent again."
            )
        elif attempts > 1:
            more = f" It was tried {attempts} times and never taken; nothing was created."
        elif self.event is Event.REFUSED and isinstance(failure, APIError):
            more = " Nothing was created."
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
        post: Callable[[], Awaitable[str]],
        record: Record | None,
    ) -> None:
        """See the class; `post` sends the request once and returns the id."""
        self._request = request
        self._post = post
        self._record = record
        self._outcome: AttemptOutcome | None = None
        self._sent_at = 0.0
        #: What `record` raised, and whether it has heard what came of a request that was sent.
        self._unrecorded: Exception | None = None
        self._told = False

    @property
    def was_sent(self) -> bool:
        """True once its first byte may have gone out."""
        return self._sent_at > 0

    @property
    def request_id(self) -> str | None:
        """The id, once there is one."""
        return self._outcome.request_id if self._outcome is not None else None

    async def run(self, until: Deadline, timeout: float) -> AttemptOutcome:
        """Return what came of it, at `until` and its grace at the latest.

        `timeout` is seconds after which `post` has ended by itself, infinity if nobody knows.
        Raises what `record` raised; a cancelled caller hears of its cancellation alone, and the log
        of the rest.
        """
        try:
            if until.at == math.inf or current_time() + timeout < until.at:
                await finish(self._exchange, grace=CANCEL_GRACE)
            else:
                with ends_at(until.at):
                    await finish(self._exchange, grace=CANCEL_GRACE)
        except BaseException as error:
            failure, self._unrecorded = self._unrecorded, None
            if failure is not error and not isinstance(error, Exception):
                self._log_untold(failure)
            raise
        failure, self._unrecorded = self._unrecorded, None
        if failure is not None:  # in the grace after the deadline
            raise failure
        self._log_untold(None)
        if self._outcome is None:
            silence = APITimeoutError(
                f"no answer within the {until.timeout:g} s of this call, nor in the "
                f"{CANCEL_GRACE:g} s after",
                may_have_been_sent=True,
            )
            self._outcome = AttemptOutcome(
                Event.ANSWER_LOST, failure=silence, sent_at=self._sent_at
            )
        return self._outcome

    async def _exchange(self) -> None:
        await self._note(Event.SENDING_BEGAN, None)
        self._sent_at = time.time()
        try:
            with span("create", model=self._request.model) as told:
                request_id = await self._post()
                told.note(request_id=request_id)
        except (APIError, APIConnectionError, InvalidRequest) as failure:
            event = meaning_of_failed_create(failure)
            # Without its frames, which hold what the server said before it was redacted.
            failure = failure.with_traceback(None)
            self._outcome = AttemptOutcome(event, failure=failure, sent_at=self._sent_at)
            await self._note(event, None)
        except anyio.get_cancelled_exc_class():
            _log.error(
                "a create was cancelled and its answer did not come within %g s: it may have "
                "been accepted and billed (request %s)",
                CANCEL_GRACE,
                self._request.fingerprint()[:12],
            )
            with anyio.CancelScope(shield=True):
                await self._note(Event.ANSWER_LOST, None)
            raise
        else:
            self._outcome = AttemptOutcome(Event.ACCEPTED, request_id=request_id)
            _log.debug("create accepted: job %s", request_id)
            try:
                await self._note(Event.ACCEPTED, request_id)
            except BaseException as error:
                if not name_job(error, request_id):
                    log_unheard(request_id)
                raise

    async def _note(self, event: Event, request_id: str | None) -> None:
        if self._record is not None:
            try:
                await self._record(event, request_id)
            except Exception as error:
                self._unrecorded = error
                raise
        self._told = event is not Event.SENDING_BEGAN

    def _log_untold(self, failure: Exception | None) -> None:
        """Log what came of a request that was sent, if `record` failed or was cut off with it."""
        if self._told or not self._sent_at:
            return
        accepted = self.request_id
        _log.error(
            "what came of a create could not be recorded%s: it %s",
            "" if failure is not None else f" within {CANCEL_GRACE:g} s",
            f"was accepted. {resume_hint(accepted)}" if accepted is not None else "has no id",
            exc_info=failure,
        )


def _unknown(
    failure: GrokVideoError, request: VideoRequest, sent_at: float, attempts: int
) -> CreateOutcomeUnknown:
    again = "Nothing was sent again."
    if attempts > 1:
        again = f"It was sent {attempts} times, and more than one may have been accepted."
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
        fingerprint=request.fingerprint(),
        sent_at=sent_at,
        phase=phase,
        status=status,
    )
    error.possible_id = possible_id
    error.__cause__ = failure
    return error
