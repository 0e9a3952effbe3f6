"""What one client has seen of finished and running jobs, and what it expects of the next ones.

Times are learned per kind of job (model, duration, resolution) as the logarithm of how many times
longer than `typical_seconds` a job took; kinds teach each other the server's speed. Only facts and
beliefs live here, in bounded memory: no clock, no I/O, and no decision when to poll.
"""

from __future__ import annotations

import math
from random import Random
from typing import Final

from grok_video._kinds import CARRIED, NO_RUNG, UNKNOWN_SPEED, Cohort, Humps, Kind

__all__ = ["Experience", "Watch", "typical_seconds"]

#: Kinds kept per client; the one unused longest is forgotten first.
KINDS: Final = 64
#: A generation stops taking new jobs after this many have finished; the one before it counts
#: with `CARRIED` jobs. So a server that changes its speed is believed within some 50 jobs.
GENERATION: Final = 100
# How far the formula in contract.md may be off for one kind on a server whose speed is known.
UNKNOWN_KIND: Final = 0.15
#: Seconds; nothing is taken to be faster.
SOONEST: Final = 1e-4


def typical_seconds(model: str | None, duration: int | None, resolution: str | None) -> float:
    """Seconds a job typically takes, before anything was seen (contract.md, section 5).

    What the caller left out is filled in with the server's defaults: model 1.5, 8 seconds, 720p
    (480p for the older model).
    """
    newer = "1.5" in (model or "grok-imagine-video-1.5")
    per_second = {"480p": 1.2, "720p": 2.9, "1080p": 4.0}.get(
        resolution or ("720p" if newer else "480p"), 2.9
    )
    return (8.0 + (duration or 8) * per_second) * (3.0 if newer else 1.0)


class Watch:
    """What one job has shown so far; made with the job, filled by its polls."""

    __slots__ = (
        "age_known",
        "audit",
        "belief",
        "cohort",
        "due",
        "duration",
        "elapsed",
        "hint_until",
        "kind",
        "model",
        "polls",
        "progress",
        "readings",
        "resolution",
        "rung",
        "tested",
        "unread",
    )

    def __init__(
        self,
        *,
        duration: int | None,
        resolution: str | None,
        model: str | None,
        age_known: bool = True,
    ) -> None:
        self.duration: int | None = duration
        self.resolution: str | None = resolution
        self.model: str | None = model
        #: False for a handle made from an id: nobody knows when that job began.
        self.age_known: bool = age_known
        self.polls: int = 0
        #: When the last poll was answered, and when it had been planned for.
        self.elapsed: float = 0.0
        self.due: float | None = None
        #: Until then the server wants no poll of this job.
        self.hint_until: float = 0.0
        self.progress: float | None = None
        #: (elapsed, progress) of each poll that brought a number, oldest first, at most 12.
        self.readings: list[tuple[float, float]] | tuple[()] = ()
        #: True until the policy has looked at the last number.
        self.unread: bool = False
        #: What log(seconds in all) may be, once a number told something.
        self.belief: Humps | None = None
        #: True where the usual schedule is kept beside what progress foretells, to test it.
        self.audit: bool = False
        #: True once the belief rests on a curve learned from finished jobs.
        self.tested: bool = False
        self.kind: Kind | None = None
        self.cohort: Cohort | None = None
        self.rung: int = NO_RUNG

    def note(self, elapsed: float, progress: float | None, hint: float | None = None) -> None:
        """The poll answered at `elapsed` found the job running; `hint` is the server's wish."""
        self.polls += 1
        if self.elapsed < elapsed < math.inf:
            self.elapsed = elapsed
        if progress is not None and math.isfinite(progress):
            self.unread = True
            if not 0.0 <= progress <= 100.0:
                progress = min(max(progress, 0.0), 100.0)
            self.progress = progress
            readings = self.readings or []
            if len(readings) == 12:
                del readings[6]
            readings.append((self.elapsed, progress))
            self.readings = readings
        if hint is not None and 0.0 < hint < math.inf:
            self.hint_until = self.elapsed + hint


class Experience:
    """What one client has seen; every job of the client adds to it and draws on it."""

    __slots__ = ("_kinds", "_random", "answered", "round_trip", "soonest")

    def __init__(self) -> None:
        self._kinds: dict[tuple[str | None, int | None, str | None], Kind] = {}
        # Which finished jobs are kept must not depend on, or disturb, the caller's random source.
        self._random = Random(0)  # noqa: S311 -- not cryptography
        #: Polls answered "still running" so far.
        self.answered: int = 0
        #: The shortest time in which a job was found done.
        self.soonest: float = math.inf
        #: Seconds a poll takes from being due to being answered, smoothed.
        self.round_trip: float = 0.3

    def kind(self, watch: Watch) -> Kind:
        """Return what is believed of jobs like this one."""
        kind = watch.kind
        if kind is not None:
            return kind
        key = (watch.model, watch.duration, watch.resolution)
        kind = self._kinds.pop(key, None)
        if kind is None:
            if len(self._kinds) >= KINDS:
                del self._kinds[next(iter(self._kinds))]
            kind = Kind(typical_seconds(*key))
        self._kinds[key] = kind
        watch.kind = kind
        return kind

    def follow(self, watch: Watch, kind: Kind) -> None:
        """Keep count of the running job: it has been running for `watch.elapsed` at least."""
        if watch.polls:
            self.answered += 1
            if watch.due is not None:
                took = watch.elapsed - watch.due
                if 0.0 <= took < 3.0:
                    self.round_trip += 0.1 * (took - self.round_trip)
        if not watch.age_known:
            return
        cohort = watch.cohort
        if cohort is None:
            if kind.cohort.seen >= GENERATION:
                kind.earlier, kind.cohort = kind.cohort, Cohort()
                kind.weighed = CARRIED
            watch.cohort = cohort = kind.cohort
        elapsed, old = watch.elapsed, watch.rung
        if elapsed > SOONEST:
            rung = max(-99, math.floor(10.0 * math.log(elapsed / kind.typical)))
            kind.news += 0.05
        else:
            rung = NO_RUNG
        if rung != old:
            if old != NO_RUNG:
                self._leave(cohort, old)
            watch.rung = rung
            if rung != NO_RUNG:
                cohort.waiting[rung] = cohort.waiting.get(rung, 0) + 1

    @staticmethod
    def _leave(cohort: Cohort, rung: int) -> None:
        left = cohort.waiting.get(rung, 0) - 1
        if left > 0:
            cohort.waiting[rung] = left
        else:
            cohort.waiting.pop(rung, None)

    def record(self, watch: Watch, last_pending: float | None, done: float) -> None:
        """The job was still running at `last_pending` and found done at `done`."""
        if not (watch.age_known and 0.0 <= done < math.inf):
            return
        kind = self.kind(watch)
        done = max(done, SOONEST)
        before = min(last_pending or 0.0, done)
        self.soonest = min(self.soonest, done)
        cohort = watch.cohort or kind.cohort
        if watch.cohort is not None:
            self._leave(cohort, watch.rung)
        high = math.log(done / kind.typical)
        low = math.log(before / kind.typical) if before > SOONEST else -30.0
        cohort.add(min(low, high - 0.01), high, self._random)
        kind.news += 1.0
        self._judge(watch, kind, before, done)

    @staticmethod
    def _judge(watch: Watch, kind: Kind, before: float, done: float) -> None:
        """Compare what progress foretold with what came, and learn its curve."""
        if watch.belief is not None:
            low, high = math.log(max(before, SOONEST)), math.log(done)
            foretold = watch.belief.chance(low, high)
            usual = kind.humps().chance(low, high)
            gained = math.log((foretold + 0.02) / (usual + 0.02))
            kind.gain += 0.1 * (gained - kind.gain)
        if watch.polls:
            seen = frozenset(percent for _, percent in watch.readings)
            # a gateway that shows one number until the end says nothing by it
            useful = len(seen | kind.shown) > 1
            kind.shown = seen or kind.shown
            kind.talking += useful
            kind.silent += not useful
        if watch.readings:
            kind.curve.learn(watch.readings, before, done)

    def consult(self, kind: Kind) -> None:
        """Bring the belief up to date, if enough has happened since it was formed."""
        if kind.news >= max(1.0, 0.25 * kind.weighed):
            others, weights = 0.0, 0.0
            for other in self._kinds.values():
                if other is not kind and other.finished:
                    weight = 1.0 / (UNKNOWN_KIND**2 + other.mean_error**2)
                    others += weight * other.mean
                    weights += weight
            pull = (others / weights / UNKNOWN_SPEED) if weights else 0.0
            anchor = 3.0 / (2.0 + pull * pull) / UNKNOWN_SPEED**2 if weights else UNKNOWN_SPEED**-2
            before = others / (weights + anchor)
            error = math.hypot(UNKNOWN_KIND if weights else 0.0, (weights + anchor) ** -0.5)
            kind.learn(before, error)
