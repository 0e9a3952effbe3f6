"""One video as one sequence of bytes, over as many answers and links as that takes.

`Transfer` asks, waits, takes fresh links from the job and hands the bytes on; what an answer means
is decided in `_ranges`, and where a link leads in `_redirects`. Nothing here touches a disk, and
nothing here ever creates a job.
"""

from __future__ import annotations

import math
import sys
from typing import TYPE_CHECKING, Final, Protocol, assert_never

import anyio
from attrs import evolve

from grok_video._errors import (
    APIConnectionError,
    APIError,
    ConfigurationError,
    DownloadError,
    DownloadTimeout,
    GrokVideoError,
    JobError,
    LinkExpired,
    NotAVideo,
    ServerError,
    Truncated,
    reword,
)
from grok_video._lifecycle import passes_until
from grok_video._ranges import (
    Boxes,
    Complete,
    Follows,
    LinkDied,
    Passing,
    StartOver,
    Verdict,
    Version,
    judge,
    request_headers,
)
from grok_video._redaction import redact_url
from grok_video._redirects import Followed
from grok_video._transports._base import (
    CODINGS,
    transport_failed,
    without_frames,
)
from grok_video._transports._loops import current_time

if TYPE_CHECKING:
    import random as random_module
    from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable

    from grok_video._models import Video
    from grok_video._policies import Deadline, Retry
    from grok_video._transports._base import StreamedAnswer, Transport
    from grok_video._urls import Origin

#: Largest file that is fetched, in bytes: 15 s of 1080p have about 20 MB, so 4 GiB is no video of
#: this API, and the largest file that FAT takes.
MOST_BYTES: Final = 4 * 2**30
#: Attempts in a row that bring nothing new: about a minute of waits with the default `Retry`.
_ATTEMPTS: Final = 8
#: Links in a row that are dead before they bring anything. Storage may need a moment after "done",
#: so that a 404 is not yet the end.
_LINKS: Final = 4
#: Times that the file may turn out to be another one while it is fetched.
_VERSIONS: Final = 4
#: Bytes that count as something new: a server that gives one byte for each request is broken.
_PROGRESS: Final = 2**16
#: Bytes until the end of the first box's type: an MP4 file starts with its length and "ftyp".
_HEAD: Final = 8


class Source(Protocol):
    """What a download needs of its job."""

    @property
    def request_id(self) -> str:
        """The job's id."""
        ...

    async def fresh_video(self) -> Video:
        """Return the video with a fresh link, from one poll."""
        ...


class Transfer:
    """The bytes of one video, over as many requests and links as it takes."""

    def __init__(
        self,
        transport: Callable[[], Transport],
        source: Source,
        video: Video,
        *,
        deadline: Deadline,
        retry: Retry,
        api_origin: Origin,
        random: random_module.Random,
        sleep: Callable[[float], Awaitable[None]],
    ) -> None:
        """See the class; `transport` is asked for each request, and refuses once it is closed.

        `sleep` is how it waits between two of them; it may end early.
        """
        self._transport = transport
        self._sleep = sleep
        self._source = source
        self._deadline = deadline
        self._retry = retry
        self._random = random
        self.public_only = not api_origin.is_private
        self.request_id = video.request_id
        self.url = video.url or ""
        #: Bytes handed out (or found on disk), and of which version.
        self.have = 0
        self.version = Version()
        #: False where bytes that were handed out cannot be taken back.
        self.restartable = True
        #: Ask without a range: the server cannot serve one of this version.
        self._whole_only = False
        #: Where a file of unknown length may end; kept over all answers that bring it.
        self.boxes: Boxes | None = None
        self._failures = 0
        self._deaths = 0
        self._versions = 0
        self._reached = 0

    @property
    def total(self) -> int | None:
        """Bytes of the whole file, once the server has said it."""
        return self.version.total

    async def pieces(self) -> AsyncGenerator[Version | bytes, None]:
        """Yield the file from byte `have` on; a `Version` says that it begins anew at byte 0.

        There is none where the transfer is not restartable: then all that comes is bytes. Raises
        `DownloadError` if it cannot be had whole.
        """
        self._reached = self.have
        while not (self.have and self.have == self.total):
            self._forget_unprovable()
            verdict: Verdict | None = None
            failure: GrokVideoError | None = None
            reached = self._reached
            outer = sys.exception()
            try:
                async with Followed(self) as answer:
                    verdict = self._judge(answer)
                    if isinstance(verdict, Follows):
                        intake = self._begin(answer, verdict)
                        chunks = answer.chunks()
                        try:
                            async for chunk in chunks:
                                for piece in intake.take(chunk):
                                    yield piece
                        finally:
                            await close(chunks)
                        intake.end()
            except Exception as error:  # noqa: BLE001 - a caller's own transport may raise anything
                failure = self._passing(error)
                without_frames(failure, outer)  # they hold the link, which is signed
            match verdict:
                case None:
                    pass
                case Complete():
                    return
                case Follows() if failure is None:
                    if self.have == self.total:
                        return
                    if self._reached > reached:
                        continue  # a slice of the file: the next one is asked for at once
                    failure = APIConnectionError(
                        "the file server gave less than it was asked for", may_have_been_sent=True
                    )
                case Follows():
                    pass
                case StartOver():
                    self._ask_for_all()
                    continue
                case LinkDied():
                    await self._renew(verdict.status)
                    continue
                case Passing():
                    failure = verdict.failure
                case _:
                    assert_never(verdict)
            assert failure is not None  # noqa: S101 - for the type checker
            if isinstance(verdict, Follows):
                self._trust_ranges_again()
            await self._wait(failure)

    def _passing(self, error: Exception) -> APIConnectionError:
        """Return what broke a request in passing; raises what ends the transfer."""
        if isinstance(error, APIConnectionError):
            return error
        if isinstance(error, PermissionError):
            problem = "the link was not followed: it leads into a private network"
            raise self.error(DownloadError, problem) from None
        if isinstance(error, GrokVideoError):
            raise error
        return transport_failed(error)

    def transport(self) -> Transport:
        """Return what the next request goes through. Raises `DownloadError` if that is closed."""
        try:
            return self._transport()
        except ConfigurationError as error:
            raise self.error(DownloadError, error.message.rstrip(".")) from error

    def headers(self) -> dict[str, str]:
        """Return the headers of the next request."""
        return {} if self._whole_only else request_headers(self.have, self.version)

    def _judge(self, answer: StreamedAnswer) -> Verdict:
        """Return what the answer means here."""
        verdict = judge(
            answer.status,
            answer.headers,
            have=self.have,
            version=self.version,
            whole=self._whole_only,
        )
        if isinstance(verdict, Follows) and self._is_endless(verdict):
            self._forget("nobody can tell where the file ends")
            return StartOver()
        return verdict

    def _is_endless(self, follows: Follows) -> bool:
        """Return whether nothing could tell the whole from a part, were the file continued so.

        What an earlier process kept came without the place where its boxes stood. A part may be
        added to it even so: where the file ends is asked for after it.
        """
        return (
            self.have > 0
            and self.boxes is None
            and self.total is None
            and follows.version.total is None
            and follows.end is None
        )

    def _begin(self, answer: StreamedAnswer, follows: Follows) -> _Intake:
        """Return what takes in the body of this answer."""
        self._check_size(follows.version.total)
        coding = answer.headers.get("content-encoding", "").strip().lower()
        if coding in CODINGS:  # any other word is somebody's mistake: the first bytes decide
            raise self.error(NotAVideo, "what the link serves is compressed, unasked")
        skip = self.have - follows.start
        anew = self.have == 0
        if skip and not follows.version.is_same(self.version):
            self._count_change()
            self._forget("the file turned out to be another one")
            self._reached = 0
            skip, anew = 0, True
        if not anew:
            self.version = evolve(self.version, total=follows.version.total or self.total)
        return _Intake(self, follows, skip=skip, anew=anew)

    def check_head(self, head: bytes) -> None:
        if head[4:_HEAD] != b"ftyp":
            start = bytes(head[:16]).lstrip()
            kind = "a page of text or HTML" if start[:1] == b"<" else "no MP4 file"
            raise self.error(NotAVideo, f"the link serves {kind} (no ftyp box at its start)")

    def _check_size(self, total: int | None) -> None:
        if total is not None and total > MOST_BYTES:
            raise self.error(
                DownloadError,
                f"the file is said to have {total} bytes, more than the {MOST_BYTES} that are "
                "fetched at most",
            )

    def note_progress(self) -> None:
        if self.have - self._reached >= _PROGRESS:
            self._reached = self.have
            self._failures = self._deaths = 0
            self._whole_only = False
            if self.have > MOST_BYTES:
                self._check_size(self.have)

    def _ask_for_all(self) -> None:
        """The next request is for the whole file. Raises `Truncated` if that keeps being no help.

        A range that is refused, or answered with another one, is no change of the file: what is
        asked for after it is counted by what that brings.
        """
        if self._whole_only or not self.have:
            self._count_change()
        self._whole_only = True

    def _trust_ranges_again(self) -> None:
        """After a whole answer that broke off: the next one may break before what is new, too.

        It has also shown that the link lives, so that only a range can have been refused.
        """
        if self._whole_only:
            self._whole_only, self._deaths = False, 0

    def _count_change(self) -> None:
        self._versions += 1
        if self._versions > _VERSIONS:
            raise self.error(
                Truncated, "the file keeps changing, or its server does not give what is asked for"
            )

    def _forget(self, reason: str) -> None:
        """Begin anew, if nothing was handed out that cannot be taken back."""
        if self.have and not self.restartable:
            raise self.error(Truncated, f"after {self.have} bytes were handed out, {reason}")
        self.have, self.version, self._whole_only = 0, Version(), False

    def _forget_unprovable(self) -> None:
        if self.have and not self.version.is_provable:
            self._forget(
                "the transfer broke off, and without an ETag or Last-Modified nobody can tell "
                "whether the rest still belongs to them"
            )

    async def _renew(self, status: int) -> None:
        """Take a fresh link from the job. Raises `LinkExpired` if that does not help any more."""
        self._deaths += 1
        words = f"the link is dead (HTTP {status})"
        if self._deaths > _LINKS:
            raise self.error(LinkExpired, f"{words}, and so were the fresh ones of the job")
        if self._deaths > 1:
            # A fresh link is no better: it may be the range that is refused.
            self._whole_only = True
        failure: GrokVideoError = ServerError(words, status=status)
        try:
            fresh = await self._source.fresh_video()
        except GrokVideoError as error:
            # A job that was done and says for once that it is not (a plain `JobError`) passes, too.
            if passes_until(error) < math.inf and type(error) is not JobError:
                why = f"{words}, and the job gives no other: {error.message.rstrip('.')}"
                raise self.error(LinkExpired, why, is_over=not error.resume) from error
            failure = error
        else:
            if not fresh.url:
                raise self.error(LinkExpired, f"{words}, and the job gives no other")
            was, self.url = self.url, fresh.url
            if fresh.url != was and self._deaths == 1:
                return
        await self._pause(failure, self._deaths)

    async def _wait(self, failure: GrokVideoError) -> None:
        """Wait before the next attempt. Raises `Truncated` if there is none."""
        self._failures += 1
        if self._failures >= _ATTEMPTS:
            raise self.error(
                Truncated,
                f"{self._failures} attempts in a row brought nothing new, the last one because "
                f"{failure.message.rstrip('.')}",
            ) from failure
        await self._pause(failure, self._failures)

    async def _pause(self, failure: GrokVideoError, failures: int) -> None:
        self.transport()  # what a closing client broke off is told now, not after a wait
        wish = failure.retry_after if isinstance(failure, APIError) else None
        # All of the wish: `patience` is its end here, not that of polls.
        delay = max(self._retry.poll_delay(failure, failures, self._random), wish or 0.0)
        left = self._deadline.remaining(current_time())
        if delay >= left > 1.0 and (wish or 0.0) < left:
            delay = left - 1.0  # the last attempt lies inside
        if delay >= left or (wish or 0.0) > self._retry.patience:
            asked = f", and asks to wait {wish:g} s" if wish is not None else ""
            why = f"{failure.message.rstrip('.')}{asked}"
            kind = Truncated
            if delay >= left:
                why += f"; the deadline of {self._deadline.timeout:g} s comes first"
                kind = DownloadTimeout
            raise self.error(kind, why) from failure
        await self._sleep(delay)

    def error(
        self,
        kind: type[DownloadError],
        problem: str,
        *,
        url: str | None = None,
        is_over: bool = False,
    ) -> DownloadError:
        """Return an error of this kind; what is kept is added by whoever keeps it."""
        error = kind(
            f"the video of job {self.request_id} could not be fetched: {problem}.",
            request_id=self.request_id,
            url=redact_url(url or self.url),
        )
        if is_over:
            error.resume = ""
        reword(error, f"{error.message} {error.resume}")
        return error

    def too_late(self) -> DownloadError:
        """Return the error of a deadline that passed."""
        of = f" of {self.total}" if self.total is not None else ""
        return self.error(
            DownloadTimeout,
            f"the deadline of {self._deadline.timeout:g} s ended the download after "
            f"{self.have}{of} bytes",
        )


class _Intake:
    """Takes in the body of one answer; `have` and `version` of the transfer follow it."""

    def __init__(self, transfer: Transfer, follows: Follows, *, skip: int, anew: bool) -> None:
        self._transfer = transfer
        self._version = follows.version
        self._end = follows.end
        #: Bytes to throw away: the range was ignored, and the file is still the same one.
        self._skip = skip
        #: True until what is kept is given up, and that only for something that is a video.
        self._anew = anew
        self._head = b""

    def take(self, chunk: bytes) -> tuple[Version | bytes, ...]:
        """Return what a chunk adds; a `Version` before it says that the file begins anew."""
        transfer = self._transfer
        pieces: tuple[Version | bytes, ...] = ()
        if self._skip:
            self._skip, chunk = max(0, self._skip - len(chunk)), chunk[self._skip :]
        if self._anew:
            self._head = chunk = self._head + chunk
            if len(chunk) < _HEAD:
                return ()
            transfer.check_head(chunk)
            self._anew = False
            transfer.have, transfer.version = 0, self._version
            transfer.boxes = Boxes() if self._version.total is None else None
            if transfer.restartable:
                pieces = (self._version,)
        if self._end is not None:
            chunk = chunk[: max(0, self._end - transfer.have)]
        if chunk:
            transfer.have += len(chunk)
            transfer.note_progress()
            if transfer.boxes is not None:
                transfer.boxes.feed(chunk)
            pieces += (chunk,)
        return pieces

    def end(self) -> None:
        """The answer came to its end. Raises `APIConnectionError` if that is no end of its file.

        A part never proves that the file ends with it: only a length does, or a server that has
        nothing after it (416). Nor does the end of a whole answer, however it is framed: a proxy
        whose own source breaks off may end it well. So its boxes must end there too.
        """
        transfer, total = self._transfer, self._version.total
        if self._anew and (total is None or len(self._head) >= total):
            transfer.check_head(self._head)
        short = self._skip or (self._end is not None and transfer.have < self._end)
        is_all = self._end is None and transfer.total is None
        if is_all:
            short = short or transfer.boxes is None or not transfer.boxes.is_between
        if short:
            raise APIConnectionError(
                "the file came without a length and broke off", may_have_been_sent=True
            )
        if is_all:
            transfer.version = evolve(transfer.version, total=transfer.have)


async def close(chunks: AsyncIterator[object]) -> None:
    """Close an iterator on the way out, now and not whenever it is collected."""
    aclose = getattr(chunks, "aclose", None)
    # A generator that came to its end has nothing left to close.
    if aclose is not None and getattr(chunks, "ag_frame", chunks) is not None:
        with anyio.CancelScope(shield=True):
            await aclose()
