"""From a finished job's link to its file or its bytes: verified, resumed, and never a new create.

`save` puts what `_transfer` brings on disk through a part file, `stream` hands it to the caller.
All file work is done in worker threads, about 1 MiB at a time.
"""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Final, cast

import anyio
from attrs import evolve

from grok_video import _place
from grok_video._errors import DownloadError, DownloadTimeout, add_note, resume_hint, reword
from grok_video._log import life
from grok_video._partfile import Batch, PartFile, kept_words
from grok_video._policies import NO_END
from grok_video._ranges import Version
from grok_video._redaction import redact_url
from grok_video._threads import CHECKS, FILES
from grok_video._transfer import Source, Transfer, close
from grok_video._transports._loops import ends_at, finish

if TYPE_CHECKING:
    import os
    import random as random_module
    from collections.abc import AsyncGenerator, Awaitable, Callable

    from grok_video._models import Video
    from grok_video._policies import Deadline, Retry
    from grok_video._transports._base import Transport
    from grok_video._urls import Origin

__all__ = ["check_destination", "close", "no_turn", "save", "stream"]

#: Bytes handed to a worker thread at once: a hand-over costs about 0.1 ms, which 1 MiB hides.
_BATCH: Final = 2**20


async def check_destination(
    destination: str | os.PathLike[str],
    *,
    overwrite: bool,
    request_id: str | None,
    until: Deadline = NO_END,
) -> None:
    """Raise `DestinationError` if a video cannot be put there, or nobody knows `until` then.

    Leaves nothing behind. `request_id` is None before there is a job.
    """
    check = partial(_place.check, destination, overwrite=overwrite, request_id=request_id)
    with ends_at(until.at):
        # Only looks, and a disk that hangs is not to make the call late.
        await CHECKS.run(check, abandon=True)
        return
    problem = f"it could not be looked at within the {until.timeout:g} s of this call"
    raise _place.refusal(destination, problem, request_id)


async def save(
    transport: Callable[[], Transport],
    source: Source,
    video: Video,
    destination: str | os.PathLike[str],
    *,
    overwrite: bool,
    adopt: bool = False,
    sha256: bool,
    deadline: Deadline,
    retry: Retry,
    api_origin: Origin,
    random: random_module.Random,
    sleep: Callable[[float], Awaitable[None]] = anyio.sleep,
    on_bytes: Callable[[int, int | None], None] | None = None,
) -> Video:
    """Return the video with `path`, `size` and, if asked for, `sha256`: whole, synced and named.

    What an earlier try kept in `NAME.part` is continued. With `adopt` a file that has the name is
    taken for the video if it is the same, byte for byte, and is kept otherwise. `transport` is
    asked for each request, so that none is sent once the client is closed, and `sleep` is how it
    waits between two of them. `on_bytes` is told the bytes here and the bytes in all (None where
    the server does not say). Raises `DownloadError`, which says what is kept for the next try.
    """
    transfer = Transfer(
        transport,
        source,
        video,
        deadline=deadline,
        retry=retry,
        api_origin=api_origin,
        random=random,
        sleep=sleep,
    )
    part = PartFile(
        destination,
        overwrite=overwrite,
        adopt=adopt,
        sha256=sha256,
        request_id=video.request_id,
    )
    batch = Batch()
    failure: DownloadError | None = None
    kept = 0

    async def keep() -> None:
        nonlocal kept
        kept = await FILES.run(part.close, batch)

    try:
        try:
            with ends_at(deadline.at):
                _require_link(transfer, video)
                await FILES.run(part.open)
                await _fill(transfer, part, batch, on_bytes)
            if not part.saved:
                failure = transfer.too_late()
        except DownloadError as error:
            failure = error
        finally:
            # Also after a cancellation, and a second one while this is done: what arrived is
            # written down, and nothing stays open.
            if not part.saved and not part.close_unopened():
                await finish(keep)
    except BaseException as error:  # a cancellation, and perhaps the last that a program hears
        if kept:
            add_note(error, kept_words(kept, part.part))
        raise
    if failure is not None:
        raise _with_kept(failure, kept, part)
    life.info("job %s was saved as %s (%d bytes)", video.request_id, part.path, part.size)
    return evolve(video, path=part.path, sha256=part.sha256, size=part.size)


async def _fill(
    transfer: Transfer,
    part: PartFile,
    batch: Batch,
    on_bytes: Callable[[int, int | None], None] | None,
) -> None:
    while not part.is_hashed:
        await FILES.run(part.rehash)
    transfer.have, transfer.version = part.size, part.version
    pieces = transfer.pieces()
    try:
        async for piece in pieces:
            if isinstance(piece, Version):
                batch.begin(piece)
                continue
            batch.add(piece)
            if on_bytes is not None:
                on_bytes(transfer.have, transfer.total)
            if batch.size >= _BATCH:
                await FILES.run(part.store, batch)
    finally:
        await close(pieces)
    await FILES.run(part.finish, batch)


def no_turn(video: Video, deadline: Deadline) -> DownloadError:
    """Return the error of a download that other downloads of the client kept from beginning."""
    return DownloadTimeout(
        f"the video of job {video.request_id} was not fetched: no other download of this client "
        f"ended within the {deadline.timeout:g} s of this call (see concurrent_downloads in "
        f"Limits). {resume_hint(video.request_id)}",
        request_id=video.request_id,
        url=redact_url(video.url or ""),
    )


def _require_link(transfer: Transfer, video: Video) -> None:
    if not video.url:
        raise transfer.error(
            DownloadError,
            "the job has no link (a video that was made for output.upload_url was delivered there)",
        )


def _with_kept(error: DownloadError, kept: int, part: PartFile) -> DownloadError:
    """Return the error with what is kept, in its facts and in its words."""
    if kept:
        start = error.message.removesuffix(error.resume).rstrip()
        reword(error, f"{start} {kept_words(kept, part.part)} {error.resume}")
    error.bytes_kept = kept
    error.part = part.part if kept else None
    return error


def stream(
    transport: Callable[[], Transport],
    source: Source,
    video: Video,
    *,
    retry: Retry,
    api_origin: Origin,
    random: random_module.Random,
    sleep: Callable[[float], Awaitable[None]] = anyio.sleep,
) -> AsyncGenerator[bytes, None]:
    """Return the video's bytes as they arrive, each once and in order, over breaks and dead links.

    Raises `DownloadError` if they cannot be had whole; there is no file.
    """
    transfer = Transfer(
        transport,
        source,
        video,
        deadline=NO_END,
        retry=retry,
        api_origin=api_origin,
        random=random,
        sleep=sleep,
    )
    transfer.restartable = False
    _require_link(transfer, video)
    # A transfer that is not restartable gives bytes alone.
    return cast("AsyncGenerator[bytes, None]", transfer.pieces())
