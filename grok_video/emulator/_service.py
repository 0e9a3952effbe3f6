"""The service behind the wire: jobs accepted, watched and ended, links issued and checked.

Bytes and times come in, replies and clips go out; sockets and faults of the socket are the
server's. All of it runs in the server's loop, except `finish` and its kind, which only assign.
"""

from __future__ import annotations

import asyncio
import hashlib
import random
import re
import secrets
import time
import uuid
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Final

import attrs

from . import _sources
from ._answers import (
    MODERATED_CODE,
    MODERATED_TEXT,
    Facts,
    Form,
    Reply,
    as_json,
    gateway_error,
    gateway_request_id,
    poll,
    provider_error,
    task_not_exist,
    unreadable,
)
from ._clips import Clip, Clips, Wanted, given
from ._faults import (
    MODERATION_SHAPES,
    Backwards,
    DoneWithoutURL,
    Expired,
    Failed,
    LifeFault,
    Moderated,
    StuckProgress,
    TaskNotExist,
    UnknownStatus,
)
from ._life import DONE, SOURCE_FAILS_AFTER, Moment, moment, seconds_needed
from ._records import Create, Records, Request
from ._requests import Asked, Refused, frame_size, read_create
from ._sources import CARD, Source, Unusable

if TYPE_CHECKING:
    from concurrent.futures import Executor

    from ._store import Store

TICKS_PER_USD: Final = 10_000_000_000

# How a prompt asks for a bad end, for emulators that no script reaches.
_ASKED: Final = re.compile(r"\[(moderated|failed|expired)(?::([a-z-]+))?\]")

# A small body is read where it arrives; a thread costs more than it saves below this.
_INLINE: Final = 64 * 1024


@attrs.define
class Job:
    """One accepted create, as much of it as has to be remembered."""

    serial: int
    request_id: str
    model: str
    resolution: str
    aspect_ratio: str | None
    duration: int
    ticks: int
    created: float
    lasts: float
    """Seconds from the create to the end, scaled."""
    digest: str | None = None
    """The picture's, `None` for the test card."""
    size: tuple[int, int] = (0, 0)
    problem: Unusable | None = None
    """What is wrong with its source."""
    waiting: bool = False
    """Whether its source is still being fetched."""
    fate: LifeFault | None = None
    fated: int = 0
    """Polls answered under this fate."""
    polls: int = 0
    version: int = 0
    uploads: bool = False


ClipSource = bytes | Path | Callable[[Job], bytes | Path]


@attrs.define
class Settings:
    """What an emulator was asked to be."""

    forms: Sequence[Form]
    time_scale: float
    seed: int
    link_life: float
    clip: ClipSource | None


class Service:
    """The jobs of one emulator."""

    def __init__(
        self, settings: Settings, records: Records, clips: Clips, pool: Executor, store: Store
    ) -> None:
        self.settings = settings
        self._records = records
        self._clips = clips
        self._pool = pool
        self._store = store
        self._jobs: dict[str, Job] = {}
        self._by_serial: list[Job] = []
        self._secret = store.secret
        self._known: dict[bytes, Source | Unusable] = {}
        self._fetching: set[asyncio.Task[None]] = set()
        self._dead_links: set[str] = set()  # not kept over restarts: a fault's memory
        self._last_link = 0
        # Wall time that cannot jump: links and jobs are compared with it over restarts.
        self._epoch = time.time() - time.monotonic()
        for job, create in zip(store.jobs(), store.creates(), strict=True):
            self._jobs[job.request_id] = job
            self._by_serial.append(job)
            records.accept(create)
            if job.waiting:
                self._begin_fetch(job, create.fields["image"]["url"])
        # Seeded anew after a restart, or the second life would repeat the first one's numbers.
        seed = settings.seed + len(self._by_serial)
        self._chance = random.Random(seed)  # noqa: S311 - repeatable, not secret

    def now(self) -> float:
        """Unix seconds; never goes back."""
        return self._epoch + time.monotonic()

    def job(self, request_id: str) -> Job | None:
        """The job of this id."""
        return self._jobs.get(request_id)

    # ------------------------------------------------------------------ creates

    async def create(self, body: bytes) -> tuple[Reply, Job | None]:
        """The answer to a create and, if it was accepted, its job: recorded, billed, durable."""
        asked = read_create(body)
        if isinstance(asked, Refused):
            return self._refusal(asked, body), None
        source = await self._source(asked, len(body))
        now = self.now()
        job = self._accept(asked, source, now)
        create = Create(
            job.request_id, asked.price, asked.fields, hashlib.sha256(body).hexdigest(), now
        )
        self._store.accept(job, create)
        self._jobs[job.request_id] = job
        self._by_serial.append(job)
        self._records.accept(create)
        if job.waiting and asked.image is not None:
            self._begin_fetch(job, asked.image)
        headers: tuple[tuple[str, str], ...] = ()
        if self.settings.forms[0].startswith("native"):
            headers = (("x-request-id", job.request_id), ("x-ratelimit-limit-requests", "60"))
        reply = as_json(200, {"request_id": job.request_id})
        return attrs.evolve(reply, headers=headers), job

    def _refusal(self, refused: Refused, body: bytes) -> Reply:
        match refused.kind:
            case "shape":
                return unreadable(refused.message, body)
            case "argument":
                return provider_error(400, "invalid-argument", refused.message)
            case "model" if self.settings.forms[0].startswith("native"):
                text = (
                    f"The model {refused.message} does not exist or your team does not have "
                    "access to it. Please ensure you're using the correct API key."
                )
                return provider_error(404, "Some requested entity was not found", text)
            case "model":
                text = (
                    f"no available channel for group default and model {refused.message} "
                    "(distributor)"
                )
                return self.gateway_error(503, text, code="model_not_found")
            case "invalid":
                return self.gateway_error(400, refused.message, param=refused.param)

    def gateway_error(self, status: int, message: str, *, param: str = "", code: str = "") -> Reply:
        """The gateway's error body with a request id of its own."""
        request_id = gateway_request_id(self.now(), self._chance)
        return gateway_error(status, message, request_id, param=param, code=code)

    def _accept(self, asked: Asked, source: Source | Unusable | None, now: float) -> Job:
        scale = self.settings.time_scale
        lasts = scale * seconds_needed(asked.model, asked.resolution, asked.duration, self._chance)
        if isinstance(source, Unusable):
            lasts = scale * SOURCE_FAILS_AFTER
        usable = source if isinstance(source, Source) else None
        job = Job(
            serial=len(self._by_serial),
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
            uploads=asked.uploads,
        )
        _settle(job, usable)
        job.fate = _asked_fate(asked.prompt)
        return job

    # ------------------------------------------------------------------ sources

    async def _source(self, asked: Asked, size: int) -> Source | Unusable | None:
        """The create's picture; `None` when there is none or it has to be fetched."""
        url = asked.image
        if url is None:
            return None
        if url.startswith("data:"):
            if size <= _INLINE and self.settings.clip is not None:
                return self._read_inline(url)
            loop = asyncio.get_running_loop()
            return await loop.run_in_executor(self._pool, self._read_inline, url)
        if _sources.is_played(url):
            return CARD
        return None if _sources.is_loopback(url) else _sources.unreachable()

    def _read_inline(self, uri: str) -> Source | Unusable:
        data = _sources.read_data_uri(uri)
        return data if isinstance(data, Unusable) else self._keep(data)

    def _keep(self, data: bytes) -> Source | Unusable:
        """What these bytes are; a picture that will be rendered is put on disk."""
        digest = hashlib.sha256(data).digest()
        known = self._known.get(digest)
        if known is None:
            rendered = self.settings.clip is None
            known = _sources.inspect(data, thorough=rendered)
            if isinstance(known, Source) and rendered:
                self._store.keep_picture(known.digest, data)
            # A memory of the newest thousand pictures; forgetting one costs a second look.
            if len(self._known) >= 1000:
                self._known.clear()
            self._known[digest] = known
        return known

    def _begin_fetch(self, job: Job, url: str) -> None:
        task = asyncio.create_task(self._fetch(job, url))
        self._fetching.add(task)
        task.add_done_callback(self._fetching.discard)

    async def _fetch(self, job: Job, url: str) -> None:
        data = await _sources.fetch(url)
        found: Source | Unusable
        if isinstance(data, Unusable):
            found = data
        else:
            loop = asyncio.get_running_loop()
            found = await loop.run_in_executor(self._pool, self._keep, data)
        if isinstance(found, Unusable):
            job.problem = found
            job.lasts = min(job.lasts, self.now() - job.created)
        else:
            _settle(job, found)
        job.waiting = False
        self._store.update(job)

    # ------------------------------------------------------------------ polls

    def poll(self, job: Job, link_base: str, strike: LifeFault | None = None) -> Reply:
        """The answer to one poll; a fault that strikes now stays with the job and ends it."""
        now = self.now()
        if strike is not None:
            job.fate, job.fated = strike, 0
            if isinstance(strike, DoneWithoutURL | Moderated | Expired | Failed):
                job.lasts = min(job.lasts, now - job.created)
            self._store.update(job)
        form = self.settings.forms[job.polls % len(self.settings.forms)]
        job.polls += 1
        seen = self._moment(job, now)
        word: str | None = None
        fate = job.fate
        if fate is not None:
            job.fated += 1
            match fate:
                case TaskNotExist(polls=polls, seconds=seconds):
                    if job.fated <= polls or now < job.created + seconds:
                        return task_not_exist()
                case UnknownStatus(polls=polls) if job.fated <= polls:
                    word, seen = fate.word, Moment("processing", min(seen.percent, 35))
                    form = "native" if form == "native-empty" else form
                case StuckProgress(polls=polls) if job.fated <= polls:
                    seen = Moment("processing", fate.percent)
                case Backwards(percents=percents) if job.fated <= len(percents):
                    share = percents[job.fated - 1]
                    seen = Moment("processing", share) if share else Moment("queued")
                case _:
                    pass
        facts = Facts(
            job.request_id,
            job.model,
            job.duration,
            job.ticks,
            job.created,
            job.created + job.lasts,
        )
        if seen is not DONE:
            return poll(form, seen, facts, word)
        if job.problem is not None:
            code, message = job.problem.code, job.problem.message
            facts = attrs.evolve(facts, code=code, message=message)
            return poll(form, Moment("failed"), facts)
        match fate:
            case Expired():
                return poll(form, Moment("expired"), facts)
            case Failed(code=code, message=message):
                facts = attrs.evolve(facts, code=code, message=message)
                return poll(form, Moment("failed"), facts)
            case DoneWithoutURL():
                return poll(form, DONE, facts)
            case Moderated(shape=shape):
                return _moderated(shape, form, facts)
            case _:
                url = self.link(job, link_base, now)
                return poll(form, DONE, attrs.evolve(facts, url=url))

    def strike(self, job: Job, fate: LifeFault) -> None:
        """From now on this is the job's fate; it shows when its time has come."""
        job.fate, job.fated = fate, 0
        self._store.update(job)

    def note_attempt(self, log: Request) -> None:
        """Keeps when a create came and what it was answered."""
        self._store.attempt(log)

    def is_done(self, job: Job) -> bool:
        """Whether a poll would now give a link."""
        return (
            self._moment(job, self.now()) is DONE
            and job.problem is None
            and not isinstance(job.fate, DoneWithoutURL | Moderated | Expired | Failed)
        )

    def _moment(self, job: Job, now: float) -> Moment:
        seen = moment(now - job.created, job.lasts)
        # A source that is still on its way keeps the job from ending, never the poll waiting.
        return Moment("processing", 1) if job.waiting and seen is DONE else seen

    # ------------------------------------------------------------------ links and clips

    def link(self, job: Job, base: str, now: float) -> str:
        """A fresh address of the job's file; no two are equal."""
        self._last_link = issued = max(self._last_link + 1, int(now * 1_000_000))
        token = f"{job.serial:x}-{issued:x}"
        return f"{base}/files/xai-video-{token}-{self._sign(token)}.mp4"

    def _sign(self, token: str) -> str:
        return hashlib.blake2s(token.encode(), key=self._secret, digest_size=8).hexdigest()

    def linked(self, name: str) -> Job | None:
        """The job a file name was issued for; `None` if the link is dead or nobody issued it."""
        try:
            serial, issued, signature = name.removeprefix("xai-video-").split("-")
            job = self._by_serial[int(serial, 16)]
            age = self.now() - int(issued, 16) / 1_000_000
        except (ValueError, IndexError):
            return None
        if signature != self._sign(f"{serial}-{issued}") or age > self.settings.link_life:
            return None
        return None if name in self._dead_links else job

    def kill_link(self, name: str) -> None:
        """From now on this link is dead; others of the same job live on."""
        self._dead_links.add(name)

    def another_version(self, job: Job) -> None:
        """From now on the job's file is another one."""
        job.version += 1
        self._store.update(job)

    async def clip(self, job: Job) -> Clip:
        """The job's file, rendered now if need be."""
        clip = self.settings.clip
        if clip is None:
            wanted = Wanted(job.digest or CARD.digest, job.size, job.duration, job.version)
            return await self._clips.get(wanted)
        if not callable(clip):
            return given(clip, job.version)
        loop = asyncio.get_running_loop()
        return given(await loop.run_in_executor(self._pool, clip, job), job.version)

    # ------------------------------------------------------------------ from outside

    def end(self, request_id: str, fate: LifeFault | None = None) -> None:
        """Ends the job now: done, or with this fate."""
        job = self._jobs[request_id]
        if fate is not None:
            job.fate, job.fated = fate, 0
        job.lasts = min(job.lasts, self.now() - job.created)
        job.waiting = False
        self._store.update(job)

    async def close(self) -> None:
        """Nothing is being fetched any more."""
        for task in self._fetching:
            task.cancel()
        await asyncio.gather(*self._fetching, return_exceptions=True)


def _settle(job: Job, source: Source | None) -> None:
    """Gives the job its picture and with it the size of its frames."""
    played = source is None or source is CARD
    job.digest = None if played or source is None else source.digest
    job.size = frame_size(job.resolution, job.aspect_ratio, source.size if source else None)


def _asked_fate(prompt: str) -> LifeFault | None:
    """The fate a marker in the prompt asks for; an unknown shape is the first."""
    found = _ASKED.search(prompt)
    match found and found[1]:
        case "moderated":
            shapes: dict[str, Moderated] = {one: Moderated(one) for one in MODERATION_SHAPES}
            return shapes.get(found[2], Moderated()) if found else None
        case "failed":
            return Failed()
        case "expired":
            return Expired()
        case _:
            return None


def _moderated(shape: str, form: Form, facts: Facts) -> Reply:
    text = MODERATED_TEXT
    failed = attrs.evolve(facts, code=_sources.INVALID, message=text)
    match shape:
        case "poll":
            return provider_error(400, MODERATED_CODE, text, facts.ticks)
        case "top-level":
            return provider_error(200, MODERATED_CODE, text, facts.ticks)
        case "failed":
            return poll(form, Moment("failed"), failed)
        case "envelope":
            return poll("envelope", Moment("failed"), failed)
        case _:
            return poll(form, DONE, attrs.evolve(facts, moderated=True))
