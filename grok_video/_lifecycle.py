"""The states of a job and the events that move it: one table, and the only one.

Every rule about what may follow what stands in `_TABLE`; no other module decides it. There is no
clock and no I/O here, so a life can be replayed from its events: the ledger is a list of events,
and recovery is `reduce(advance, events, State.PLANNED)`.

What a failed create means stands here too, for the same reason (`meaning_of_failed_create`), and
what a failed poll does (`passes_until`).

The state that the whole package exists for is IN_DOUBT: the create may have reached the server and
its answer is not known. A process that dies between sending and hearing comes back in doubt, never
in PLANNED, so that nothing is sent twice unless a person says so.
"""

from __future__ import annotations

import enum
import math
from typing import Final

from grok_video._errors import (
    APIConnectionError,
    APIError,
    BadRequest,
    GrokVideoError,
    InvalidRequest,
    NotFound,
    RateLimited,
    ServerError,
    UnexpectedResponse,
)

__all__ = [
    "Event",
    "IllegalEvent",
    "State",
    "advance",
    "diagram",
    "is_unknown",
    "meaning_of_failed_create",
    "passes_until",
]


#: Seconds for which a fresh id may answer task_not_exist (contract.md, section 4: wait a few
#: seconds and poll again; within about 30 s of the create).
_NOT_EXIST_GRACE: Final = 30.0


class State(enum.StrEnum):
    """Where a job is, seen from this side."""

    PLANNED = "planned"  #: nothing was sent
    SUBMITTING = "submitting"  #: a create is on its way
    PENDING = "pending"  #: accepted: the request_id is known, the video is not ready
    READY = "ready"  #: the video exists at a temporary link
    FETCHING = "fetching"  #: its file is being copied
    SAVED = "saved"  #: its file is here, whole
    FAILED = "failed"  #: refused, or ended without a video
    EXPIRED = "expired"  #: the provider dropped it before it was fetched
    IN_DOUBT = "in_doubt"  #: may have been accepted and billed; no id is known

    @property
    def is_final(self) -> bool:
        """True when no event of the wire leads on; a person may still act on it."""
        return self in _FINAL


_FINAL: Final = frozenset({State.SAVED, State.FAILED, State.EXPIRED, State.IN_DOUBT})


class Event(enum.StrEnum):
    """What happened, in the past tense."""

    SENDING_BEGAN = "sending_began"
    NOT_TAKEN = "not_taken"  #: certainly not sent, or clearly refused for a passing reason
    REFUSED = "refused"  #: clearly refused for good
    ANSWER_LOST = "answer_lost"  #: sent, and no readable answer came
    ACCEPTED = "accepted"
    RENDERED = "rendered"
    ENDED_WITHOUT_VIDEO = "ended_without_video"
    LAPSED = "lapsed"  #: the provider says expired
    TOLD = "told"  #: somebody was told its link and asked for more: without a folder, all there is
    FETCHING_BEGAN = "fetching_began"
    FETCHING_BROKE = "fetching_broke"
    SAVED = "saved"
    INTERRUPTED = "interrupted"  #: the process died here and came back
    ID_FOUND = "id_found"  #: a person found the request_id of a job in doubt
    RELEASED = "released"  #: a person says: send it (again)


_TABLE: Final[dict[tuple[State, Event], State]] = {
    # sending
    (State.PLANNED, Event.SENDING_BEGAN): State.SUBMITTING,
    (State.PLANNED, Event.REFUSED): State.FAILED,  # by this side, before anything was sent
    (State.SUBMITTING, Event.NOT_TAKEN): State.PLANNED,
    (State.SUBMITTING, Event.REFUSED): State.FAILED,
    (State.SUBMITTING, Event.ACCEPTED): State.PENDING,
    (State.SUBMITTING, Event.ANSWER_LOST): State.IN_DOUBT,
    (State.SUBMITTING, Event.INTERRUPTED): State.IN_DOUBT,
    (State.SUBMITTING, Event.LAPSED): State.EXPIRED,  # sent again, not taken: as it was before
    # waiting
    (State.PENDING, Event.RENDERED): State.READY,
    (State.PENDING, Event.ENDED_WITHOUT_VIDEO): State.FAILED,
    (State.PENDING, Event.LAPSED): State.EXPIRED,
    (State.PENDING, Event.INTERRUPTED): State.PENDING,
    (State.PENDING, Event.ID_FOUND): State.PENDING,  # in place of an id found before
    # fetching
    (State.READY, Event.RENDERED): State.READY,  # a fresh link
    (State.READY, Event.TOLD): State.READY,
    (State.READY, Event.FETCHING_BEGAN): State.FETCHING,
    (State.READY, Event.LAPSED): State.EXPIRED,
    (State.READY, Event.ENDED_WITHOUT_VIDEO): State.FAILED,  # providers do change their mind
    (State.READY, Event.INTERRUPTED): State.READY,
    (State.FETCHING, Event.FETCHING_BROKE): State.READY,
    (State.FETCHING, Event.INTERRUPTED): State.READY,
    (State.FETCHING, Event.LAPSED): State.EXPIRED,
    (State.FETCHING, Event.SAVED): State.SAVED,
    # Its file was gone. It stays saved meanwhile: whatever becomes of the link, it is paid for.
    (State.SAVED, Event.SAVED): State.SAVED,
    # a person decides
    (State.IN_DOUBT, Event.ID_FOUND): State.PENDING,
    (State.IN_DOUBT, Event.RELEASED): State.PLANNED,
    (State.FAILED, Event.RELEASED): State.PLANNED,
    (State.EXPIRED, Event.RELEASED): State.PLANNED,
}


class IllegalEvent(GrokVideoError):
    """An event that cannot happen in this state: a defect of the caller; nothing was changed."""


def advance(state: State, event: Event) -> State:
    """Return the state after `event`. Raises `IllegalEvent` if the table has no such row."""
    try:
        return _TABLE[state, event]
    except KeyError:
        message = f"a job that is {state.value} cannot be told {event.value}"
        raise IllegalEvent(message) from None


def meaning_of_failed_create(failure: Exception) -> Event:
    """Return what became of a create that failed like this: the money rule, and the only one.

    `NOT_TAKEN` where it certainly was not sent, or was clearly refused for a reason that passes: it
    may be sent again. `REFUSED` where it was clearly refused for good. `ANSWER_LOST` for all else:
    it may have been accepted and billed, and nothing sends it again unless a person says so.
    """
    match failure:
        case InvalidRequest():
            return Event.REFUSED  # the picture changed while it was sent: nobody had it whole
        case APIConnectionError(may_have_been_sent=False):
            return Event.NOT_TAKEN
        case RateLimited(refused=True) | ServerError(refused=True):
            return Event.NOT_TAKEN
        case APIError(refused=True):
            return Event.REFUSED
        case _:
            return Event.ANSWER_LOST


def passes_until(error: GrokVideoError) -> float:
    """Return the age of a job at which the failure of a poll says something about it.

    Before, it passes, and the job is polled again. The age is seconds since the create, or since
    the handle was made.
    """
    if is_unknown(error):
        return _NOT_EXIST_GRACE
    match error:
        case BadRequest(status=400, body="") | NotFound(status=404, body=""):
            return _NOT_EXIST_GRACE  # without a word: it may be the same
        case APIConnectionError() | RateLimited() | ServerError():
            is_passing = True
        case UnexpectedResponse():
            # A broken document passes, and so does a 5xx too large to read; a redirect or a wrong
            # path stays what it is.
            is_passing = 200 <= error.status < 300 or error.status >= 500
        case NotFound():
            is_passing = error.status >= 500  # no channel at this moment
        case _:
            is_passing = False
    return math.inf if is_passing else 0.0


def is_unknown(error: GrokVideoError) -> bool:
    """Return whether the API says that it knows no such job."""
    return isinstance(error, NotFound) and error.code == "task_not_exist"


def diagram() -> str:
    """Return the table as a Mermaid state diagram: the one in the README is this text."""
    lines = ["stateDiagram-v2", f"    [*] --> {State.PLANNED.value}"]
    lines += [
        f"    {state.value} --> {target.value}: {event.value}"
        for (state, event), target in _TABLE.items()
        if event is not Event.INTERRUPTED or target is not state
    ]
    lines += [f"    {state.value} --> [*]" for state in State if state in _FINAL]
    return "\n".join(lines)
