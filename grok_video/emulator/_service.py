"""The service behind the wire: jobs accepted and billed, their sources and their files found.

Bytes and times come in, replies and clips go out; sockets and faults of the socket are the
server's. All of it runs in the server's loop, except `finish` and its kind, which only assign.
"""

from __future__ import annotations

import asyncio
import hashlib
import random
import secrets
import tempfile
import time
import uuid
from typing import IO, TYPE_CHECKING, Final

import attrs

from . import _sources
from ._answers import (
    PROVIDERS,
    Reply,
    as_json,
    gateway_error,
    gateway_request_id,
    not_found,
    provider_error,
    task_not_exist,
    unreadable,
    wrong_key,
)
from ._clips import Clip, Clips, Wanted, given
from ._jobs import Job, asked_fate, is_bad_end
from ._life import SOURCE_FAILS_AFTER, seconds_needed
from ._links import Links
from ._pictures import Pictures
from ._records import Create, Records, Request
from ._requests import Asked, Refused, is_data_uri, read_create
from ._scripts import Mistaken
from ._sources import CARD, Source, Unusable

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from concurrent.futures import Executor
    from pathlib import Path

    from ._faults import LifeFault
    from ._scripts import Phase
    from ._settings import Settings
    from ._store import Store

TICKS_PER_USD: Final = 10_000_000_000

# A small body is read where it arrives; a thread costs more than it saves below this.
_INLINE: Final = 64 * 1024

# Fifteen seconds at 1080p take about ten to render; a job that is waited for begins with its file
# so long before its end. One that lasts less than a second is over before that would help, and most
# tests, whose jobs last milliseconds, never ask for the file.
_AHEAD: Final = 20.0
_WORTHWHILE: Final = 1.0


@attrs.define
class _Taken:
    """A create's body, read."""

    asked: Asked | Refused
    fingerprint: str
    end: tuple[int, int]
    """Line and column at which the body ended."""
    source: Source | Unusable | None = None
    """Its picture; `None` when there is none or it has to be fetched."""
    data: bytes | None = None
    """The picture's bytes, if nobody has looked at them yet."""


class Service:
    """The jobs of one emulator."""

    def __init__(
        self,
        settings: Settings,
        records: Records,
        clips: Clips,
        readers: Executor,
        others: Executor,
        store: Store,
    ) -> None:
        self.settings = settings
        self._provider = settings.forms[0] in PROVIDERS
        self._records = records
        self._clips = clips
        # Pictures are looked at beside what renders, or a create would wait for a video.
        self._readers = readers
        self._others = others
        self._store = store
        self._pictures = Pictures(store, thorough=settings.clip is None)
        self._jobs: dict[str, Job] = {}
        self._by_serial: dict[int, Job] = {}
        self._serials = 0
        self.links = Links(store.secret, settings.link_life, store.killed())
        self._served: bool = bool(store.fact("served", 0))
        self._fetching: set[asyncio.Task[None]] = set()
        # Wall time that cannot jump: links and jobs are compared with it over restarts.
        self._epoch = time.time() - time.monotonic()
        jobs = tuple(store.jobs())
        # All of them first: a job that is let go would take a picture along that a later one has.
        for job in jobs:
            self._pictures.hold(job.digest)
        for job, create in zip(jobs, store.creates(), strict=True):
            self._remember(job)
            records.accept(create)
            if job.waiting:
                self._begin_fetch(job, create.fields["image"]["url"])
        # Seeded anew after a restart, or the second life would repeat the first one's numbers.
        seed = settings.seed + self._serials
        self._chance = random.Random(seed)  # noqa: S311 - repeatable, not secret
        # Of their own, or a refusal would change how long the jobs after it take.
        self._names = random.Random(seed)  # noqa: S311 - as above

    def now(self) -> float:
        """Unix seconds; never goes back."""
        return self._epoch + time.monotonic()

    def _remember(self, job: Job) -> None:
        self._serials = job.serial + 1
        self._jobs[job.request_id] = self._by_serial[job.serial] = job
        most = self.settings.keep_jobs
        if most is not None and len(self._by_serial) > most:
            oldest = self._by_serial.pop(next(iter(self._by_serial)))
            del self._jobs[oldest.request_id]
            self._pictures.release(oldest.digest)

    def job(self, request_id: str) -> Job | None:
        """The job of this id."""
        return self._jobs.get(request_id)

    # ------------------------------------------------------------------ creates

    def room(self) -> IO[bytes]:
        """Where a body is put as it arrives: a large one on disk, however many come at once."""
        return tempfile.SpooledTemporaryFile(max_size=_INLINE, dir=str(self._clips.folder))

    async def create(self, body: IO[bytes], size: int) -> tuple[Reply, Job | None]:
        """The answer to a create and, if it was accepted, its job: recorded, billed, durable."""
        if size <= _INLINE:
            taken = self._take(body, small=True)
        else:
            loop = asyncio.get_running_loop()
            taken = await loop.run_in_executor(self._readers, self._take, body)
        asked, source = taken.asked, taken.source
        if isinstance(asked, Refused):
            return self._refusal(asked, taken.end), None
        if taken.data is not None:
            loop = asyncio.get_running_loop()
            source = await loop.run_in_executor(self._readers, self._pictures.keep, taken.data)
        now = self.now()
        job = self._accept(asked, source, now)
        create = Create(job.request_id, asked.price, asked.fields, taken.fingerprint, now)
        self._store.accept(job, create)
        self._remember(job)
        self._records.accept(create)
        if job.waiting and asked.image is not None:
            self._begin_fetch(job, asked.image)
        headers: tuple[tuple[str, str], ...] = ()
        if self._provider:
            headers = (("x-request-id", job.request_id), ("x-ratelimit-limit-requests", "60"))
        reply = as_json(200, {"request_id": job.request_id})
        return attrs.evolve(reply, headers=headers), job

    def _take(self, file: IO[bytes], *, small: bool = False) -> _Taken:
        """What the body asks for, and its picture; the bytes of a large one are gone afterwards."""
        body = file.read()
        asked, fingerprint = read_create(body), hashlib.sha256(body).hexdigest()
        end = (body.count(b"\n") + 1, len(body) - body.rfind(b"\n") - 1)
        taken = _Taken(asked, fingerprint, end)
        del body
        if isinstance(asked, Refused) or asked.image is None:
            return taken
        if not is_data_uri(asked.image):
            taken.source = _sources.elsewhere(asked.image)
            return taken
        data = _sources.read_data_uri(asked.image)
        taken.asked = attrs.evolve(asked, image="data:")
        if isinstance(data, Unusable):
            taken.source = data
        elif small and self._pictures.thorough:
            # Decoded in the pool by the caller: a small file may hold many pixels.
            taken.data = data
        else:
            taken.source = self._pictures.keep(data)
        return taken

    def _refusal(self, refused: Refused, end: tuple[int, int]) -> Reply:
        match refused.kind:
            case "shape":
                return unreadable(refused.message, end)
            case "argument":
                return provider_error(400, "invalid-argument", refused.message)
            case "model" if self._provider:
                text = (
                    f"The model {refused.message} does not exist or your team does not have "
                    "access to it. Please ensure you're using the correct API key."
                )
                return not_found(text)
            case "model":
                text = (
                    f"no available channel for group default and model {refused.message} "
                    "(distributor)"
                )
                return self.gateway_error(503, text, code="model_not_found")
            case "invalid" if self._provider:
                return provider_error(400, "invalid-argument", refused.message)
            case "invalid":
                return self.gateway_error(400, refused.message, param=refused.param)

    def unknown(self, request_id: str) -> Reply:
        """The answer to a poll of a job that nobody knows."""
        if self._provider:
            return not_found(f"Video with id={request_id} not found")
        return task_not_exist()

    def unauthorized(self, given: str | None) -> Reply:
        """The answer to a request without our key."""
        if given is None:
            return self.gateway_error(401, "No token provided")
        return wrong_key() if self._provider else self.gateway_error(401, "Invalid token")

    def gateway_error(self, status: int, message: str, *, param: str = "", code: str = "") -> Reply:
        """The gateway's error body with a request id of its own."""
        request_id = gateway_request_id(self.now(), self._names)
        return gateway_error(status, message, request_id, param=param, code=code)

    def _accept(self, asked: Asked, source: Source | Unusable | None, now: float) -> Job:
        scale = self.settings.time_scale
        lasts = scale * seconds_needed(asked.model, asked.resolution, asked.duration, self._chance)
        if isinstance(source, Unusable):
            lasts = scale * SOURCE_FAILS_AFTER
        usable = source if isinstance(source, Source) else None
        job = Job(
            serial=self._serials,
            request_id=str(uuid.UUID(bytes=secrets.token_bytes(16))),
            model=asked.model,
            resolution=asked.resolution,
            aspect_ratio=asked.aspect_ratio,
            duration=asked.duration,
            ticks=int(asked.price * TICKS_PER_USD),
            created=now,
            lasts=lasts,
            problem=source if isinstance(source, Unusable) else None,
            waiting=source is None and asked.image is not None,
        )
        job.settle(usable)
        job.fate = asked_fate(asked.prompt)
        return job

    # ------------------------------------------------------------------ sources

    def _begin_fetch(self, job: Job, url: str) -> None:
        task = asyncio.create_task(self._fetch(job, url))
        self._fetching.add(task)
        task.add_done_callback(self._fetching.discard)

    async def _fetch(self, job: Job, url: str) -> None:
        try:
            found = await self._fetched(url)
        except Exception as error:  # noqa: BLE001 - whatever it is, the job must not wait for ever
            text = f"The emulator could not take this picture: {type(error).__name__}: {error}"
            found = Unusable(text, "internal")
        if not job.waiting:
            # Ended by hand meanwhile, and told so: it stays as it is.
            self._pictures.release(found.digest if isinstance(found, Source) else None)
            return
        if isinstance(found, Unusable):
            job.problem = found
            job.end(self.now())
        else:
            job.settle(found)
        job.waiting = False
        if self._by_serial.get(job.serial) is not job:
            self._pictures.release(job.digest)
        self._store.update(job)

    async def _fetched(self, url: str) -> Source | Unusable:
        data = await _sources.fetch(url)
        if isinstance(data, Unusable):
            return data
        loop = asyncio.get_running_loop()
        return await loop.run_in_executor(self._readers, self._pictures.keep, data)

    # ------------------------------------------------------------------ polls

    def poll(self, job: Job, link_base: str, fate: LifeFault | None = None) -> Reply:
        """The answer to one poll; a fate that strikes now stays with the job, an end ends it."""
        now = self.now()
        if fate is not None:
            job.strike(fate)
            if is_bad_end(fate):
                job.end(now)
            self._store.update(job)
        if self.settings.clip is None and job.lasts >= _WORTHWHILE and job.ends_within(_AHEAD, now):
            self._clips.expect(_wanted(job))
        form = self.settings.forms[job.polls % len(self.settings.forms)]
        return job.answer(
            form, now, lambda: f"{link_base}/files/{self.links.issue(job.serial, now)}"
        )

    def reached(self, job: Job) -> bool:
        """Whether a client that polled this job now has had a link, noted for a later process."""
        if not job.has_link(self.now()):
            return False
        if not self._served:
            self._served = True
            self._store.set_fact("served", 1)
        return True

    def phases(self) -> Iterator[Phase]:
        """The phases that clients of earlier processes can have come to."""
        if self._jobs:
            yield "poll"
        if self._served:
            yield "download"

    def kill(self, name: str) -> None:
        """From now on this link is dead."""
        self.links.kill(name)
        self._store.kill(name)

    def strike(self, job: Job, fate: LifeFault) -> None:
        """From now on this is the job's fate; it shows when its time has come."""
        job.strike(fate)
        self._store.update(job)

    def note_attempt(self, log: Request) -> None:
        """Keeps when a create came and what it was answered."""
        self._store.attempt(log)

    # ------------------------------------------------------------------ files

    def linked(self, name: str) -> Job | None:
        """The job a file name was issued for; `None` if the link is dead or nobody issued it."""
        serial = self.links.read(name, self.now())
        return None if serial is None else self._by_serial.get(serial)

    def another_version(self, job: Job) -> None:
        """From now on the job's file is another one."""
        job.version += 1
        self._store.update(job)

    async def clip(self, job: Job) -> Clip:
        """The job's file, rendered now if need be."""
        clip = self.settings.clip
        if clip is None:
            return await self._clips.get(_wanted(job))
        if not callable(clip):
            return given(clip, job.version)
        loop = asyncio.get_running_loop()
        return await loop.run_in_executor(self._others, _given, clip, job)

    # ------------------------------------------------------------------ from outside

    def end(self, request_id: str, fate: LifeFault | None = None) -> None:
        """Ends the job now: done, or with this fate."""
        job = self._jobs.get(request_id)
        if job is None:
            raise KeyError(
                f"no job {request_id!r} here: `creates` has those that were accepted, and "
                "`keep_jobs` may have let it go"
            )
        if fate is not None:
            job.strike(fate)
        job.end(self.now())
        job.waiting = False
        self._store.update(job)

    async def close(self) -> None:
        """Nothing is being fetched any more."""
        for task in self._fetching:
            task.cancel()
        await asyncio.gather(*self._fetching, return_exceptions=True)


def _given(clip: Callable[[Job], bytes | Path], job: Job) -> Clip:
    try:
        return given(clip(job), job.version)
    except Exception as error:
        raise Mistaken("clip", f"raised {type(error).__name__}: {error}") from error


def _wanted(job: Job) -> Wanted:
    return Wanted(job.digest or CARD.digest, job.size, job.duration, job.version)
