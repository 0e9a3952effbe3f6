"""What a failure makes of one item of a batch, in each of its states."""

from __future__ import annotations

import errno
from functools import reduce

import pytest

from grok_video import (
    APIConnectionError,
    AuthenticationError,
    BadRequest,
    ConfigurationError,
    CreateOutcomeUnknown,
    DestinationError,
    DownloadError,
    GrokVideoError,
    InsufficientBalance,
    InvalidRequest,
    JobExpired,
    JobFailed,
    JobTimeout,
    LinkExpired,
    ModerationRefused,
    NotFound,
    PermissionDenied,
    RateLimited,
    ServerError,
    UnexpectedResponse,
)
from grok_video._lifecycle import Event, State, advance
from grok_video._verdicts import is_full, meaning

ID = "4b2cd27e"
LOST = CreateOutcomeUnknown("lost", fingerprint="f", sent_at=0.0, phase="awaiting the answer")
NOT_SENT = APIConnectionError("down", may_have_been_sent=False)
PICTURE = InvalidRequest("the picture changed", field="image")
FAILED = JobFailed("failed", request_id=ID)
MODERATED = ModerationRefused("refused", request_id=ID)
EXPIRED = JobExpired("expired", request_id=ID)
GOES_ON = JobTimeout("still processing", request_id=ID)
NO_FOLDER = DestinationError("the folder is gone", request_id=None)
TAKEN = DestinationError("there is a file", request_id=None)
TAKEN.is_taken = True

DEFECTS = [ZeroDivisionError(), OSError("x"), KeyError("x"), GrokVideoError("x")]


def follows(failure: Exception, state: State, *, lost: bool = False) -> tuple[Event, ...]:
    """Return what the failure means, which the table of the lifecycle has to allow."""
    events = meaning(failure, state, lost=lost)
    reduce(advance, events, state)
    return events


# --- nothing was sent ----------------------------------------------------------------------------


@pytest.mark.parametrize("failure", [ConfigurationError("closed"), NO_FOLDER, TAKEN])
def test_what_stands_in_the_way_of_an_unsent_item_leaves_it_to_the_next_run(
    failure: Exception,
) -> None:
    assert follows(failure, State.PLANNED) == ()


@pytest.mark.parametrize("failure", [PICTURE, *DEFECTS])
def test_what_is_wrong_with_an_unsent_item_itself_ends_it(failure: Exception) -> None:
    assert follows(failure, State.PLANNED) == (Event.REFUSED,)


# --- a create was on its way ---------------------------------------------------------------------


@pytest.mark.parametrize(
    "failure",
    [
        LOST,
        APIConnectionError("reset", may_have_been_sent=True),
        ServerError("502", status=502, refused=False),
        UnexpectedResponse("a page", status=200, refused=False),
        # Whatever it says of the account, it proves nothing.
        AuthenticationError("x", status=200, refused=False),
        InsufficientBalance("x", status=502, refused=False),
        # Nobody foresaw these where a create is on its way.
        *[ConfigurationError("closed"), NO_FOLDER, FAILED, GOES_ON, *DEFECTS],
    ],
    ids=repr,
)
def test_a_create_that_failed_without_a_proof_is_in_doubt(failure: Exception) -> None:
    assert follows(failure, State.SUBMITTING) == (Event.ANSWER_LOST,)


@pytest.mark.parametrize(
    "failure",
    [
        PICTURE,
        BadRequest("x", status=400),
        BadRequest("x", status=500),
        PermissionDenied("x", status=403),
        NotFound("x", status=503),
        UnexpectedResponse("x", status=301),
    ],
    ids=repr,
)
def test_a_create_that_was_refused_for_what_it_is_has_failed(failure: Exception) -> None:
    assert follows(failure, State.SUBMITTING) == (Event.REFUSED,)


@pytest.mark.parametrize("status", [401, 402, 403, 429, 500, 503])
@pytest.mark.parametrize("kind", [AuthenticationError, InsufficientBalance])
def test_a_create_that_was_refused_because_of_the_account_may_be_sent_again(
    kind: type[AuthenticationError | InsufficientBalance], status: int
) -> None:
    assert follows(kind("x", status=status), State.SUBMITTING) == (Event.NOT_TAKEN,)


@pytest.mark.parametrize(
    "failure",
    [NOT_SENT, RateLimited("x", status=429), ServerError("x", status=503, refused=True)],
    ids=repr,
)
def test_a_create_that_was_not_taken_for_a_passing_reason_may_be_sent_again(
    failure: Exception,
) -> None:
    assert follows(failure, State.SUBMITTING) == (Event.NOT_TAKEN,)


@pytest.mark.parametrize(
    "failure", [NOT_SENT, PICTURE, AuthenticationError("x", status=401), LOST], ids=repr
)
def test_no_later_create_takes_an_item_out_of_the_doubt_of_an_earlier_one(
    failure: Exception,
) -> None:
    assert follows(failure, State.SUBMITTING, lost=True) == (Event.ANSWER_LOST,)


# --- it was accepted -----------------------------------------------------------------------------


@pytest.mark.parametrize("lost", [False, True])
@pytest.mark.parametrize("state", [State.PENDING, State.READY])
@pytest.mark.parametrize(
    ("failure", "events"),
    [
        (FAILED, (Event.ENDED_WITHOUT_VIDEO,)),
        (MODERATED, (Event.ENDED_WITHOUT_VIDEO,)),
        (EXPIRED, (Event.LAPSED,)),
    ],
    ids=repr,
)
def test_a_job_that_ended_ends_its_item(
    failure: Exception, events: tuple[Event, ...], state: State, lost: bool
) -> None:
    assert follows(failure, state, lost=lost) == events


@pytest.mark.parametrize("state", [State.PENDING, State.READY])
@pytest.mark.parametrize(
    "failure",
    [GOES_ON, NOT_SENT, LOST, NotFound("x", status=404), ConfigurationError("closed"), *DEFECTS],
    ids=repr,
)
def test_what_says_nothing_of_a_job_leaves_it_to_the_next_run(
    failure: Exception, state: State
) -> None:
    assert follows(failure, state) == ()


@pytest.mark.parametrize(
    ("failure", "events"),
    [
        (FAILED, (Event.FETCHING_BROKE, Event.ENDED_WITHOUT_VIDEO)),
        (MODERATED, (Event.FETCHING_BROKE, Event.ENDED_WITHOUT_VIDEO)),
        (EXPIRED, (Event.LAPSED,)),
        (LinkExpired("x", request_id=ID), (Event.FETCHING_BROKE,)),
        (TAKEN, (Event.FETCHING_BROKE,)),
        (ConfigurationError("closed"), (Event.FETCHING_BROKE,)),
        (OSError("x"), (Event.FETCHING_BROKE,)),
    ],
    ids=repr,
)
def test_a_transfer_that_broke_is_over_and_so_is_its_item_if_the_job_is(
    failure: Exception, events: tuple[Event, ...]
) -> None:
    assert follows(failure, State.FETCHING) == events


@pytest.mark.parametrize("state", [state for state in State if state.is_final])
@pytest.mark.parametrize("failure", [FAILED, EXPIRED, LOST, PICTURE, OSError("x")], ids=repr)
def test_no_failure_moves_an_item_that_has_come_to_its_end(
    failure: Exception, state: State
) -> None:
    assert follows(failure, state) == ()


# --- a disk that takes no more -------------------------------------------------------------------


def broken(number: int | None, words: str = "the file could not be written") -> DownloadError:
    error = DestinationError(words, request_id=ID)
    if number is not None:
        error.__cause__ = OSError(number, "x")
    return error


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EFBIG])
def test_a_disk_that_takes_no_more_is_known_by_the_systems_word(number: int) -> None:
    assert is_full(broken(number))


@pytest.mark.parametrize("number", [errno.EACCES, errno.ENAMETOOLONG, errno.EIO, None])
def test_what_hinders_one_file_says_nothing_of_the_others(number: int | None) -> None:
    assert not is_full(broken(number, "the disk is full.mp4 could not be written"))


@pytest.mark.parametrize("kind", [OSError, GrokVideoError])
def test_only_a_download_speaks_of_the_disk_of_the_videos(kind: type[Exception]) -> None:
    """The ledger and the hook of a caller have disks of their own."""
    error = kind("the disk is full")
    error.__cause__ = OSError(errno.ENOSPC, "x")
    assert not is_full(error)
