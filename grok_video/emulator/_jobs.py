"""One job, and what each of its polls says: decisions on values, given the time.

Between the life model (`_life`) and the bodies (`_answers`): which moment a job shows, what a
fate makes of it, and which marker in a prompt asks for one. No clock, no store, no socket.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Final

import attrs

from ._answers import (
    MODERATED_CODE,
    MODERATED_TEXT,
    Facts,
    Form,
    Reply,
    poll,
    provider_error,
    task_not_exist,
)
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
from ._life import DONE, Moment, moment
from ._requests import frame_size
from ._sources import CARD, INVALID, Source, Unusable

if TYPE_CHECKING:
    from collections.abc import Callable

# How a prompt asks for a bad end, for emulators that no script reaches.
_ASKED: Final = re.compile(r"\[(moderated|failed|expired)(?::([a-z-]+))?\]")

_BAD_ENDS: Final = (DoneWithoutURL, Moderated, Expired, Failed)


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
    """Which version of its file is served."""

    def settle(self, source: Source | None) -> None:
        """The job has its picture, and with it the size of its frames."""
        played = source is None or source is CARD
        self.digest = None if played or source is None else source.digest
        self.size = frame_size(self.resolution, self.aspect_ratio, source.size if source else None)

    def strike(self, fate: LifeFault) -> None:
        """From now on this is the job's fate; a bad end shows when the job's time has come."""
        self.fate, self.fated = fate, 0

    def end(self, now: float) -> None:
        """The job's time has come, if it had not yet."""
        self.lasts = min(self.lasts, now - self.created)

    def seen(self, now: float) -> Moment:
        """Where the job stands, fates aside."""
        found = moment(now - self.created, self.lasts)
        # A source that is still on its way keeps the job from ending, never the poll waiting.
        return Moment("processing", 1) if self.waiting and found is DONE else found

    @property
    def promising(self) -> bool:
        """Whether it will end with a file, as far as is known now."""
        return self.problem is None and not isinstance(self.fate, _BAD_ENDS)

    def has_link(self, now: float) -> bool:
        """Whether a poll would now give a link."""
        return self.promising and self.seen(now) is DONE

    def ends_within(self, seconds: float, now: float) -> bool:
        """Whether it runs, and will end with a file within so many seconds."""
        left = self.created + self.lasts - now
        return 0 < left <= seconds and self.promising and not self.waiting

    def answer(self, form: Form, now: float, link: Callable[[], str]) -> Reply:
        """What this poll says; counted, because some fates last for so many polls."""
        self.polls += 1
        self.fated += self.fate is not None
        seen, word, fate = self.seen(now), None, self.fate
        match fate:
            case TaskNotExist(polls=polls, seconds=seconds):
                if self.fated <= polls or now < self.created + seconds:
                    return task_not_exist()
            case UnknownStatus(polls=polls) if self.fated <= polls:
                word, seen = fate.word, Moment("processing", min(seen.percent, 35))
                form = "native" if form == "native-empty" else form
            case StuckProgress(polls=polls) if self.fated <= polls:
                seen = Moment("processing", fate.percent)
            case Backwards(percents=percents) if self.fated <= len(percents):
                share = percents[self.fated - 1]
                seen = Moment("processing", share) if share else Moment("queued")
            case _:
                pass
        facts = Facts(
            request_id=self.request_id,
            model=self.model,
            duration=self.duration,
            ticks=self.ticks,
            submitted=self.created,
            finished=self.created + self.lasts,
        )
        if seen is not DONE:
            return poll(form, seen, facts, word)
        return self._ending(form, facts, link)

    def _ending(self, form: Form, facts: Facts, link: Callable[[], str]) -> Reply:
        if self.problem is not None:
            code, message = self.problem.code, self.problem.message
            return poll(form, Moment("failed"), attrs.evolve(facts, code=code, message=message))
        match self.fate:
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
                return poll(form, DONE, attrs.evolve(facts, url=link()))


def is_bad_end(fate: LifeFault) -> bool:
    """Whether the fate is an end, and not a stretch of the way."""
    return isinstance(fate, _BAD_ENDS)


def asked_fate(prompt: str) -> LifeFault | None:
    """The fate a marker in the prompt asks for; an unknown shape is the first."""
    found = _ASKED.search(prompt)
    if found is None:
        return None
    match found[1]:
        case "moderated":
            shapes: dict[str, Moderated] = {one: Moderated(one) for one in MODERATION_SHAPES}
            return shapes.get(found[2], Moderated())
        case "failed":
            return Failed()
        case _:
            return Expired()


def _moderated(shape: str, form: Form, facts: Facts) -> Reply:
    failed = attrs.evolve(facts, code=INVALID, message=MODERATED_TEXT)
    match shape:
        case "poll":
            return provider_error(400, MODERATED_CODE, MODERATED_TEXT, facts.ticks)
        case "top-level":
            return provider_error(200, MODERATED_CODE, MODERATED_TEXT, facts.ticks)
        case "failed":
            return poll(form, Moment("failed"), failed)
        case "envelope":
            return poll("envelope", Moment("failed"), failed)
        case _:
            return poll(form, DONE, attrs.evolve(facts, moderated=True))
