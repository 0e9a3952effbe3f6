"""The attempts at one create: how many were sent, and which of them may have been accepted.

What this is for: once an answer was lost, nothing that comes after it may be told as if nothing was
paid. One attempt is `_create`; whether there is another one, and when, is decided in `_session`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Self

from grok_video._errors import APITimeoutError, CreateOutcomeUnknown, RateLimited
from grok_video._lifecycle import Event, State, advance
from grok_video._log import logger

if TYPE_CHECKING:
    from grok_video._create import AttemptOutcome
    from grok_video._errors import GrokVideoError
    from grok_video._policies import Deadline
    from grok_video._requests import VideoRequest

__all__ = ["Attempts", "not_in_time", "too_long"]


class Attempts:
    """What came of a create so far.

    A context: where an error leaves it that does not tell of the answers that were lost, the log
    does.
    """

    __slots__ = ("_doubtful", "_last", "_lost", "_state", "fingerprint", "request", "sent")

    def __init__(self, request: VideoRequest, fingerprint: str = "") -> None:
        self.request: VideoRequest = request
        #: The hash that the request is known by, empty if that is its own.
        self.fingerprint: str = fingerprint
        self._state = State.PLANNED
        self._last: AttemptOutcome | None = None
        #: The last attempt that may have been accepted: no later one takes that back.
        self._lost: AttemptOutcome | None = None
        #: The numbers of all that may have been, counted from 1.
        self._doubtful: list[int] = []
        #: How many were given to the transport, and have ended.
        self.sent: int = 0

    def __enter__(self) -> Self:
        return self

    def __exit__(self, _: object, error: BaseException | None, __: object) -> None:
        # `CreateOutcomeUnknown` says it itself.
        if error is None or self._lost is None or isinstance(error, CreateOutcomeUnknown):
            return
        several = len(self._doubtful) > 1
        logger.error(
            "the call was broken off after %s whose answer was lost: %s may have been accepted and "
            "billed (request %s)",
            f"{len(self._doubtful)} creates" if several else "a create",
            "each" if several else "it",
            self._lost.fingerprint(self.request)[:12],
        )

    @property
    def is_in_doubt(self) -> bool:
        """True once one of them may have been accepted without an id."""
        return self._lost is not None

    @property
    def so_far(self) -> str:
        """What an error says that ends them before the next one."""
        if self._lost is not None:
            return "it was not sent once more"  # the error that this stands on tells the rest
        if not self.sent:
            return "nothing was sent"
        times = "once" if self.sent == 1 else f"{self.sent} times"
        return f"it was tried {times} and never taken, nothing was created"

    def begin(self) -> None:
        """The next one begins."""
        if self._state is State.IN_DOUBT:
            self._state = advance(self._state, Event.RELEASED)  # the caller said so in `Retry`
        self._state = advance(self._state, Event.SENDING_BEGAN)

    def end(self, outcome: AttemptOutcome) -> None:
        """The one that began last came to this."""
        self._state = advance(self._state, outcome.event)
        self._last = outcome
        self.sent += outcome.was_sent
        if outcome.event is Event.ANSWER_LOST:
            self._lost = outcome
            self._doubtful.append(self.sent)

    @property
    def failure(self) -> GrokVideoError | None:
        """Why the last one failed, if one did."""
        return self._last.failure if self._last is not None else None

    def unknown(self, then: Exception) -> GrokVideoError:
        """Return what the caller is told of those in doubt, where `then` has ended the attempts."""
        assert self._lost is not None  # noqa: S101 - for the type checker
        return self._lost.as_error(self.request, self.sent, doubtful=self._doubtful, then=then)

    def error(self, too_long: float | None) -> GrokVideoError:
        """Return what the caller is told if there is no next one.

        `too_long` are the seconds that the server asks to wait, if that is why.
        """
        last = self._last
        assert last is not None  # noqa: S101 - for the type checker
        return (self._lost or last).as_error(
            self.request,
            self.sent,
            too_long=too_long,
            doubtful=self._doubtful,
            then=last.failure,
        )


def not_in_time(problem: str, until: Deadline, so_far: str) -> APITimeoutError:
    """Return what a create is told whose call was over before it could be sent."""
    return APITimeoutError(
        f"{problem} within the {until.timeout:g} s of this call; {so_far}",
        may_have_been_sent=False,
    )


def too_long(delay: float, so_far: str) -> RateLimited:
    """Return what a create is told that would have its turn too late."""
    return RateLimited(
        f"the next create may start in {delay:.1f} s (the server's Retry-After, or the limits of "
        f"this client), and this call may not wait that long; {so_far}.",
        status=429,
        retry_after=delay,
    )
