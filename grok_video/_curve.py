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
        guesses = [
            sum(v * shape[i] for v, shape in zip(votes, _SHAPES, strict=True)) / total
            for i in range(_BINS)
        ]
        # What a server shows late it shows late all along: stretches learn from those beside them.
        strays = [t - n * g for t, n, g in zip(self.total, counts, guesses, strict=True)]
        means, errors = [0.0] * _BINS, [0.0] * _BINS
        for i in range(_BINS):
            guess = guesses[i]
            doubt = (
                6.0
                + stray
                + sum(v * (shape[i] - guess) ** 2 for v, shape in zip(votes, _SHAPES, strict=True))
                / total
            )
            first, beyond = max(i - 3, 0), min(i + 4, _BINS)
            near = _BESIDE[3 + first - i : 3 + beyond - i]
            heard = sum(k * n for k, n in zip(near, counts[first:beyond], strict=True))
            guess += sum(k * r for k, r in zip(near, strays[first:beyond], strict=True)) / (
                heard + noise / doubt
            )
            doubt = max(doubt * noise / (heard * doubt + noise), 6.0)
            here = max(self.square[i] - counts[i] * averages[i] ** 2, 0.0)
            here = (4.0 * noise + here) / (4.0 + max(counts[i] - 1.0, 0.0))
            # what the curve climbs inside one stretch, or a blurred one, is not noise
            left, right = max(i - 1, 0), min(i + 1, _BINS - 1)
            if counts[i] > 4.0 and counts[left] and counts[right]:
                climb = (averages[right] - averages[left]) / (right - left)
                blur = 1.0 + self.blur[i] / counts[i]
                here -= min(climb * climb * blur / 12.0, 0.7 * here)
            here += 0.25
            weight = here / doubt
            means[i] = (weight * guess + self.total[i]) / (weight + counts[i])
            errors[i] = math.sqrt(here + here / (weight + counts[i]))
        self._shape = []
        for k in range(_FINE):
            fraction = (k + 0.5) / _FINE
            position = fraction * _BINS - 0.5
            i = min(max(int(position), 0), _BINS - 2)
            t = position - i
            mean = means[i] + t * (means[i + 1] - means[i])
            error = errors[i] + min(max(t, 0.0), 1.0) * (errors[i + 1] - errors[i])
            self._shape.append((math.log(fraction), mean, 1.0 / error))

    def _read(self, percent: int) -> tuple[float, float, float]:
        if not self._shape:
            self._draw()
        gaps = [((percent - mean) * sharpness) ** 2 for _, mean, sharpness in self._shape]
        # far fractions that explain it badly would count by their distance alone
        most = min(gaps) + 4.6
        total = first = second = 0.0
        for k, gap in enumerate(gaps):
            if gap < most and k > 3:
                logarithm, _, sharpness = self._shape[k]
                # equal steps of a fraction are unequal steps of its logarithm
                share = math.exp(-0.5 * gap) * sharpness / (k + 0.5)
                total += share
                first += share * logarithm
                second += share * logarithm * logarithm
        if total <= 0.0:
            return (-3.0, 0.0, 0.05)
        centre = first / total
        variance = max(second / total - centre * centre, 0.0)
        variance += 0.0001 + 0.012 / (2.0 + self.jobs)
        noise = min(math.sqrt(variance), 0.10)
        half = math.sqrt(3.0 * max(variance - noise * noise, 0.0))
        return (centre - half, min(centre + half, 0.0), noise)
