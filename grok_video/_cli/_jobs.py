"""generate, submit, status, wait and download: the client's own calls, timed and told.

What is paid for and when is the client's business; here an id is written down the moment it is
known, and a result becomes the one line or the one object that a shell can use.
"""

from __future__ import annotations

import contextlib
import sys
import time
from typing import TYPE_CHECKING, Any, Final, TextIO

import anyio

from grok_video import _download
from grok_video._budget import dollars
from grok_video._cli._arguments import read_address, read_request
from grok_video._cli._connect import Connection, reach
from grok_video._cli._console import Console, in_bash, one_line
from grok_video._cli._endings import DONE, Errand, finish
from grok_video._cli._interrupts import run
from grok_video._errors import ConfigurationError, GrokVideoError, InvalidRequest
from grok_video._models import JobStatus, Snapshot, Video
from grok_video._requests import Image

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Mapping

    from anyio.abc import TaskGroup

    from grok_video._job import AsyncJob
    from grok_video._requests import VideoRequest

#: Seconds that `status` waits: somebody looks on, and a server may ask for an hour.
_STATUS_PATIENCE: Final = 60.0


def generate(
    words: dict[str, str | None],
    connection: Connection,
    *,
    out: str | None,
    overwrite: bool,
    timeout: float,
    json_lines: bool,
) -> int:
    """Submit, wait and, with `out`, download; the exit code."""
    console = Console(json_lines=json_lines)
    errand = Errand(
        console,
        resume_options=connection.resume_options(),
        out=out,
        overwrite=overwrite,
        resumable=not connection.emulator,
    )

    def work() -> int:
        request = read_request(words, picture)
        if out is not None and request.output is not None:
            message = "-o and --upload-url exclude each other: the provider delivers to the URL."
            raise InvalidRequest(message, field="out", value=out)
        if connection.emulator and out is None:
            message = (
                "--emulator needs -o FILE: the emulator's link ends with this command, and it "
                "delivers nothing to other places."
            )
            raise InvalidRequest(message, field="out")
        with reach(connection) as reached:
            return run(errand, lambda: go(request, reached))

    async def go(request: VideoRequest, reached: Connection) -> int:
        steps = _Steps(errand)
        async with reached.client() as client:
            with console.progress("submitting"):
                errand.begin(request)
                video = await steps.follow(
                    lambda: client.generate(
                        request,
                        save_to=out,
                        overwrite=overwrite,
                        sha256=True,
                        timeout=timeout,
                        on_submitted=steps.created,
                    )
                )
        tell(console, video, steps.seconds())
        return DONE

    return finish(errand, work)


def submit(words: dict[str, str | None], connection: Connection, *, json_lines: bool) -> int:
    """Start a job and put its id on stdout; the exit code."""
    console = Console(json_lines=json_lines)
    errand = Errand(console, resume_options=connection.resume_options())

    def work() -> int:
        request = read_request(words, picture)
        refuse_emulator(connection, "submit")
        return run(errand, lambda: go(request))

    async def go(request: VideoRequest) -> int:
        steps = _Steps(errand)
        async with connection.client() as client:
            with console.progress("submitting"):
                errand.begin(request)
                try:
                    job = await client.submit(request, on_submitted=steps.created)
                except BaseException as error:
                    errand.broken_off(error)
                    raise
        facts = result_facts(job.request_id, JobStatus.QUEUED, seconds=steps.seconds())
        console.result(facts, job.request_id)
        if request.is_delivered:
            # The id alone does not say it, and a wait that does not know takes it for a failure.
            console.status(f"to wait for it: {errand.resume}")
        return DONE

    return finish(errand, work)


def status(request_id: str, connection: Connection, *, uploaded: bool, json_lines: bool) -> int:
    """Tell what one poll says; the exit code says whether the API answered, not how the job is."""
    console = Console(json_lines=json_lines)
    errand = Errand(
        console,
        request_id=request_id.strip() or None,
        resume_options=connection.resume_options(),
        uploaded=uploaded,
    )

    async def go() -> int:
        async with connection.client() as client:
            job = client.job(request_id, uploaded=uploaded)
            snapshot = await job.refresh(timeout=_STATUS_PATIENCE)
        facts = result_facts(request_id, snapshot.status, snapshot=snapshot, video=snapshot.video)
        console.result(facts, _status_line(snapshot))
        return DONE

    def work() -> int:
        refuse_emulator(connection, "status")
        return run(errand, go)

    return finish(errand, work)


def wait(
    request_id: str,
    connection: Connection,
    *,
    command: str,
    out: str | None,
    overwrite: bool,
    uploaded: bool = False,
    timeout: float,
    json_lines: bool,
) -> int:
    """Wait for a job and, with `out`, download it; the exit code."""
    console = Console(json_lines=json_lines)
    errand = Errand(
        console,
        request_id=request_id.strip() or None,
        resume_options=connection.resume_options(),
        out=out,
        overwrite=overwrite,
        uploaded=uploaded,
    )

    async def fetch(job: AsyncJob) -> Video:
        if out is None:
            return await job.result(timeout)
        return await job.download(out, overwrite=overwrite, sha256=True, timeout=timeout)

    async def go() -> int:
        if out is not None:
            # Without the id, an error here is one of usage: nothing was asked of anyone yet.
            await _download.check_destination(out, overwrite=overwrite, request_id=None)
        async with connection.client() as client:
            job = client.job(request_id, uploaded=uploaded)
            steps = _Steps(errand)
            with console.progress("waiting"):
                video = await steps.follow(lambda: fetch(job), job)
        tell(console, video, steps.seconds())
        return DONE

    def work() -> int:
        refuse_emulator(connection, command)
        if out is not None and uploaded:
            message = "-o and --uploaded exclude each other: the provider delivered to the URL."
            raise InvalidRequest(message, field="out", value=out)
        return run(errand, go)

    return finish(errand, work)


class _Steps:
    """The times of one command's steps; it also follows its job for the bar.

    Following costs no request of its own: all who wait for one job share its polls.
    """

    def __init__(self, errand: Errand) -> None:
        self._errand = errand
        self._tasks: TaskGroup | None = None
        self._began = time.monotonic()
        self._created: float | None = None
        self._finished: float | None = None

    def created(self, job: AsyncJob) -> None:
        """Write down the id of a job that was just accepted, before anything else happens."""
        self._created = time.monotonic()
        self._errand.request_id = job.request_id
        self._errand.creating = False
        if self._tasks is not None:
            resume = self._errand.resume
            later = f"; to resume: {in_bash(resume)}" if resume else ""
            self._errand.console.status(f"job {job.request_id} submitted{later}")
            self._tasks.start_soon(self._watch, job)

    async def follow(
        self, work: Callable[[], Awaitable[Video]], job: AsyncJob | None = None
    ) -> Video:
        """Return what `work` returns, while the job's progress is shown."""
        failure: Exception | None = None
        video: Video | None = None
        async with anyio.create_task_group() as tasks:
            self._tasks = tasks
            if job is not None:
                tasks.start_soon(self._watch, job)
            try:
                video = await work()
            except Exception as error:  # noqa: BLE001 - carried past the group, which would wrap it
                failure = error
            except BaseException as error:
                self._errand.broken_off(error)
                raise
            tasks.cancel_scope.cancel()
        if failure is not None:
            raise failure
        assert video is not None  # noqa: S101 - for the type checker: one of the two
        return video

    async def _watch(self, job: AsyncJob) -> None:
        console = self._errand.console
        # Whatever goes wrong here goes wrong for the one who waits as well, and is told there.
        with contextlib.suppress(GrokVideoError):
            async for snapshot in job.updates(timeout=None):
                console.snapshot(snapshot)
            self._finished = time.monotonic()
            console.phase("downloading")

    def seconds(self) -> dict[str, float | None]:
        """Return how long each step took; None for a step that this command did not take."""
        now = time.monotonic()
        finished = self._finished or now
        waited_from = self._created if self._created is not None else self._began
        steps: dict[str, float | None] = {"submit": None, "wait": None, "download": None}
        if self._created is not None:
            steps["submit"] = round(self._created - self._began, 3)
        if self._tasks is not None:
            steps["wait"] = round(finished - waited_from, 3)
            steps["download"] = round(now - finished, 3)
        return steps


# --- what goes in --------------------------------------------------------------------------------


def picture(text: str) -> Image:
    """Return the picture that an argument means: a URL, a data URI, "-" for stdin, or a path.

    The library opens no string as a file, because a web backend's strings come from strangers; the
    argument of a command comes from whoever may read the file anyway.
    """
    if text == "-":
        # Python has none where the caller closed it.
        stdin: TextIO | None = sys.stdin
        if stdin is None or stdin.isatty():
            what = "closed" if stdin is None else "a terminal"
            message = f"image - reads stdin, and stdin is {what} here. Nothing was sent."
            raise InvalidRequest(message, field="image", value="-")
        data = stdin.buffer.read()
        # A data URI of more than 128 KiB is no argument for Linux; it comes through a pipe.
        if data[:5].lower() == b"data:":
            return Image.from_url(data.decode("utf-8", "replace"))
        return Image.from_bytes(data)
    return read_address(text) or Image.from_path(text)


def refuse_emulator(connection: Connection, command: str) -> None:
    """Refuse --emulator where it would leave nothing behind."""
    if connection.emulator:
        message = (
            f"--emulator cannot work with {command}: its jobs end with the command that started "
            "it. Use generate --emulator, or run `grok-video emulator` in another terminal and "
            "give its base_url and api_key to this one (GROK_VIDEO_BASE_URL, COMETAPI_KEY)."
        )
        raise ConfigurationError(message)


# --- what comes out ------------------------------------------------------------------------------


def result_facts(
    request_id: str,
    status: JobStatus,
    *,
    video: Video | None = None,
    snapshot: Snapshot | None = None,
    seconds: Mapping[str, float | None] | None = None,
) -> dict[str, Any]:
    """Return the result object of --json: the same keys for every command, null where unknown."""
    failure = snapshot.error if snapshot is not None else None
    cost = video.cost_usd if video is not None else failure.cost_usd if failure else None
    return {
        "request_id": request_id,
        "status": status.value,
        "progress": snapshot.progress if snapshot is not None else None,
        "path": str(video.path) if video is not None and video.path is not None else None,
        "url": video.url if video is not None else None,
        "duration": video.duration if video is not None else None,
        "model": video.model if video is not None else None,
        "cost_usd": float(cost) if cost is not None else None,
        "size": video.size if video is not None else None,
        "sha256": video.sha256 if video is not None else None,
        "failure": None
        if failure is None
        else {"code": failure.code, "message": failure.message, "moderated": failure.moderated},
        "seconds": dict(seconds or {"submit": None, "wait": None, "download": None}),
    }


def tell(console: Console, video: Video, seconds: Mapping[str, float | None]) -> None:
    """Put a finished video on stdout: its path where it was saved, else its link."""
    facts = result_facts(video.request_id, JobStatus.DONE, video=video, seconds=seconds)
    console.result(facts, facts["path"] or video.url or f"delivered {video.request_id}")
    known = [
        f"{video.duration:g} s of video" if video.duration is not None else "",
        f"{video.size:,} bytes" if video.size is not None else "",
        dollars(video.cost_usd) if video.cost_usd is not None else "",
        *(f"{step} {taken:.1f} s" for step, taken in seconds.items() if taken is not None),
    ]
    console.status(f"job {video.request_id} done: {', '.join(filter(None, known))}")


def _status_line(snapshot: Snapshot) -> str:
    words = [snapshot.request_id, snapshot.status.value]
    if snapshot.progress is not None and not snapshot.status.is_terminal:
        words.append(f"{snapshot.progress:g} %")
    if snapshot.error is not None:
        words.append(one_line(snapshot.error.message))
    return " ".join(words)
