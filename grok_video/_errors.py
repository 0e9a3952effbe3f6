"""Every error this package raises, as one tree.

::

    GrokVideoError
    |- InvalidRequest (also ValueError)         refused here: nothing was sent, nothing was paid
    |- ConfigurationError                       no key, missing extra, closed client
    |  `- LedgerError                           in use, newer, damaged, or on a full disk
    |- APIConnectionError                       no answer came
    |  `- APITimeoutError (also TimeoutError)
    |- APIError                                 an answer came, and it was not a yes
    |  |- BadRequest
    |  |- AuthenticationError
    |  |- PermissionDenied
    |  |- InsufficientBalance
    |  |- NotFound
    |  |- RateLimited
    |  |- ServerError
    |  `- UnexpectedResponse                    HTML, a wrong path, an unreadable document
    |- CreateOutcomeUnknown                     may be accepted and billed; nothing was resent
    |- JobError                                 about one accepted job; has the request_id
    |  |- JobFailed
    |  |  `- ModerationRefused
    |  |- JobExpired
    |  `- JobTimeout (also TimeoutError)        the job is still running
    `- DownloadError                            the job is done; the file is not here yet
       |- LinkExpired
       |- Truncated
       |  `- DownloadTimeout (also TimeoutError)
       |- NotAVideo
       `- DestinationError

Each error survives pickling with its facts as attributes (worker pools send errors between
processes). No error ever holds the API key, a picture or a signed query string.
"""

from __future__ import annotations

import shlex
from typing import TYPE_CHECKING, Any

from grok_video._public import publish

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from grok_video._models import Snapshot

__all__ = [
    "APIConnectionError",
    "APIError",
    "APITimeoutError",
    "AuthenticationError",
    "BadRequest",
    "ConfigurationError",
    "CreateOutcomeUnknown",
    "DestinationError",
    "DownloadError",
    "DownloadTimeout",
    "GrokVideoError",
    "InsufficientBalance",
    "InvalidRequest",
    "JobError",
    "JobExpired",
    "JobFailed",
    "JobTimeout",
    "LedgerError",
    "LinkExpired",
    "ModerationRefused",
    "NotAVideo",
    "NotFound",
    "PermissionDenied",
    "RateLimited",
    "ServerError",
    "Truncated",
    "UnexpectedResponse",
]


def resume_hint(request_id: str, *, uploaded: bool = False) -> str:
    """Return the sentence that says how to go on with a job.

    `uploaded` says that its create asked for `output.upload_url`.
    """
    told, options = (", uploaded=True", ["--uploaded"]) if uploaded else ("", [])
    command = wait_command(request_id, options)
    return f"Resume with client.job({request_id!r}{told}) or: {command}"


def wait_command(request_id: str, options: Sequence[str] = ()) -> str:
    """Return the command that waits for a job; an id may look like an option, and is none."""
    is_odd = request_id.startswith("-")
    words = [*options, "--", request_id] if is_odd else [request_id, *options]
    return shlex.join(["grok-video", "wait", *words])


def without_hint(message: str, request_id: str) -> str:
    """Return the message without the sentence that says how to go on with the job."""
    for uploaded in (False, True):
        message = message.replace(resume_hint(request_id, uploaded=uploaded), "")
    return message.strip()


def going_on_note(ids: Sequence[str]) -> str:
    """Return the note on what tears somebody out of waiting for these jobs."""
    jobs = "1 job goes" if len(ids) == 1 else f"{len(ids)} jobs go"
    lines = [f"  {wait_command(request_id)}" for request_id in ids]
    return "\n".join(
        [f"{jobs} on at the provider and may be billed. Resume with client.job(ID), or:", *lines]
    )


def accepted_note(request_id: str) -> str:
    """Return the note on an error that came out of a call after its create."""
    return f"The job was accepted. {resume_hint(request_id)}"


def is_job_named(error: BaseException, request_id: str) -> bool:
    """Return whether whoever catches the error learns the id of this job from it."""
    if getattr(error, "request_id", None) == request_id:
        return True
    return accepted_note(request_id) in getattr(error, "__notes__", ())


def add_job_name(error: BaseException, request_id: str) -> bool:
    """The error tells of a job that was accepted; False where nothing can be added to it."""
    if is_job_named(error, request_id):
        return True
    if isinstance(error, GrokVideoError) and error.request_id is None:
        error.request_id = request_id
    return add_note(error, accepted_note(request_id))


def add_note(error: BaseException, note: str) -> bool:
    """The error has the note; False where its class (a frozen one) takes none."""
    try:
        error.add_note(note)
    except Exception:  # noqa: BLE001 - the error is what must go on, not this one
        return False
    return True


def reword(error: GrokVideoError, message: str) -> None:
    """The error has this message, where more is known than when it was made."""
    error.message = message.strip()
    error.args = (error.message,)


class GrokVideoError(Exception):
    """The root: `except GrokVideoError` catches everything this package raises on purpose.

    `message` is the whole sentence. `request_id` is the job's id where there is one, on every
    error, so that a handler never has to ask for the type before it saves the id.
    """

    #: Status and beginning of an answer to a create of which the rest did not come; for a
    #: transport to tell, and taken out before anybody sees the error.
    received: tuple[int, bytes] | None = None
    #: The caller's own words for `resume`, or "" where the job is over.
    _resume: str | None = None

    def __init__(self, message: str, *, request_id: str | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.request_id = request_id

    @property
    def resume(self) -> str:
        """The sentence that says how to go on with the job; empty where there is nothing to do."""
        if self._resume is not None or self.request_id is None:
            return self._resume or ""
        return resume_hint(self.request_id)

    @resume.setter
    def resume(self, words: str) -> None:
        self._resume = words

    def __str__(self) -> str:
        return self.message

    def __reduce__(self) -> tuple[Any, ...]:
        # The default would call the class with `args` alone and lose keyword-only facts.
        return _restore, (type(self), self.args, self.__dict__.copy())


def _restore(
    kind: type[GrokVideoError], args: tuple[Any, ...], facts: dict[str, Any]
) -> GrokVideoError:
    error = kind.__new__(kind, *args)
    error.args = args
    error.__dict__.update(facts)
    return error


class InvalidRequest(GrokVideoError, ValueError):
    """The request was refused on this side: nothing was sent and nothing was paid.

    `field` is the argument's name, `value` its short repr, `limit` what would be accepted.
    """

    def __init__(self, message: str, *, field: str, value: str = "", limit: str = "") -> None:
        super().__init__(message)
        self.field = field
        self.value = value
        self.limit = limit


class ConfigurationError(GrokVideoError):
    """The client cannot work as it is set up: no key, a missing extra, a closed client."""


class LedgerError(ConfigurationError):
    """The ledger of a batch cannot be used, and nothing is sent without one.

    It is in use by another process, of a newer version, damaged, no ledger at all, or its disk is
    full. `path` is the file; it was not changed where it could not be opened.
    """

    def __init__(self, message: str, *, path: Path, request_id: str | None = None) -> None:
        super().__init__(message, request_id=request_id)
        self.path = path


class APIConnectionError(GrokVideoError):
    """No answer came: DNS, connect, TLS, a reset, or an answer that broke off.

    `may_have_been_sent` is False only where no server can have the whole request (the connection
    was never made, or it broke before the last byte was sent), so that sending again cannot pay
    twice.
    """

    def __init__(
        self, message: str, *, may_have_been_sent: bool, request_id: str | None = None
    ) -> None:
        super().__init__(message, request_id=request_id)
        self.may_have_been_sent = may_have_been_sent


class APITimeoutError(APIConnectionError, TimeoutError):
    """No answer came in time; `may_have_been_sent` says whether the server may be working on it."""


class APIError(GrokVideoError):
    """The server answered, and the answer was not a yes.

    `status` is the HTTP status, `code` the body's own code (a slug, a sentence or None),
    `gateway_request_id` the id that CometAPI puts at the end of its messages (for support), `body`
    the redacted start of the answer. `retry_after` is seconds, or None where the server said
    nothing. `refused` is True where the answer itself proves that no job was created.
    """

    #: An id that stands in an answer to a create which does not say that there is a job.
    possible_id: str | None = None

    def __init__(
        self,
        message: str,
        *,
        status: int,
        code: str | None = None,
        gateway_request_id: str | None = None,
        body: str = "",
        retry_after: float | None = None,
        refused: bool = True,
        request_id: str | None = None,
    ) -> None:
        super().__init__(message, request_id=request_id)
        self.status = status
        self.code = code
        self.gateway_request_id = gateway_request_id
        self.body = body
        self.retry_after = retry_after
        self.refused = refused


class BadRequest(APIError):
    """The server found the request itself wrong; the same request will fail again."""


class AuthenticationError(APIError):
    """The key was not accepted."""


class PermissionDenied(APIError):
    """The key is known but may not do this, or a firewall in front of the API blocked it."""


class InsufficientBalance(APIError):
    """The account has no credit left; waiting does not help, topping up does."""


class NotFound(APIError):
    """No such job, model or channel."""


class RateLimited(APIError):
    """Too many requests; `retry_after` is the server's wish in seconds, or None."""


class ServerError(APIError):
    """The gateway or the provider behind it failed.

    On a create this class is raised only where the answer proves that nothing was accepted;
    any other 5xx becomes `CreateOutcomeUnknown`.
    """


class UnexpectedResponse(APIError):
    """The answer is not one this API gives: HTML, a redirect, or a document that cannot be read.

    `path` names the place inside the JSON document where reading stopped, for example
    `$.data.video.url`, and is None where the answer was no JSON document at all.
    """

    def __init__(self, message: str, *, path: str | None = None, **facts: Any) -> None:  # noqa: ANN401
        super().__init__(message, **facts)
        self.path = path


class CreateOutcomeUnknown(GrokVideoError):
    """The create may have been accepted and billed, and no id came back. Nothing was sent again.

    `fingerprint` is the hash of the request (never the picture), `sent_at` Unix seconds,
    `phase` what was going on ("awaiting the answer", "reading the answer"), `status` the HTTP
    status where there was one, `possible_id` an id in an error that may be the job's (or a trace).
    The API has no list call: look at the bill or the provider's console before sending the same
    request again.
    """

    possible_id: str | None = None

    def __init__(
        self,
        message: str,
        *,
        fingerprint: str,
        sent_at: float,
        phase: str,
        status: int | None = None,
    ) -> None:
        super().__init__(message)
        self.fingerprint = fingerprint
        self.sent_at = sent_at
        self.phase = phase
        self.status = status


class JobError(GrokVideoError):
    """Something about one accepted job; `request_id` is always known.

    `snapshot` is the last one seen (None before the first poll), with every text of its `raw`
    redacted.
    """

    request_id: str

    def __init__(self, message: str, *, request_id: str, snapshot: Snapshot | None = None) -> None:
        super().__init__(message, request_id=request_id)
        if snapshot is not None and snapshot.raw:
            # Errors are logged and sent to other services, and a link's query is a signature.
            from attrs import evolve

            from grok_video._redaction import redact_within

            snapshot = evolve(snapshot, raw=redact_within(snapshot.raw))
        self.snapshot = snapshot


class JobFailed(JobError):
    """The provider ended the job without a video; `code` and `reason` are its own words."""

    _resume = ""

    def __init__(
        self,
        message: str,
        *,
        request_id: str,
        snapshot: Snapshot | None = None,
        code: str | None = None,
        reason: str = "",
    ) -> None:
        super().__init__(message, request_id=request_id, snapshot=snapshot)
        self.code = code
        self.reason = reason


class ModerationRefused(JobFailed):
    """Content moderation kept the video back; the same input will be refused again.

    Moderated output is charged by the provider in the records we have.
    """


class JobExpired(JobError):
    """The provider dropped the job or its result before it was fetched."""

    _resume = ""


class JobTimeout(JobError, TimeoutError):
    """The wait ended, the job did not: it goes on and may be billed.

    `pending` holds the ids of all jobs that the wait was for and that are still running.
    `stalled_for` is seconds without anything new where the wait gave up on that
    (`Polling.stalled_after`), None where its time was over.
    """

    def __init__(
        self,
        message: str,
        *,
        request_id: str,
        snapshot: Snapshot | None = None,
        pending: tuple[str, ...] = (),
        stalled_for: float | None = None,
    ) -> None:
        super().__init__(message, request_id=request_id, snapshot=snapshot)
        self.pending: tuple[str, ...] = pending or (request_id,)
        self.stalled_for = stalled_for


class DownloadError(GrokVideoError):
    """The job is done and paid; its file is not here yet. Downloading again costs nothing.

    `url` is redacted, `bytes_kept` the length of the part file kept at `part` for the next try.
    `request_id` is None where a destination was refused before there was a job.
    """

    def __init__(
        self,
        message: str,
        *,
        request_id: str | None,
        url: str = "",
        bytes_kept: int = 0,
        part: Path | None = None,
    ) -> None:
        super().__init__(message, request_id=request_id)
        self.url = url
        self.bytes_kept = bytes_kept
        self.part = part


class LinkExpired(DownloadError):
    """The link is dead, and the job gave no fresh one that works."""


class Truncated(DownloadError):
    """The transfer kept breaking off; what arrived is kept for the next try."""


class DownloadTimeout(Truncated, TimeoutError):
    """The time of the call ended before the download did; what arrived is kept for the next try."""


class NotAVideo(DownloadError):
    """What the link served is no MP4 file (no `ftyp` box at its start)."""


class DestinationError(DownloadError):
    """The destination cannot be written: it exists, is a folder, read-only, or on a full disk.

    `is_taken` is True where something else is in its place that `overwrite` would replace.
    """

    is_taken: bool = False


publish(globals(), __all__)
