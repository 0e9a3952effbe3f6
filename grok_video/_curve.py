"""How far along a job is when it says so many percent, learned from the jobs that ended.

Here lives the one curve of a kind of job: percent over fraction of life, started from what was
recorded and drawn anew as jobs finish. Bounded memory and arithmetic only: no clock, no I/O, and no
opinion about how many seconds a life has (that is `_kinds`).
"""

from __future__ import annotations

import math
from itertools import pairwise
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Sequence

__all__ = ["Curve", "answered_at", "shown_at"]

# Progress as recorded (fraction of the whole time, percent; contract.md, section 5) of an image-to-
# video, of an extension, and what every reader expects. Kinds differ; this starts the learning, and
# so it stands as it was answered, some 2 % of a life later than it was shown.
_RECORDED: Final = (
    ((0.0, 0.0), (0.22, 1.0), (0.41, 20.0), (0.61, 35.0), (0.81, 35.0), (1.0, 40.0)),
    ((0.0, 0.0), (0.16, 0.0), (0.30, 13.0), (0.44, 42.0), (0.58, 59.0), (0.72, 84.0), (0.86, 95.0)),
    ((0.0, 0.0), (1.0, 100.0)),
)
#: Stretches of a job's life in which progress is counted, and the finer steps in which it is read.
_BINS: Final = 20
_FINE: Final = 80
#: Weight of readings in one stretch at which all that was seen there counts half from then on.
_HALVED_AT: Final = 64
#: How much of what one stretch strays from the known shapes its neighbours are believed to.
_BESIDE: Final = (0.2, 0.5, 0.8, 1.0, 0.8, 0.5, 0.2)
#: Seconds by which a number is older than its answer, and the largest share of the job's age: a
#: quarter for the way home (half of a poll as recorded), the rest as servers count anew every
#: second or so. Where that is wrong the curve learns it, but from jobs of one length for all. (Of a
#: job of a few seconds the last tenth is then never seen: it is read as the stretches before it.)
_STALE: Final = 0.75
_STALE_SHARE: Final = 0.1

# What is believed before much is seen. All in squares of percent points, unless it says otherwise.
#: How far numbers of one moment of a life lie apart: four points either way, as recorded; and how
#: many readings that counts for.
_USUAL_NOISE: Final = 16.0
_NOISE_COUNTS: Final = 4.0
#: What is left between numbers that never strayed: they are rounded, and counted in steps.
_LEAST_NOISE: Final = 0.25
#: Readings of one stretch that count for which shape is the server's: none decides it alone.
_MOST_VOTES: Final = 3.0
#: A shape whose squared misses are this much more than the best one's is 0.6 times as likely.
_FORGIVEN: Final = 100.0
#: How well the nearest known shape is trusted at most where nothing was seen.
_LEAST_DOUBT: Final = 6.0
#: Readings of a stretch from which on its climb can be told from its noise, and the largest share
#: of what looks like noise that is taken for it.
_CLIMB_COUNTS: Final = 4.0
_MOST_CLIMB: Final = 0.7

# How a number is read.
#: Fine steps that explain a number ten times worse than the best one are left out: 2 ln 10.
_TEN_TIMES_WORSE: Final = 4.6
#: The first fine steps, a twentieth of a life: their logarithms lie so far apart that a number that
#: fits anywhere would be read as "just begun".
_TOO_EARLY: Final = 3
#: Squares of log(fraction): the curve's own error for good (1 %), and before the first job (8 %).
_OWN_ERROR: Final = 0.0001
_UNTRIED_ERROR: Final = 0.012
#: The most of a reading's width that is noise; the rest is where the curve is flat, and stays wide.
_MOST_NOISE: Final = 0.10
#: What a number says that fits nowhere: any fraction from a twentieth to the whole.
_NOTHING_SAID: Final = (-3.0, 0.0, 0.05)


def _percent(knots: tuple[tuple[float, float], ...], fraction: float) -> float:
    for (x0, p0), (x1, p1) in pairwise(knots):
        if fraction <= x1:
            return p0 + (p1 - p0) * (fraction - x0) / (x1 - x0)
    return knots[-1][1]


_SHAPES: Final = tuple(
    tuple(_percent(knots, (i + 0.5) / _BINS) for i in range(_BINS)) for knots in _RECORDED
)


def shown_at(elapsed: float) -> float:
    """Return the age of which a number speaks that was answered at `elapsed`."""
    return elapsed - min(_STALE, _STALE_SHARE * elapsed)


def answered_at(shown: float) -> float:
    """Return the age at which a number that speaks of `shown` is answered."""
    return shown + min(_STALE, _STALE_SHARE / (1.0 - _STALE_SHARE) * shown)


class Curve:
    """How far along a job is when it says p percent, learned as percent over fraction of life.

    Learned that way round because the policy itself chooses when it looks: which fractions came
    with 35 percent would say more about the policy's habits than about the server's.
    """

    __slots__ = ("_reading", "_shape", "blur", "count", "jobs", "news", "square", "total")

    def __init__(self) -> None:
        self.count: list[float] = [0.0] * _BINS
        self.total: list[float] = [0.0] * _BINS
        self.square: list[float] = [0.0] * _BINS
        self.blur: list[float] = [0.0] * _BINS
        #: Finished jobs that sent numbers, and those of them not yet drawn into the curve.
        self.jobs: int = 0
        self.news: int = 0
        self._shape: list[tuple[float, float, float]] = []
        self._reading: dict[int, tuple[float, float, float]] = {}

    def learn(self, readings: Sequence[tuple[float, float]], before: float, done: float) -> None:
        """Take in what a job said that ended between `before` and `done`."""
        whole = 0.5 * (before + done)
        weight = 1.0 / (1.0 + ((done - before) / (0.5 * whole)) ** 2)
        for elapsed, percent in readings:
            shown = shown_at(elapsed)
            place = min(_BINS - 1, int(shown / whole * _BINS))
            self.count[place] += weight
            self.total[place] += weight * percent
            self.square[place] += weight * percent * percent
            # The end is only known to a window, so the place is: by so many stretches.
            self.blur[place] += weight * (shown * _BINS * (done - before) / (whole * whole)) ** 2
            if self.count[place] > _HALVED_AT:
                self.count[place] *= 0.5
                self.total[place] *= 0.5
                self.square[place] *= 0.5
                self.blur[place] *= 0.5
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
        """Draw the curve anew: its mean and its error at each stretch, then in fine steps."""
        counts = self.count
        averages = [t / n if n else 0.0 for t, n in zip(self.total, counts, strict=True)]
        inside = sum(self.square) - sum(n * a * a for n, a in zip(counts, averages, strict=True))
        free = sum(n - 1.0 for n in counts if n > 1.0)
        usual = _NOISE_COUNTS * _USUAL_NOISE
        noise = (usual + max(inside, 0.0)) / (_NOISE_COUNTS + free)
        guesses, doubts = self._guess(averages)
        # What a server shows late it shows late all along: stretches learn from those beside them.
        strays = [t - n * g for t, n, g in zip(self.total, counts, guesses, strict=True)]
        means, errors = [0.0] * _BINS, [0.0] * _BINS
        for i in range(_BINS):
            guess, doubt = guesses[i], doubts[i]
            first, beyond = max(i - 3, 0), min(i + 4, _BINS)
            near = _BESIDE[3 + first - i : 3 + beyond - i]
            heard = sum(k * n for k, n in zip(near, counts[first:beyond], strict=True))
            strayed = sum(k * r for k, r in zip(near, strays[first:beyond], strict=True))
            guess += strayed / (heard + noise / doubt)
            doubt = max(doubt * noise / (heard * doubt + noise), _LEAST_DOUBT)
            here = self._noise_at(i, averages, noise)
            weight = here / doubt
            means[i] = (weight * guess + self.total[i]) / (weight + counts[i])
            errors[i] = math.sqrt(here + here / (weight + counts[i]))
        self._shape = _in_fine_steps(means, errors)

    def _guess(self, averages: list[float]) -> tuple[list[float], list[float]]:
        """Return what the known shapes say of each stretch, each as it fits, and how sure that is.

        Stretches that nobody has looked at are filled with it.
        """
        votes_of = [min(n, _MOST_VOTES) for n in self.count]
        misfits = [
            sum(n * (a - p) ** 2 for n, a, p in zip(votes_of, averages, shape, strict=True))
            for shape in _SHAPES
        ]
        least = min(misfits)
        stray = least / (1.0 + sum(votes_of))
        votes = [math.exp(-0.5 * (misfit - least) / _FORGIVEN) for misfit in misfits]
        total = sum(votes)
        guesses: list[float] = []
        doubts: list[float] = []
        for said in zip(*_SHAPES, strict=True):
            guess = sum(v * p for v, p in zip(votes, said, strict=True)) / total
            apart = sum(v * (p - guess) ** 2 for v, p in zip(votes, said, strict=True)) / total
            guesses.append(guess)
            doubts.append(_LEAST_DOUBT + stray + apart)
        return guesses, doubts

    def _noise_at(self, i: int, averages: list[float], noise: float) -> float:
        """Return how far numbers of this stretch lie apart; `noise` is what those of any do."""
        count = self.count[i]
        here = max(self.square[i] - count * averages[i] ** 2, 0.0)
        here = (_NOISE_COUNTS * noise + here) / (_NOISE_COUNTS + max(count - 1.0, 0.0))
        # What the curve climbs inside one stretch, or a blurred one, is not noise.
        left, right = max(i - 1, 0), min(i + 1, _BINS - 1)
        if count > _CLIMB_COUNTS and self.count[left] and self.count[right]:
            climb = (averages[right] - averages[left]) / (right - left)
            blur = 1.0 + self.blur[i] / count
            # Evenly spread over a width, values have a twelfth of its square for their variance.
            here -= min(climb * climb * blur / 12.0, _MOST_CLIMB * here)
        return here + _LEAST_NOISE

    def _read(self, percent: int) -> tuple[float, float, float]:
        if not self._shape:
            self._draw()
        gaps = [((percent - mean) * sharpness) ** 2 for _, mean, sharpness in self._shape]
        # Far fractions that explain it badly would count by their distance alone.
        most = min(gaps) + _TEN_TIMES_WORSE
        total = first = second = 0.0
        for k, gap in enumerate(gaps):
            if gap < most and k > _TOO_EARLY:
                logarithm, _, sharpness = self._shape[k]
                # Equal steps of a fraction are unequal steps of its logarithm.
                share = math.exp(-0.5 * gap) * sharpness / (k + 0.5)
                total += share
                first += share * logarithm
                second += share * logarithm * logarithm
        if total <= 0.0:
            return _NOTHING_SAID
        centre = first / total
        variance = max(second / total - centre * centre, 0.0)
        variance += _OWN_ERROR + _UNTRIED_ERROR / (2.0 + self.jobs)
        noise = min(math.sqrt(variance), _MOST_NOISE)
        # As wide as an even spread of that variance is, to either side.
        half = math.sqrt(3.0 * max(variance - noise * noise, 0.0))
        return (centre - half, min(centre + half, 0.0), noise)


def _in_fine_steps(means: list[float], errors: list[float]) -> list[tuple[float, float, float]]:
    """Return (log of the fraction, percent, one over its error), from stretch to stretch."""
    shape: list[tuple[float, float, float]] = []
    for k in range(_FINE):
        fraction = (k + 0.5) / _FINE
        position = fraction * _BINS - 0.5
        i = min(max(int(position), 0), _BINS - 2)
        t = position - i
        mean = means[i] + t * (means[i + 1] - means[i])
        error = errors[i] + min(max(t, 0.0), 1.0) * (errors[i + 1] - errors[i])
        shape.append((math.log(fraction), mean, 1.0 / error))
    return shape
