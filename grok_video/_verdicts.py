"""What a failure means for one item of a batch: events for the ledger, and words for a person.

No clock, no I/O and no state: a failure and what the ledger has go in, an answer comes out.
"""

from __future__ import annotations

import errno
from typing import TYPE_CHECKING, Final

from grok_video._errors import (
    BadRequest,
    ConfigurationError,
    CreateOutcomeUnknown,
    DestinationError,
    DownloadError,
    GrokVideoError,
    JobError,
    JobExpired,
    JobFailed,
    JobTimeout,
    NotFound,
    reword,
    without_hint,
)
from grok_video._gate import is_of_the_account
from grok_video._lifecycle import Event, State, meaning_of_failed_create

if TYPE_CHECKING:
    from grok_video._entry import Entry


def meaning(failure: Exception, state: State, *, lost: bool) -> tuple[Event, ...]:
    """Return what a failure in this state makes of the item; nothing where it can go on later."""
    match state:
        case State.PLANNED:
            # A folder may come back, and a file in the place of a video be moved away, or replaced
            # by a person's word: for that one word nothing that failed should be sent again.
            passing = isinstance(failure, ConfigurationError | DestinationError)
            return () if passing else (Event.REFUSED,)
        case State.SUBMITTING:
            return (Event.ANSWER_LOST if lost else _meaning_of_create(failure),)
        case State.PENDING | State.READY:
            return _ending(failure)
        case State.FETCHING:
            if isinstance(failure, JobExpired):
                return (Event.LAPSED,)
            return (Event.FETCHING_BROKE, *_ending(failure))
        case _:
            return ()


def _meaning_of_create(failure: Exception) -> Event:
    event = meaning_of_failed_create(failure)
    # Refused because of the account, the item itself may be sent again when that is mended.
    passing = event is Event.REFUSED and is_of_the_account(failure)
    return Event.NOT_TAKEN if passing else event


def _ending(failure: Exception) -> tuple[Event, ...]:
    if isinstance(failure, JobFailed):
        return (Event.ENDED_WITHOUT_VIDEO,)
    return (Event.LAPSED,) if isinstance(failure, JobExpired) else ()


def unproven(
    found_id: str, entry: Entry, error: NotFound | BadRequest | JobError
) -> CreateOutcomeUnknown:
    """Return the error of a found id that the API did not show to know; nothing came of it."""
    # A wait that ended says of a job that it goes on, and here it is not known to be one.
    last = error.__cause__ if isinstance(error, JobTimeout) else error
    unknown = isinstance(last, NotFound | BadRequest)
    reason = "no answer came in time"
    if isinstance(last, GrokVideoError):
        reason = without_hint(last.message, found_id).rstrip(".")
    problem = "does not know" if unknown else "did not say that it knows"
    kept = f"the item keeps the id {entry.request_id!r}"
    if entry.request_id is None:
        kept = "the create is in doubt as before, and may have been accepted and billed"
    return entry.unknown(
        f"the API {problem} the job {found_id!r}, which found_ids gives for this item: {reason}. "
        f"Nothing was sent, and {kept}. Look at the account's usage for its request_id, and give "
        "that with found_ids."
    )


def say_what_to_do(failure: Exception, entry: Entry) -> None:
    """A job that the API does not know any more is told with what a person can do about it."""
    is_known = entry.state in (State.PENDING, State.READY, State.FETCHING)
    if isinstance(failure, NotFound) and is_known:
        fate = "its video is lost: give"
        if entry.is_delivered:
            fate = "look whether its video is at its upload_url. Only if it is not, give"
        reword(
            failure,
            f"{failure.message} The item goes on with this job, and the next run asks again. If "
            f"the account's usage has no such job, {fate} its request another key for a new one, "
            "which is paid for once more.",
        )


#: Full, not to be written, or with files of fewer bytes than a video has (`ulimit -f`).
_FULL: Final = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EFBIG})


def is_full(failure: Exception) -> bool:
    """Return whether no video at all can be saved any more."""
    if not isinstance(failure, DownloadError):
        return False
    cause = failure.__cause__
    return isinstance(cause, OSError) and cause.errno in _FULL
