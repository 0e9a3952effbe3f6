"""One job, as its users see it: wait for it, look at it, follow it, fetch its file.

Everything that decides or sleeps is in `_poller` and `_download`. Any number of waiters share the
polls of one handle; any number of handles and processes may wait for one job, each with its own.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, Self

from grok_video._arguments import require_flags, require_path, require_seconds
from grok_video._models import JobStatus, Snapshot, Video
from grok_video._policies import Deadline
from grok_video._poller import Poller
from grok_video._threads import load, load_anyio
from grok_video._tracing import span
from grok_video._transports._loops import current_time

if TYPE_CHECKING:
    import os
    from collections.abc import AsyncGenerator, AsyncIterator, Callable, Generator

    from grok_video._requests import VideoRequest
    from grok_video._session import Session
    from grok_video._transports._base import Transport

__all__ = ["AsyncJob"]

#: Default seconds to wait for a video. The slowest figures in the contract's table are 200 s for
#: the model 1.5; ten minutes is three times that, and what every other SDK waits.
DEFAULT_TIMEOUT: Final = 600.0


class AsyncJob:
    """A job that was accepted; made by `AsyncClient.submit`, or by `AsyncClient.job` from an id.

    Awaiting it gives the `Video`, as `result()` does. The handle does no I/O of its own accord.
    """

    def __init__(
        self,
        session: Session,
        request_id: str,
        request: VideoRequest | None = None,
        *,
        uploaded: bool | None = None,
    ) -> None:
        self._poller = Poller(session, request_id, request, is_delivered=uploaded)

    # --- what is known, without I/O --------------------------------------------------------------

    @property
    def request_id(self) -> str:
        """The job's id: all that is needed to come back to it from anywhere."""
        return self._poller.request_id

    @property
    def snapshot(self) -> Snapshot | None:
        """What the last poll said; None before the first."""
        return self._poller.snapshot

    @property
    def status(self) -> JobStatus | None:
        """The state at the last poll; None for a handle from an id that was never polled."""
        if self.snapshot is not None:
            return self.snapshot.status
        return JobStatus.QUEUED if self._poller.made_here else None

    @property
    def progress(self) -> float | None:
        """Percent at the last poll, 0 to 100; None where the server sent none."""
        return self.snapshot.progress if self.snapshot is not None else None

    @property
    def is_finished(self) -> bool:
        """True when the last poll said that the job will not change any more."""
        return self._poller.is_finished

    def __repr__(self) -> str:
        progress = f" {self.progress:g} %" if self.progress is not None else ""
        state = self.status.value if self.status is not None else "not polled yet"
        return f"<{type(self).__name__} {self.request_id} {state}{progress}>"

    # --- waiting ---------------------------------------------------------------------------------

    def __await__(self) -> Generator[object, None, Video]:
        return self.result().__await__()

    async def result(self, timeout: float | None = DEFAULT_TIMEOUT) -> Video:
        """Return the video, as soon as the job is done.

        `timeout` is seconds for the whole wait, None for no end. Raises `JobTimeout` if it passes
        (the job goes on), `JobFailed` or `ModerationRefused` if the provider ended the job without
        a video, `JobExpired` if it dropped it, and `APIError` if the API refuses to say. A poll
        that fails in passing (a reset, a 502, a 429) never ends the wait.
        """
        return await self._poller.wait(Deadline.after(current_time(), timeout))

    async def refresh(self, timeout: float | None = None) -> Snapshot:
        """Return what the API says now, from exactly one GET.

        `timeout` is seconds for it, None for no end: the GET waits for its place among the polls of
        the client, and for as long as the server asked to wait. Raises `JobTimeout` if it passes,
        and `APIError` or `APIConnectionError` if the API says nothing about the job.
        """
        return await self._poller.refresh(Deadline.after(current_time(), timeout))

    def updates(self, timeout: float | None = DEFAULT_TIMEOUT) -> AsyncIterator[Snapshot]:
        """Give each snapshot that differs from the one before, the last one included.

        Ends when the job does, however it ends; a failed job is a snapshot here, not an error.
        `timeout` is seconds for the whole wait, None for no end. Raises as `result` otherwise.
        """
        return _Updates(self._poller, timeout)

    # --- the file --------------------------------------------------------------------------------

    async def download(
        self,
        destination: str | os.PathLike[str],
        *,
        overwrite: bool = False,
        sha256: bool = False,
        timeout: float | None = None,
    ) -> Video:
        """Return the video with its file saved whole at `destination`.

        Waits for the job first. The file appears under its name only when it is complete: it is
        written beside it as NAME.part, which is kept after a failure and continued by the next
        try. An existing file is replaced only with `overwrite`. With `sha256` the file is hashed as
        it arrives and `Video.sha256` says the hash. Without, it is None: the API states no hash to
        compare it with, and it would be 0.4 of the CPU of a large download.
        `timeout` is seconds for waiting and fetching together. None leaves the transfer its time
        and ends the wait after 600 s, as that of `result()`.
        Raises `DestinationError` if the place cannot be written (told before anything is fetched),
        `LinkExpired`, `Truncated` (`DownloadTimeout` at the deadline), `NotAVideo`, and what
        `result` raises.
        """
        require_path("destination", destination)
        require_flags(overwrite=overwrite, sha256=sha256)
        from grok_video._destination import Destination

        destination = Destination.of(destination)
        deadline = Deadline.after(current_time(), timeout)
        # Without a timeout the transfer may take its time; the wait for the job never does.
        wait = deadline if timeout is not None else Deadline.after(current_time(), DEFAULT_TIMEOUT)
        return await fetch(
            self._poller,
            destination,
            overwrite=overwrite,
            sha256=sha256,
            wait=wait,
            deadline=deadline,
        )

    async def stream(self) -> AsyncGenerator[bytes]:
        """Yield the video's bytes as they arrive; a broken transfer is continued where it broke.

        Waits for the job first, at most 600 s; `result(timeout)` before it waits otherwise.
        Not counted among the `concurrent_downloads`: whoever iterates sets the pace. Raises as
        `download` does, without the errors of a destination.
        """
        await load_downloads()
        from grok_video import _download

        poller = self._poller
        session = poller.session
        if poller.is_finished:
            video = poller.video()
        else:
            video = await poller.wait(Deadline.after(current_time(), DEFAULT_TIMEOUT))
        chunks = _download.stream(
            _transport_of(session),
            poller,
            video,
            retry=session.retry,
            api_origin=session.config.origin,
            random=session.random,
            sleep=session.lifetime.sleep,
        )
        try:
            async for chunk in chunks:
                yield chunk
        finally:
            await _download.close(chunks)


class _Updates:
    """The snapshots of a job as they change; holds nothing that would have to be closed."""

    def __init__(self, poller: Poller, timeout: float | None) -> None:
        require_seconds("timeout", timeout)
        self._poller = poller
        self._timeout = timeout
        self._deadline: Deadline | None = None
        self._began = 0.0
        self._shown: Snapshot | None = None

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> Snapshot:
        if self._deadline is None:
            self._began = current_time()
            self._deadline = Deadline.after(self._began, self._timeout)
        poller = self._poller
        while poller.snapshot is None or poller.snapshot == self._shown:
            if poller.is_finished:
                raise StopAsyncIteration
            await poller.step(self._deadline, self._began)
        self._shown = poller.snapshot
        return self._shown


async def load_downloads() -> None:
    """Return when the module of downloads can be imported without holding the event loop.

    It is a sixth of what importing the package costs, and those who only submit never need it.
    """
    await load_anyio()
    await load("grok_video._download")


async def fetch(
    poller: Poller,
    destination: str | os.PathLike[str],
    *,
    overwrite: bool,
    sha256: bool,
    wait: Deadline,
    deadline: Deadline,
) -> Video:
    """Wait for the job until `wait`, then save its file; all of it ends at `deadline`."""
    await load_downloads()
    from grok_video import _download

    session = poller.session
    await _download.check_destination(
        destination, overwrite=overwrite, request_id=poller.request_id, until=deadline
    )
    video = await poller.wait(wait)
    slots = await session.download_slots.get()
    if not await slots.take(deadline.at):
        raise _download.no_turn(video, deadline)
    try:
        return await save(
            poller, video, destination, overwrite=overwrite, sha256=sha256, deadline=deadline
        )
    finally:
        slots.release()


async def save(
    poller: Poller,
    video: Video,
    destination: str | os.PathLike[str],
    *,
    overwrite: bool,
    sha256: bool,
    deadline: Deadline,
    adopt: bool = False,
) -> Video:
    """Save the file of a finished job, in a turn at downloads that the caller has taken.

    With `adopt` a file that is there already is taken for it if it is the same, byte for byte.
    """
    from grok_video import _download

    session = poller.session
    with span("download", request_id=video.request_id) as told:
        saved = await _download.save(
            _transport_of(session),
            poller,
            video,
            destination,
            overwrite=overwrite,
            adopt=adopt,
            sha256=sha256,
            deadline=deadline,
            retry=session.retry,
            api_origin=session.config.origin,
            random=session.random,
            sleep=session.lifetime.sleep,
        )
        told.note(size=saved.size)
        return saved


def _transport_of(session: Session) -> Callable[[], Transport]:
    """Return what finds the transport of the event loop in which it is called."""
    return lambda: session.transport


def poller_of(job: AsyncJob) -> Poller:
    """Return the machine behind a job, for the clients that drive many of them."""
    return job._poller  # noqa: SLF001  # pyright: ignore[reportPrivateUsage] - the one door to it


AsyncJob.__module__ = "grok_video"
