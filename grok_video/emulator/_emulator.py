"""The emulator as its users hold it: a server in a thread of its own, and what it has seen.

Starting and stopping live here, the doors for asyncio, trio and plain code, and the counters. No
HTTP; aiohttp and the rest of the extra are imported when an emulator starts, never before.
"""

from __future__ import annotations

import asyncio
import contextlib
import importlib.util
import os
import secrets
import threading
import time
import warnings
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Final, Self

from ._faults import Expired, Failed, Fault
from ._records import Create, Records, Request
from ._scripts import PHASES, Chaos, Consumed, Phase, Scripts
from ._settings import checked
from ._settings import seconds as check_seconds

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence
    from decimal import Decimal
    from types import TracebackType

    from ._answers import Form
    from ._server import Server
    from ._service import Service
    from ._settings import ClipSource

# A job of the default kind takes a minute and a half in life, and nine milliseconds like this.
TEST_TIME_SCALE: Final = 0.0001

# Each has one picture in memory, decoded: two of them are as fast as a test needs.
_READERS: Final = 2
_NEEDED: Final = ("aiohttp", "av", "PIL")
_PATIENCE: Final = 30.0
# Rendering ends within a frame and handlers within half a second: what takes longer than this is
# code of the caller's own.
_STOPPING: Final = 10.0
# How soon whoever waits for the loop sees that it has ended, which nobody tells.
_BEAT: Final = 0.05

_STOPPED: Final = "this emulator has stopped: no request will meet a fault"


class Emulator:
    """An emulator of the API on loopback, from entering its `with` or `async with` to leaving it.

    It imports nothing of the SDK, never talks to anything but loopback, and bills nobody: `bill`
    is what the accepted creates would have cost by the provider's list. A word in brackets inside
    a prompt seals the job's fate where no script reaches: `[moderated]`, `[moderated:SHAPE]` (a
    shape of `faults.Moderated`), `[failed]`, `[expired]`. `output.upload_url` is accepted, and
    nothing is uploaded there: the file is behind the poll's link, as without it.
    """

    def __init__(
        self,
        api_key: str | None = None,
        *,
        port: int = 0,
        form: Form | Sequence[Form] = "flat",
        time_scale: float = TEST_TIME_SCALE,
        seed: int = 0,
        link_life: float = 24 * 3600.0,
        state: str | os.PathLike[str] | None = None,
        clip: ClipSource | None = None,
        chaos: Chaos | None = None,
        keep: int = 10_000,
        keep_jobs: int | None = None,
        separate_files: bool = False,
        base_path: str = "/grok/v1",
    ) -> None:
        """See the class.

        `form` is the form of the poll's answers, or several that take turns within each job.
        `time_scale` is the share of the real service's time a job takes; 1.0 is life.
        `link_life` is in seconds, not scaled. `state` names a file in which jobs, links and the
        bill outlive the process. `clip` is served in place of rendered videos. They are made while
        their jobs are waited for; jobs of milliseconds are over first, and the first byte of their
        files comes after 0.1 to 0.6 s for each second of video. `chaos` is asked
        for a fault whenever a phase's script is empty. `keep` bounds every log, and `keep_jobs`
        the jobs: older ones no longer exist. With `separate_files`, links point to the second
        origin, as the real ones do.
        """
        self._settings = checked(
            api_key=api_key,
            port=port,
            form=form,
            time_scale=time_scale,
            seed=seed,
            link_life=link_life,
            state=state,
            clip=clip,
            chaos=chaos,
            keep=keep,
            keep_jobs=keep_jobs,
            separate_files=separate_files,
            base_path=base_path,
        )
        self.api_key: str = api_key or f"sk-emulated-{secrets.token_hex(16)}"
        self._records = Records(keep)
        self._scripts = Scripts(keep, chaos)
        self._starting = threading.Lock()
        self._started = self._unwanted = False
        self._thread: threading.Thread | None = None
        self._loop: asyncio.AbstractEventLoop | None = None
        self._stop: asyncio.Event | None = None
        self._server: Server | None = None
        self._service: Service | None = None
        self._failure: BaseException | None = None
        self._urls = ("", "")

    # ------------------------------------------------------------------ doors

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.stop()

    async def __aenter__(self) -> Self:
        from anyio import CancelScope, to_thread

        try:
            await to_thread.run_sync(self.start)
        except BaseException:
            # Cancelled, perhaps by a `task.cancel()` that no shield keeps out: the thread that
            # starts us may go on, or not have begun. Nobody will leave what was never entered.
            self._unwanted = True
            with CancelScope(shield=True):
                await to_thread.run_sync(self.stop)
            raise
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        from anyio import CancelScope, to_thread

        with CancelScope(shield=True):
            await to_thread.run_sync(self.stop)

    def start(self) -> None:
        """The emulator answers; the caller's thread waited for a few milliseconds."""
        missing = [name for name in _NEEDED if importlib.util.find_spec(name) is None]
        if missing:
            raise ModuleNotFoundError(
                f"the emulator needs {' and '.join(missing)}, which "
                f"{'is' if len(missing) == 1 else 'are'} not installed: "
                'pip install "grok-video[emulator]"',
                name=missing[0],
            )
        started = threading.Event()
        thread = threading.Thread(
            target=self._run, args=(started,), name="grok-video-emulator", daemon=True
        )
        try:
            self._begin(thread, started)
        except BaseException:
            # Interrupted, perhaps: nobody will leave what was never entered.
            if self._thread is thread:
                self.stop()
            raise

    def _begin(self, thread: threading.Thread, started: threading.Event) -> None:
        with self._starting:
            if self._started or self._unwanted:
                raise RuntimeError("an emulator runs once; make another one, with the same state")
            self._started = True
            self._thread = thread
            thread.start()
        if not started.wait(_PATIENCE):
            raise RuntimeError(f"the emulator has not started within {_PATIENCE:g} s")
        if self._failure is not None:
            raise self._failure

    def stop(self) -> None:
        """The server is gone, with its thread, connections and files; the records stay.

        A `clip` or `chaos` of the caller's own that does not return keeps it: that is told by a
        `RuntimeWarning` after ten seconds.
        """
        with self._starting:
            thread, self._thread = self._thread, None
            if thread is None:
                return
            self._unwanted = True
        loop, stop = self._loop, self._stop
        if loop is not None and stop is not None:
            # The loop may have ended by itself, after a failure to start.
            with contextlib.suppress(RuntimeError):
                loop.call_soon_threadsafe(stop.set)
        try:
            thread.join(_STOPPING)
        except RuntimeError:
            if thread is threading.current_thread():
                raise
            # Interrupted while it was begun: it never runs, or sees that nobody wants it.
        if thread.is_alive():
            warnings.warn(
                f"the emulator at {self._urls[0]} has not stopped within {_STOPPING:g} s: it waits "
                "for a `clip` or `chaos` that has not returned. Its thread and folder are "
                "there until that returns; give it a limit of its own",
                RuntimeWarning,
                stacklevel=2,
            )
        self._loop = self._server = self._service = None

    def _run(self, started: threading.Event) -> None:
        try:
            # The listener watches its sockets, whatever loop the program around it has chosen.
            with asyncio.Runner(loop_factory=asyncio.SelectorEventLoop) as runner:
                runner.run(self._serve(started))
        except BaseException as failure:  # noqa: BLE001 - it belongs to the caller of start()
            self._failure = failure
        finally:
            started.set()

    async def _serve(self, started: threading.Event) -> None:
        from ._clips import Clips
        from ._server import Server
        from ._service import Service
        from ._store import opened

        async with contextlib.AsyncExitStack() as closing:
            renderers = ThreadPoolExecutor(os.cpu_count(), "grok-video-render")
            readers = ThreadPoolExecutor(_READERS, "grok-video-read")
            clips = Clips(renderers)
            closing.callback(clips.close)
            store = opened(self._settings.state, clips.folder)
            closing.callback(store.close)
            clips.picture = store.picture
            # What runs still reads and writes pictures and clips: it ends before both are gone.
            for pool in (renderers, readers):
                closing.callback(pool.shutdown, cancel_futures=True)
            if self._settings.api_key is None:
                self.api_key = store.fact("api_key", self.api_key)
            service = Service(self._settings, self._records, clips, readers, renderers, store)
            closing.push_async_callback(service.close)
            server = Server(
                service,
                self._records,
                self._scripts,
                api_key=self.api_key,
                base_path=self._settings.base_path,
                separate_files=self._settings.separate_files,
            )
            closing.push_async_callback(server.origins.close)
            # A restarted emulator is found where it was, if nobody asked for another place.
            server.origins.open(self._settings.port, store.fact("port", 0))
            store.set_fact("port", server.origins.port)
            self._urls = (server.origins.url("api"), server.origins.url("files"))
            self._loop, self._stop = asyncio.get_running_loop(), asyncio.Event()
            self._service, self._server = service, server
            server.origins.arm()
            # First of all that ends, or everything else would wait for the last frame.
            closing.callback(clips.stop)
            started.set()
            # Told to stop before there was anything to tell.
            if self._unwanted:
                return
            await self._stop.wait()

    # ------------------------------------------------------------------ where it is

    @property
    def base_url(self) -> str:
        """What a client takes for its base URL."""
        return self._place(0) + self._settings.base_path

    @property
    def origin(self) -> str:
        """Scheme, host and port of the API."""
        return self._place(0)

    @property
    def other_origin(self) -> str:
        """The second origin: it serves files only, and its requests are logged like all."""
        return self._place(1)

    def _place(self, number: int) -> str:
        if not self._urls[number]:
            raise RuntimeError(
                "this emulator has no address yet: enter it (`with` or `async with`), or call "
                "start() first"
            )
        return self._urls[number]

    # ------------------------------------------------------------------ what it saw

    @property
    def creates(self) -> tuple[Create, ...]:
        """The accepted creates, oldest first; the newest `keep` of them."""
        return self._records.creates()

    @property
    def accepted(self) -> int:
        """How many creates were accepted, however many are kept."""
        return self._records.accepted

    @property
    def bill(self) -> Decimal:
        """What the accepted creates would have cost, in USD."""
        return self._records.bill

    @property
    def polls(self) -> int:
        """How many requests came to the polling address."""
        return self._records.polls

    @property
    def downloads(self) -> int:
        """How many requests came for files, at either origin."""
        return self._records.downloads

    @property
    def connections(self) -> int:
        """How many connections were made, to either origin."""
        return self._records.connections

    @property
    def requests(self) -> tuple[Request, ...]:
        """The log of every request, oldest first; the newest `keep` of them."""
        return self._records.requests()

    @property
    def early(self) -> tuple[Request, ...]:
        """The creates that came while an earlier answer's `Retry-After` had time left.

        Creates that were on their way when that answer began are not among them.
        """
        return self._records.early()

    # ------------------------------------------------------------------ jobs by hand

    def finish(self, request_id: str) -> None:
        """The job is done now, whatever time it had left."""
        self._running().end(request_id)

    def fail(
        self, request_id: str, code: str = "internal_error", message: str = "Generation failed."
    ) -> None:
        """The job has failed now, with this error."""
        self._running().end(request_id, Failed(code, message))

    def expire(self, request_id: str) -> None:
        """The job has expired now."""
        self._running().end(request_id, Expired())

    def _running(self) -> Service:
        if self._service is None:
            raise RuntimeError("this emulator is not running")
        return self._service

    # ------------------------------------------------------------------ faults

    def script(self, phase: Phase, faults: Iterable[Fault]) -> None:
        """The next requests of this phase meet these faults, one each, in order."""
        thread = self._thread
        if self._started and thread is None:
            raise RuntimeError(_STOPPED)
        self._scripts.add(phase, faults)
        server, loop = self._server, self._loop
        if thread is None or server is None or loop is None or not self._scripts.connects:
            return
        if thread is threading.current_thread():
            # `chaos` is asked there: it would wait for itself.
            server.origins.arm()
        else:
            _arm(server, loop, thread)

    @property
    def faults_left(self) -> dict[Phase, tuple[Fault, ...]]:
        """The scripted faults that have not happened, by phase; empty when all have."""
        return self._scripts.left()

    @property
    def faults_consumed(self) -> tuple[Consumed, ...]:
        """The faults that happened and to which request, oldest first."""
        return self._scripts.consumed()

    def assert_faults_consumed(self) -> None:
        """Every scripted fault has happened."""
        left = self.faults_left
        if left:
            told = "; ".join(f"{phase}: {list(faults)}" for phase, faults in left.items())
            raise AssertionError(f"faults that never happened: {told}")

    def storm(self, seconds: float, retry_after: float | None = None) -> None:
        """For so many seconds every create and every poll is answered 429."""
        check_seconds("seconds", seconds)
        check_seconds("retry_after", retry_after or 0)
        server, loop = self._server, self._loop
        if server is None or loop is None:
            raise RuntimeError("this emulator is not running")
        loop.call_soon_threadsafe(server.storm, seconds, retry_after)


def _arm(server: Server, loop: asyncio.AbstractEventLoop, thread: threading.Thread) -> None:
    """Waits for the loop to do it, because the next connect may come as soon as this returns."""
    armed = threading.Event()

    def arm() -> None:
        try:
            server.origins.arm()
        finally:
            armed.set()

    try:
        loop.call_soon_threadsafe(arm)
    except RuntimeError:
        raise RuntimeError(_STOPPED) from None
    deadline = time.monotonic() + _PATIENCE
    # The loop may end before it comes to that.
    while not armed.wait(_BEAT) and time.monotonic() < deadline:
        if not thread.is_alive():
            raise RuntimeError(_STOPPED)


__all__ = ["PHASES", "TEST_TIME_SCALE", "Emulator"]
