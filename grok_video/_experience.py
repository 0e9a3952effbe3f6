"""What one client has seen of finished and running jobs, and what it expects of the next ones.

Times are learned per kind of job (model, duration, resolution) as the logarithm of how many times
longer than `typical_seconds` a job took; kinds teach each other the server's speed. Only facts and
beliefs live here, in bounded memory: no clock, no I/O, and no decision when to poll.
"""

from __future__ import annotations

import math
from random import Random
from typing import Final

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

_ROOT_HALF: Final = math.sqrt(0.5)
_PEAK: Final = 1.0 / math.sqrt(2.0 * math.pi)

# Progress as recorded (contract.md, section 5): fraction of the whole time -> percent, for the two
# recorded shapes. Different kinds differ a lot, so this only starts the learning.
_RECORDED: Final = (
    ((0.0, 0.0), (0.22, 1.0), (0.41, 20.0), (0.61, 35.0), (0.81, 35.0), (1.0, 40.0)),
    ((0.0, 0.0), (0.16, 0.0), (0.30, 13.0), (0.44, 42.0), (0.58, 59.0), (0.72, 84.0), (0.86, 95.0), (1.0, 95.0)),
    ((0.0, 0.0), (1.0, 100.0)),
)
BINS: Final = 20


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
        "_audit",
        "_belief",
        "_cohort",
        "_kind",
        "_rung",
        "_unread",
        "age_known",
        "due",
        "duration",
        "elapsed",
        "hint_until",
        "model",
        "polls",
        "progress",
        "readings",
        "resolution",
        "virtual_age",
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
        #: When the last poll was answered, and when the next one was planned.
        self.elapsed = 0.0
        self.due: float | None = None
        self.progress: float | None = None
        self.hint_until = 0.0
        #: (elapsed, progress) of each poll that brought a number, oldest first, at most 12.
        self.readings: list[tuple[float, float]] = []
        self.virtual_age: float | None = None
        self._kind: Kind | None = None
        self._cohort: Cohort | None = None
        self._rung = 0
        self._belief: tuple[float, float] | None = None
        self._unread = False
        self._audit = False

    def note(self, elapsed: float, progress: float | None, hint: float | None = None) -> None:
        """The poll answered at `elapsed` found the job running; `hint` is the server's wish."""
        self.polls += 1
        if elapsed > self.elapsed:  # also False for NaN
            self.elapsed = elapsed
        if progress is not None and math.isfinite(progress):
            self._unread = True
            self.progress = min(max(float(progress), 0.0), 100.0)
            if len(self.readings) < 12:
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
        if not self.seen:
            scale = min(1.0, most)
        else:
            scale = min(1.0, most / self.seen)
        each = scale * self.seen / max(1, len(self.finished))
        items = [(each, low, high) for low, high in self.finished]
        items += [(scale * n, 0.1 * rung, math.inf) for rung, n in self.waiting.items()]
        return items


class Curve:
    """How far along a job is when it says p percent, learned as percent over fraction of life.

    Learned that way round because the policy itself chooses when it looks: what fraction belongs to
    35 percent would say more about the policy's habits than about the server's.
    """

    __slots__ = ("count", "square", "total")

    def __init__(self) -> None:
        self.count = [0.0] * BINS
        self.total = [0.0] * BINS
        self.square = [0.0] * BINS

    def add(self, fraction: float, percent: float, weight: float) -> None:
        """Take in that a job at `fraction` of its life said `percent`."""
        place = min(BINS - 1, int(fraction * BINS))
        self.count[place] += weight
        self.total[place] += weight * percent
        self.square[place] += weight * percent * percent
        if self.count[place] > KEPT:
            self.count[place] *= 0.5
            self.total[place] *= 0.5
            self.square[place] *= 0.5


def _percent(knots: tuple[tuple[float, float], ...], fraction: float) -> float:
    for (x0, p0), (x1, p1) in zip(knots, knots[1:], strict=False):
        if fraction <= x1:
            return p0 + (p1 - p0) * (fraction - x0) / (x1 - x0)
    return knots[-1][1]


_SHAPES: Final = tuple(
    tuple(_percent(knots, (i + 0.5) / BINS) for i in range(BINS)) for knots in _RECORDED
)
_FINE: Final = 80


class Kind:
    """What is believed of one kind of job: two humps of log(seconds / typical), and its curve."""

    __slots__ = (
        "_curve_news",
        "_sharpest",
        "cohort",
        "curve",
        "earlier",
        "mean",
        "mean_error",
        "news",
        "plan",
        "reading",
        "shape",
        "sigma",
        "silent",
        "spread",
        "tail_mean",
        "tail_share",
        "tail_sigma",
        "talking",
        "trust",
        "typical",
        "version",
    )

    def __init__(self, typical: float) -> None:
        self.typical = typical
        self.cohort = Cohort()
        self.earlier: Cohort | None = None
        self.curve = Curve()
        #: Finished jobs that sent a useful progress, and those that sent none.
        self.talking = 0
        self.silent = 0
        #: Share of jobs, lately, whose progress foretold their end about as well as it claimed.
        self.trust = 0.75
        self.mean = 0.0
        self.mean_error = UNKNOWN_SPEED
        self.sigma = SPREAD
        #: What one job's logarithm may be off: its own spread and our error about the mean.
        self.spread = math.hypot(SPREAD, UNKNOWN_SPEED)
        self.tail_share, self.tail_mean, self.tail_sigma = TAIL_SHARE, TAIL_OFFSET, TAIL_SPREAD
        self.news = 1.0
        self.version = 0
        self.plan: object = None
        self.reading: dict[int, tuple[float, float, float]] = {}
        self.shape: list[tuple[float, float, float]] = []
        self._curve_news = 0.0
        self._sharpest: tuple[float, float] | None = None

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
        window give gradient and information (Louis 1982); `before` is a Student-t belief, so that
        a server a thousand times faster outvotes it with its first job.
        """
        items = self.evidence()
        seen = [(w, low, high) for w, low, high in items if high < math.inf]
        mean, sigma = self.mean, self.sigma
        share, far, wide = self.tail_share, self.tail_mean, self.tail_sigma
        if not self.version:
            mean = before
        if seen:
            middles = sorted(high - 0.3 if low < -20.0 else 0.5 * (low + high) for _, low, high in seen)
            middle = middles[len(middles) // 2]
            if abs(middle - mean) > 3.0 * sigma:
                mean, far = middle, middle + TAIL_OFFSET
        precision = 1.0
        for _ in range(4):
            pull = (mean - before) / before_error
            trust = 3.0 / (2.0 + pull * pull) / before_error**2
            slope, info = -trust * (mean - before), trust
            heat, heat_info = 0.0, 0.0
            tail_n = tail_sum = tail_square = core_n = 0.0
            for weight, low, high in items:
                a, b = (low - mean) / sigma, (high - mean) / sigma
                mass, z, zz = truncated(a, b)
                part = weight
                if b > 1.5:
                    at, bt = (low - far) / wide, (high - far) / wide
                    tail_mass, zt, zzt = truncated(at, bt)
                    odds = share * tail_mass
                    odds /= odds + (1.0 - share) * mass
                    if high < math.inf:
                        tail = weight * odds
                        tail_n += tail
                        value = far + wide * zt
                        tail_sum += tail * value
                        tail_square += tail * (wide * wide * (zzt - zt * zt) + value * value)
                    part *= 1.0 - odds
                if high < math.inf:
                    core_n += part
                variance = max(0.0, zz - z * z)
                slope += part * z / sigma
                info += part * max(1.0 - variance, 0.02) / sigma**2
                heat += part * (zz - 1.0)
                # A window much narrower than sigma tells the spread fully, an open one hardly.
                heat_info += part * 2.0 * max(1.0 - variance, 0.05)
            step = slope / info
            mean += min(max(step, -0.7), 0.7)
            heat += FIRMNESS * ((SPREAD / sigma) ** 2 - 1.0)
            heat_info += FIRMNESS * 2.0 * max((SPREAD / sigma) ** 2, 0.5)
            sigma *= math.exp(min(max(heat / heat_info, -0.5), 0.5))
            sigma = min(max(sigma, 0.01), 1.5)
            share = (25.0 * TAIL_SHARE + tail_n) / (25.0 + core_n + tail_n)
            start = mean + max(TAIL_OFFSET, 2.5 * sigma)
            far = max((3.0 * start + tail_sum) / (3.0 + tail_n), mean + 2.0 * sigma)
            square = tail_square - 2.0 * far * tail_sum + tail_n * far * far
            wide = math.sqrt((3.0 * TAIL_SPREAD**2 + max(square, 0.0)) / (3.0 + tail_n))
            precision = info
            if abs(step) < 0.02 * sigma:
                break
        self.mean, self.sigma = mean, sigma
        self.mean_error = 1.0 / math.sqrt(precision)
        self.spread = math.hypot(sigma, self.mean_error)
        self.tail_share, self.tail_mean, self.tail_sigma = share, far, wide
        self.news = 0.0
        self.version += 1

    def read(self, percent: float) -> tuple[float, float, float]:
        """Return (low, high, noise) of log(fraction of life) for a job that says `percent`."""
        place = int(percent + 0.5)
        found = self.reading.get(place)
        if found is None:
            found = self.reading[place] = self._read(place)
        return found

    def says(self, fraction: float) -> float:
        """Return the percent that a job at this fraction of its life is believed to show."""
        if not self.shape:
            self._draw()
        return self.shape[min(_FINE - 1, int(fraction * _FINE))][1]

    def sharpest(self) -> tuple[float, float]:
        """Return how well the most telling reading knows its job's fraction, and that fraction."""
        if self._sharpest is None:
            best, place = math.inf, 0.5
            for k in range(3, 19):
                low, high, noise = self.read(self.says(0.05 * k))
                error = math.sqrt((high - low) ** 2 / 12.0 + noise * noise)
                if error < 0.9 * best:
                    best, place = error, 0.05 * k
            self._sharpest = best, place
        return self._sharpest

    def _draw(self) -> None:
        curve = self.curve
        counts = curve.count
        averages = [t / n if n else 0.0 for t, n in zip(curve.total, counts, strict=True)]
        inside = sum(curve.square) - sum(n * a * a for n, a in zip(counts, averages, strict=True))
        free = sum(n - 1.0 for n in counts if n > 1.0)
        noise = (4.0 * 16.0 + max(inside, 0.0)) / (4.0 + free)
        # Which known shape is nearest, and how near: what unvisited stretches are filled with.
        misfits = [
            sum(min(n, 3.0) * (a - p) ** 2 for n, a, p in zip(counts, averages, shape, strict=True))
            for shape in _SHAPES
        ]
        least = min(misfits)
        votes = [math.exp(-0.5 * (m - least) / 100.0) for m in misfits]
        total = sum(votes)
        means, errors = [0.0] * BINS, [0.0] * BINS
        for i in range(BINS):
            guess = sum(v * shape[i] for v, shape in zip(votes, _SHAPES, strict=True)) / total
            doubt = 6.0 + sum(
                v * (shape[i] - guess) ** 2 for v, shape in zip(votes, _SHAPES, strict=True)
            ) / total
            here = max(curve.square[i] - counts[i] * averages[i] ** 2, 0.0)
            here = (4.0 * noise + here) / (4.0 + max(counts[i] - 1.0, 0.0))
            # what the curve climbs inside one bin is not noise
            left, right = max(i - 1, 0), min(i + 1, BINS - 1)
            if counts[i] > 4.0 and counts[left] and counts[right]:
                climb = (averages[right] - averages[left]) / (right - left)
                here -= min(climb * climb / 12.0, 0.7 * here)
            here += 0.25
            weight = here / doubt
            means[i] = (weight * guess + curve.total[i]) / (weight + counts[i])
            errors[i] = math.sqrt(here + here / (weight + counts[i]))
        self.shape = []
        self._sharpest = None
        for k in range(_FINE):
            fraction = (k + 0.5) / _FINE
            position = fraction * BINS - 0.5
            i = min(max(int(position), 0), BINS - 2)
            t = position - i
            mean = means[i] + t * (means[i + 1] - means[i])
            error = errors[i] + min(max(t, 0.0), 1.0) * (errors[i + 1] - errors[i])
            self.shape.append((math.log(fraction), mean, 1.0 / error))

    def _read(self, percent: int) -> tuple[float, float, float]:
        if not self.shape:
            self._draw()
        likely = [
            math.exp(-0.5 * ((percent - mean) * sharpness) ** 2) * sharpness
            for _, mean, sharpness in self.shape
        ]
        least = 0.1 * max(likely)
        total = first = second = 0.0
        for k, weight in enumerate(likely):
            # far fractions that explain it badly would count by their distance alone
            if weight > least and k > 3:
                logarithm = self.shape[k][0]
                weight /= k + 0.5  # equal steps of a fraction are unequal steps of its logarithm
                total += weight
                first += weight * logarithm
                second += weight * logarithm * logarithm
        if total <= 0.0:
            return (-3.0, 0.0, 0.05)
        centre = first / total
        variance = max(second / total - centre * centre, 0.0)
        variance += 0.0001 + 0.012 / (2.0 + self.talking)
        noise = min(math.sqrt(variance), 0.04)
        half = math.sqrt(3.0 * max(variance - noise * noise, 0.0))
        return (centre - half, min(centre + half, 0.0), noise)


class Experience:
    """What one client has seen; every job of the client adds to it and draws on it."""

    __slots__ = ("_kinds", "_random", "answered", "round_trip", "soonest")

    def __init__(self) -> None:
        self._kinds: dict[tuple[str | None, int | None, str | None], Kind] = {}
        # Which finished jobs are kept must not depend on, or disturb, the caller's random source.
        self._random = Random(0)
        #: Polls answered "still running" so far.
        self.answered = 0
        #: The shortest time in which a job was found done.
        self.soonest = math.inf
        #: Seconds a poll takes from being due to being answered, smoothed.
        self.round_trip = 0.3

    def kind(self, watch: Watch) -> Kind:
        """Return what is believed of jobs like this one."""
        kind = watch._kind
        if kind is not None:
            return kind
        key = (watch.model, watch.duration, watch.resolution)
        kind = self._kinds.pop(key, None)
        if kind is None:
            if len(self._kinds) >= KINDS:
                del self._kinds[next(iter(self._kinds))]
            kind = Kind(typical_seconds(*key))
        self._kinds[key] = kind
        watch._kind = kind
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
        cohort = watch._cohort
        if cohort is None:
            if kind.cohort.seen >= GENERATION:
                kind.earlier, kind.cohort = kind.cohort, Cohort()
            watch._cohort = cohort = kind.cohort
        elif cohort is kind.cohort or cohort is kind.earlier:
            self._leave(cohort, watch._rung)
        if watch.elapsed > 0.0:
            rung = int(10.0 * math.log(watch.elapsed / kind.typical) + 200.0) - 200
            kind.news += 0.05
        else:
            rung = -200
        watch._rung = rung
        if rung > -100:
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
        done = max(done, 1e-4)
        before = min(last_pending or 0.0, done)
        self.soonest = min(self.soonest, done)
        cohort = watch._cohort or kind.cohort
        if watch._cohort is not None:
            self._leave(cohort, watch._rung)
        high = math.log(done / kind.typical)
        low = math.log(before / kind.typical) if before > 1e-4 else -30.0
        cohort.add(min(low, high - 0.01), high, self._random)
        kind.news += 1.0
        self._learn_curve(watch, kind, before, done)

    def _learn_curve(self, watch: Watch, kind: Kind, before: float, done: float) -> None:
        middle = 0.5 * (before + done)
        if watch._belief is not None:
            mean, spread = watch._belief
            off = max(math.log(max(before, 1e-4)) - mean, mean - math.log(done)) / spread
            kind.trust += 0.12 * ((off < 3.0) - kind.trust)
        useful = len({percent for _, percent in watch.readings}) > 1 or (
            watch.readings and 2.0 < watch.readings[0][1] < 98.0
        )
        if watch.polls:
            kind.talking += bool(useful)
            kind.silent += not useful
        if watch.readings:
            weight = 1.0 / (1.0 + ((done - before) / (0.15 * middle)) ** 2)
            for elapsed, percent in watch.readings:
                kind.curve.add(min(elapsed / middle, 1.0), percent, weight)
            kind._curve_news += 1.0
            if kind._curve_news >= max(1.0, 0.2 * kind.talking):
                kind._curve_news = 0.0
                kind.reading, kind.shape = {}, []

    def consult(self, kind: Kind) -> None:
        """Bring the belief up to date, if enough has happened since it was formed."""
        if kind.news >= max(1.0, 0.2 * min(kind.finished, 4 * KEPT)):
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
