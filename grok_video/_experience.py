"""What one client has seen of finished and running jobs, and what it expects of the next ones.

Times are learned per kind of job (model, duration, resolution) as the logarithm of how many times
longer than `typical_seconds` a job took; kinds teach each other the server's speed. Only facts and
beliefs live here, in bounded memory: no clock, no I/O, and no decision when to poll.
"""

from __future__ import annotations

import math
from itertools import pairwise
from random import Random
from typing import Final, NamedTuple

__all__ = ["Experience", "Kind", "Watch", "truncated", "typical_seconds"]

#: Finished jobs kept per kind and generation: enough for the median to sigma / 8.
KEPT: Final = 64
#: Kinds kept per client; the one unused longest is forgotten first.
KINDS: Final = 64
#: A generation stops taking new jobs after this many have finished; the one before it counts
#: with `CARRIED` jobs. So a server that changes its speed is believed within some 50 jobs.
GENERATION: Final = 100
CARRIED: Final = 24.0

# How far the formula in contract.md may be off for a server nobody has asked yet, and for one kind
# on a server whose speed is known (both as standard deviations of a logarithm, heavy-tailed), and
# how much jobs of one kind differ, held as firmly as `FIRMNESS` jobs would teach it.
UNKNOWN_SPEED: Final = 0.30
UNKNOWN_KIND: Final = 0.15
SPREAD: Final = 0.27
FIRMNESS: Final = 5.0
# Some jobs take several times longer: the second hump, before any was seen.
TAIL_SHARE: Final = 0.03
TAIL_OFFSET: Final = 1.25
TAIL_SPREAD: Final = 0.45

#: Seconds; nothing is taken to be faster.
SOONEST: Final = 1e-4

_ROOT_HALF: Final = math.sqrt(0.5)
_PEAK: Final = 1.0 / math.sqrt(2.0 * math.pi)

# Progress as recorded (fraction of the whole time, percent; contract.md, section 5) of an image-to-
# video, of an extension, and what every reader expects. Kinds differ; this starts the learning.
_RECORDED: Final = (
    ((0.0, 0.0), (0.22, 1.0), (0.41, 20.0), (0.61, 35.0), (0.81, 35.0), (1.0, 40.0)),
    ((0.0, 0.0), (0.16, 0.0), (0.30, 13.0), (0.44, 42.0), (0.58, 59.0), (0.72, 84.0), (0.86, 95.0)),
    ((0.0, 0.0), (1.0, 100.0)),
)
#: Stretches of a job's life in which progress is counted, and the finer steps in which it is read.
BINS: Final = 20
_FINE: Final = 80
#: A job not yet seen running stands on no rung of `Cohort.waiting`.
NO_RUNG: Final = -1000


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


def truncated(low: float, high: float) -> tuple[float, float, float]:
    """Return mass, mean and mean square of the standard normal between `low` and `high`."""
    if low > 0.0:  # the mirror image keeps the digits that 1 - tiny would lose
        mass, mean, square = truncated(-high, -low)
        return mass, -mean, square
    if high < -8.0:  # so far out that all of it sits within 1 / |high| of the edge
        mean = max(low, high + 1.0 / high)
        return 1e-16 / high**2, mean, mean * mean
    if low < -8.0:
        edge_low = weighted_low = tail = 0.0
    else:
        edge_low = _PEAK * math.exp(-0.5 * low * low)
        weighted_low = low * edge_low
        tail = 0.5 * math.erfc(-low * _ROOT_HALF)
    if high > 8.0:
        edge_high = weighted_high = 0.0
        mass = 1.0 - tail
    else:
        edge_high = _PEAK * math.exp(-0.5 * high * high)
        weighted_high = high * edge_high
        mass = 0.5 * math.erfc(-high * _ROOT_HALF) - tail
    if mass < 1e-15:
        middle = 0.5 * (max(low, high - 1.0) + high)
        return 1e-16, middle, middle * middle
    return mass, (edge_low - edge_high) / mass, 1.0 + (weighted_low - weighted_high) / mass


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
        self.duration = duration
        self.resolution = resolution
        self.model = model
        #: False for a handle made from an id: nobody knows when that job began.
        self.age_known = age_known
        self.polls = 0
        #: When the last poll was answered, and when it had been planned for.
        self.elapsed = 0.0
        self.due: float | None = None
        #: Until then the server wants no poll of this job.
        self.hint_until = 0.0
        self.progress: float | None = None
        #: (elapsed, progress) of each poll that brought a number, oldest first, at most 12.
        self.readings: list[tuple[float, float]] = []
        #: True until the policy has looked at the last number.
        self.unread = False
        #: Mean and spread of log(seconds in all), once a number told something.
        self.belief: tuple[float, float] | None = None
        #: True where the usual schedule is kept beside what progress foretells, to test it.
        self.audit = False
        #: True once the belief rests on a curve learned from finished jobs.
        self.tested = False
        self.kind: Kind | None = None
        self.cohort: Cohort | None = None
        self.rung = NO_RUNG

    def note(self, elapsed: float, progress: float | None, hint: float | None = None) -> None:
        """The poll answered at `elapsed` found the job running; `hint` is the server's wish."""
        self.polls += 1
        if self.elapsed < elapsed < math.inf:
            self.elapsed = elapsed
        if progress is not None and math.isfinite(progress):
            self.unread = True
            self.progress = min(max(float(progress), 0.0), 100.0)
            if len(self.readings) == 12:
                del self.readings[6]
            self.readings.append((self.elapsed, self.progress))
        if hint is not None and 0.0 < hint < math.inf:
            self.hint_until = self.elapsed + hint


class Cohort:
    """Jobs begun in the same stretch of time: a fair sample of the finished, a count of the rest.

    Learning from the finished alone would take the earliest finishers of a batch for typical; the
    running ones say "longer than this" (right-censored), counted by rungs of 10 % of their age.
    """

    __slots__ = ("finished", "seen", "waiting")

    def __init__(self) -> None:
        self.finished: list[tuple[float, float]] = []
        self.seen = 0
        self.waiting: dict[int, int] = {}

    def add(self, low: float, high: float, random: Random) -> None:
        """Take in one finished job; each seen so far is kept with equal probability."""
        self.seen += 1
        if len(self.finished) < KEPT:
            self.finished.append((low, high))
        else:
            place = int(random.random() * self.seen)
            if place < KEPT:
                self.finished[place] = (low, high)

    def evidence(self, most: float) -> list[tuple[float, float, float]]:
        """Return (weight, low, high) windows, together at most as heavy as `most` finished jobs."""
        scale = min(1.0, most / max(1, self.seen))
        each = scale * self.seen / max(1, len(self.finished))
        items = [(each, low, high) for low, high in self.finished]
        items += [(scale * n, 0.1 * rung, math.inf) for rung, n in self.waiting.items()]
        return items


def _percent(knots: tuple[tuple[float, float], ...], fraction: float) -> float:
    for (x0, p0), (x1, p1) in pairwise(knots):
        if fraction <= x1:
            return p0 + (p1 - p0) * (fraction - x0) / (x1 - x0)
    return knots[-1][1]


_SHAPES: Final = tuple(
    tuple(_percent(knots, (i + 0.5) / BINS) for i in range(BINS)) for knots in _RECORDED
)


class Curve:
    """How far along a job is when it says p percent, learned as percent over fraction of life.

    Learned that way round because the policy itself chooses when it looks: which fractions came
    with 35 percent would say more about the policy's habits than about the server's.
    """

    __slots__ = ("_reading", "_shape", "count", "jobs", "news", "square", "total")

    def __init__(self) -> None:
        self.count = [0.0] * BINS
        self.total = [0.0] * BINS
        self.square = [0.0] * BINS
        #: Finished jobs that sent numbers, and those of them not yet drawn into the curve.
        self.jobs = 0
        self.news = 0
        self._shape: list[tuple[float, float, float]] = []
        self._reading: dict[int, tuple[float, float, float]] = {}

    def learn(self, readings: list[tuple[float, float]], before: float, done: float) -> None:
        """Take in what a job said that ended between `before` and `done`."""
        whole = 0.5 * (before + done)
        weight = 1.0 / (1.0 + ((done - before) / (0.15 * whole)) ** 2)
        for elapsed, percent in readings:
            place = min(BINS - 1, int(elapsed / whole * BINS))
            self.count[place] += weight
            self.total[place] += weight * percent
            self.square[place] += weight * percent * percent
            if self.count[place] > KEPT:
                self.count[place] *= 0.5
                self.total[place] *= 0.5
                self.square[place] *= 0.5
        self.jobs += 1
        self.news += 1
        if self.news >= 0.2 * self.jobs:
            self.news = 0
            self._shape, self._reading = [], {}

    def read(self, percent: float) -> tuple[float, float, float]:
        """Return (low, high, noise) of log(fraction of life) for a job that says `percent`."""
        place = int(percent + 0.5)
        found = self._reading.get(place)
        if found is None:
            found = self._reading[place] = self._read(place)
        return found

    def says(self, fraction: float) -> float:
        """Return the percent that a job at this fraction of its life is believed to show."""
        if not self._shape:
            self._draw()
        return self._shape[min(_FINE - 1, int(fraction * _FINE))][1]

    def _draw(self) -> None:
        counts = self.count
        averages = [t / n if n else 0.0 for t, n in zip(self.total, counts, strict=True)]
        inside = sum(self.square) - sum(n * a * a for n, a in zip(counts, averages, strict=True))
        free = sum(n - 1.0 for n in counts if n > 1.0)
        noise = (4.0 * 16.0 + max(inside, 0.0)) / (4.0 + free)
        # Which known shape is nearest, and how near: what unvisited stretches are filled with.
        misfits = [
            sum(min(n, 3.0) * (a - p) ** 2 for n, a, p in zip(counts, averages, shape, strict=True))
            for shape in _SHAPES
        ]
        least = min(misfits)
        stray = least / (1.0 + sum(min(n, 3.0) for n in counts))
        votes = [math.exp(-0.5 * (m - least) / 100.0) for m in misfits]
        total = sum(votes)
        means, errors = [0.0] * BINS, [0.0] * BINS
        for i in range(BINS):
            guess = sum(v * shape[i] for v, shape in zip(votes, _SHAPES, strict=True)) / total
            doubt = (
                6.0
                + stray
                + sum(v * (shape[i] - guess) ** 2 for v, shape in zip(votes, _SHAPES, strict=True))
                / total
            )
            here = max(self.square[i] - counts[i] * averages[i] ** 2, 0.0)
            here = (4.0 * noise + here) / (4.0 + max(counts[i] - 1.0, 0.0))
            # what the curve climbs inside one bin is not noise
            left, right = max(i - 1, 0), min(i + 1, BINS - 1)
            if counts[i] > 4.0 and counts[left] and counts[right]:
                climb = (averages[right] - averages[left]) / (right - left)
                here -= min(climb * climb / 12.0, 0.7 * here)
            here += 0.25
            weight = here / doubt
            means[i] = (weight * guess + self.total[i]) / (weight + counts[i])
            errors[i] = math.sqrt(here + here / (weight + counts[i]))
        self._shape = []
        for k in range(_FINE):
            fraction = (k + 0.5) / _FINE
            position = fraction * BINS - 0.5
            i = min(max(int(position), 0), BINS - 2)
            t = position - i
            mean = means[i] + t * (means[i + 1] - means[i])
            error = errors[i] + min(max(t, 0.0), 1.0) * (errors[i + 1] - errors[i])
            self._shape.append((math.log(fraction), mean, 1.0 / error))

    def _read(self, percent: int) -> tuple[float, float, float]:
        if not self._shape:
            self._draw()
        likely = [
            math.exp(-0.5 * ((percent - mean) * sharpness) ** 2) * sharpness
            for _, mean, sharpness in self._shape
        ]
        least = 0.1 * max(likely)
        total = first = second = 0.0
        for k, weight in enumerate(likely):
            # far fractions that explain it badly would count by their distance alone
            if weight > least and k > 3:
                logarithm = self._shape[k][0]
                # equal steps of a fraction are unequal steps of its logarithm
                share = weight / (k + 0.5)
                total += share
                first += share * logarithm
                second += share * logarithm * logarithm
        if total <= 0.0:
            return (-3.0, 0.0, 0.05)
        centre = first / total
        variance = max(second / total - centre * centre, 0.0)
        variance += 0.0001 + 0.012 / (2.0 + self.jobs)
        noise = min(math.sqrt(variance), 0.04)
        half = math.sqrt(3.0 * max(variance - noise * noise, 0.0))
        return (centre - half, min(centre + half, 0.0), noise)


class _Sums(NamedTuple):
    slope: float
    information: float
    heat: float
    heat_information: float
    core_n: float
    tail_n: float
    tail_sum: float
    tail_square: float


class Kind:
    """What is believed of one kind of job: two humps of log(seconds / typical), and its curve."""

    __slots__ = (
        "cohort",
        "curve",
        "earlier",
        "gain",
        "mean",
        "mean_error",
        "news",
        "plan",
        "shown",
        "sigma",
        "silent",
        "spread",
        "tail_mean",
        "tail_share",
        "tail_sigma",
        "talking",
        "typical",
        "version",
        "weighed",
    )

    def __init__(self, typical: float) -> None:
        self.typical = typical
        self.cohort = Cohort()
        self.earlier: Cohort | None = None
        self.curve = Curve()
        #: Finished jobs that sent useful progress, and those that sent none.
        self.talking = 0
        self.silent = 0
        #: The numbers the last finished job sent.
        self.shown: frozenset[float] = frozenset()
        #: How much better progress foretold the ends of late jobs than time alone would have, as
        #: the mean logarithm of the chances both gave to what then came.
        self.gain = 0.3
        self.mean: float = 0.0
        self.mean_error: float = UNKNOWN_SPEED
        self.sigma: float = SPREAD
        #: What one job's logarithm may be off: its own spread and our error about the mean.
        self.spread = math.hypot(SPREAD, UNKNOWN_SPEED)
        self.tail_share: float = TAIL_SHARE
        self.tail_mean: float = TAIL_OFFSET
        self.tail_sigma: float = TAIL_SPREAD
        #: Evidence since the last fit (a finished job 1, a poll 0.05), and what the fit rests on.
        self.news = 1.0
        self.weighed = 0.0
        self.version = 0
        self.plan: object = None

    @property
    def finished(self) -> int:
        """How many jobs of this kind were seen to the end, in the generations still remembered."""
        return self.cohort.seen + (self.earlier.seen if self.earlier else 0)

    def evidence(self) -> list[tuple[float, float, float]]:
        """Return the windows of both generations."""
        items = self.cohort.evidence(math.inf)
        if self.earlier is not None:
            items += self.earlier.evidence(CARRIED)
        return items

    def learn(self, before: float, before_error: float) -> None:
        """Fit both humps to the windows seen, starting from what other kinds suggest.

        Newton steps on the likelihood of censored normals, where mean and variance inside each
        window give gradient and information (Louis 1982). `before` is a Student-t belief, so that
        a server a thousand times faster outvotes it with its first jobs.
        """
        items = self.evidence()
        if not self.version:
            self.mean = before
        middles = sorted(
            high - 0.3 if low < -20.0 else 0.5 * (low + high)
            for _, low, high in items
            if high < math.inf
        )
        middle = middles[len(middles) // 2] if middles else self.mean
        if abs(middle - self.mean) > 3.0 * self.sigma:
            # too far for small steps
            self.mean, self.tail_mean = middle, middle + TAIL_OFFSET
        for _ in range(4):
            sums = self._weigh(items)
            pull = (self.mean - before) / before_error
            trust = 3.0 / (2.0 + pull * pull) / before_error**2
            information = sums.information + trust
            step = (sums.slope - trust * (self.mean - before)) / information
            self.mean += min(max(step, -0.7), 0.7)
            firm = (SPREAD / self.sigma) ** 2
            warmer = (sums.heat + FIRMNESS * (firm - 1.0)) / (
                sums.heat_information + FIRMNESS * 2.0 * max(firm, 0.5)
            )
            self.sigma *= math.exp(min(max(warmer, -0.5), 0.5))
            self.sigma = min(max(self.sigma, 0.01), 1.5)
            self.mean_error = 1.0 / math.sqrt(information)
            self._place_tail(sums)
            if abs(step) < 0.02 * self.sigma:
                break
        self.spread = math.hypot(self.sigma, self.mean_error)
        self.weighed += self.news
        self.news = 0.0
        self.version += 1

    def _weigh(self, items: list[tuple[float, float, float]]) -> _Sums:
        """Return how the windows pull at mean and spread, and what belongs to the tail."""
        mean, sigma, far, wide = self.mean, self.sigma, self.tail_mean, self.tail_sigma
        share = self.tail_share
        slope = information = heat = heat_information = 0.0
        core_n = tail_n = tail_sum = tail_square = 0.0
        for weight, low, high in items:
            mass, z, zz = truncated((low - mean) / sigma, (high - mean) / sigma)
            part = weight
            if high - mean > 1.5 * sigma:
                tail_mass, zt, zzt = truncated((low - far) / wide, (high - far) / wide)
                odds = share * tail_mass / (share * tail_mass + (1.0 - share) * mass)
                part *= 1.0 - odds
                if high < math.inf:
                    value = far + wide * zt
                    tail_n += weight * odds
                    tail_sum += weight * odds * value
                    tail_square += weight * odds * (wide * wide * (zzt - zt * zt) + value * value)
            if high < math.inf:
                core_n += part
            # A window much narrower than sigma tells all about its job, an open one hardly any.
            told = 1.0 - max(0.0, zz - z * z)
            slope += part * z / sigma
            information += part * max(told, 0.02) / sigma**2
            heat += part * (zz - 1.0)
            heat_information += part * 2.0 * max(told, 0.05)
        return _Sums(
            slope, information, heat, heat_information, core_n, tail_n, tail_sum, tail_square
        )

    def _place_tail(self, sums: _Sums) -> None:
        """Put the second hump where the late jobs were, held by a few imagined ones."""
        n, total = sums.tail_n, sums.tail_sum
        self.tail_share = (25.0 * TAIL_SHARE + n) / (25.0 + sums.core_n + n)
        start = self.mean + max(TAIL_OFFSET, 2.5 * self.sigma)
        far = max((3.0 * start + total) / (3.0 + n), self.mean + 2.0 * self.sigma)
        square = max(sums.tail_square - 2.0 * far * total + n * far * far, 0.0)
        self.tail_mean = far
        self.tail_sigma = math.sqrt((3.0 * TAIL_SPREAD * TAIL_SPREAD + square) / (3.0 + n))


class Experience:
    """What one client has seen; every job of the client adds to it and draws on it."""

    __slots__ = ("_kinds", "_random", "answered", "round_trip", "soonest")

    def __init__(self) -> None:
        self._kinds: dict[tuple[str | None, int | None, str | None], Kind] = {}
        # Which finished jobs are kept must not depend on, or disturb, the caller's random source.
        self._random = Random(0)  # noqa: S311 -- not cryptography
        #: Polls answered "still running" so far.
        self.answered = 0
        #: The shortest time in which a job was found done.
        self.soonest = math.inf
        #: Seconds a poll takes from being due to being answered, smoothed.
        self.round_trip = 0.3

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
        elif cohort is kind.cohort or cohort is kind.earlier:
            self._leave(cohort, watch.rung)
        if watch.elapsed > SOONEST:
            rung = max(-99, math.floor(10.0 * math.log(watch.elapsed / kind.typical)))
            kind.news += 0.05
        else:
            rung = NO_RUNG
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
            mean, spread = watch.belief
            foretold = truncated((low - mean) / spread, (high - mean) / spread)[0]
            mean, spread = math.log(kind.typical) + kind.mean, kind.spread
            usual = truncated((low - mean) / spread, (high - mean) / spread)[0]
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
        if kind.news >= max(1.0, 0.2 * kind.weighed):
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
