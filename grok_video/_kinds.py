"""What is believed of one kind of job: how long it takes, how sure that is, and its curve.

Here live the sample of finished and running jobs and the fit of two humps to it, by windows: a job
was still running at one poll and done at the next. Arithmetic in bounded memory: no clock, no I/O,
and no knowledge of other kinds (`_experience` says what they suggest).
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Final, NamedTuple

from grok_video._curve import Curve

if TYPE_CHECKING:
    from random import Random

__all__ = ["Cohort", "Humps", "Kind", "narrow", "truncated"]

#: Finished jobs kept per kind and generation: enough for the median to sigma / 8.
KEPT: Final = 64
#: How many jobs the generation before the present one counts for.
CARRIED: Final = 24.0

# How far the formula in contract.md may be off for a server nobody has asked yet (as the standard
# deviation of a logarithm, heavy-tailed), and how much jobs of one kind differ, held as firmly as
# `FIRMNESS` jobs would teach it.
UNKNOWN_SPEED: Final = 0.30
SPREAD: Final = 0.33
FIRMNESS: Final = 4.0
#: What it counts for a small spread that running jobs agree. In full, a thousand jobs three times
#: longer than expected cost 144 polls each; with 0.3 they cost 26, with 0.05 their lag is 12 s
#: instead of 4.5.
AGREEMENT: Final = 0.3
# Some jobs take several times longer: the second hump, before any was seen.
TAIL_SHARE: Final = 0.03
TAIL_OFFSET: Final = 1.25
TAIL_SPREAD: Final = 0.45
#: Imagined jobs that hold the share of the second hump, and late ones its place and spread.
SHARE_COUNTS: Final = 25.0
LATE_COUNTS: Final = 3.0
#: Spreads from the middle of the usual jobs within which the second hump never comes, and beyond
#: which it starts.
TAIL_NEAREST: Final = 2.0
TAIL_START: Final = 2.5
#: Spreads above the mean beyond which a window may be one of the tail.
MAYBE_LATE: Final = 1.5
#: Newton steps of one fit, the longest of one for the mean and for log(spread), and the share of a
#: spread below which one changes nothing: a fit starts where the last one ended.
STEPS: Final = 4
LONGEST_STEP: Final = 0.7
LONGEST_WARMING: Final = 0.5
NO_STEP: Final = 0.02
#: Spreads between the mean and the middle of all windows from which on steps are too small.
TOO_FAR: Final = 3.0
#: Degrees of freedom of what other kinds suggest (a Student-t): few, so that windows outvote it.
FREEDOM: Final = 2.0
#: The least and the largest spread of log(seconds) that is believed.
LEAST_SPREAD: Final = 0.01
MOST_SPREAD: Final = 1.5

#: A window with no beginning (log of nearly nothing) is one of a job that the first poll found
#: done: it is put so far below its end.
NO_BEGINNING: Final = -20.0
OPEN_BELOW: Final = 0.3

#: A job not yet seen running stands on no rung of `Cohort.waiting`.
NO_RUNG: Final = -1000

_ROOT_HALF: Final = math.sqrt(0.5)
_PEAK: Final = 1.0 / math.sqrt(2.0 * math.pi)


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


def narrow(
    mean: float, spread: float, low: float, high: float, noise: float
) -> tuple[float, float, float]:
    """Return the chance that x + noise lies in low..high, and mean and spread of x if it does.

    Before, x is normal with this mean and spread.
    """
    total = spread * spread + noise * noise
    root = math.sqrt(total)
    mass, z, zz = truncated((low - mean) / root, max(high - mean, low - mean + 0.001) / root)
    share = spread * spread / total
    variance = share * noise * noise + share * share * total * max(zz - z * z, 1e-6)
    return mass, mean + share * root * z, max(math.sqrt(variance), 0.004)


class Cohort:
    """Jobs begun in the same stretch of time: a fair sample of the finished, a count of the rest.

    Learning from the finished alone would take the earliest finishers of a batch for typical; the
    running ones say "longer than this" (right-censored), counted by rungs of 10 % of their age.
    """

    __slots__ = ("finished", "seen", "waiting")

    def __init__(self) -> None:
        self.finished: list[tuple[float, float]] = []
        self.seen: int = 0
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


class _Sums:
    """How the windows pull at mean and spread, and what belongs to the tail."""

    __slots__ = (
        *("core_n", "heat", "heat_information", "information"),
        *("slope", "tail_n", "tail_square", "tail_sum"),
    )

    def __init__(self) -> None:
        self.slope = self.information = self.heat = self.heat_information = 0.0
        self.core_n = self.tail_n = self.tail_sum = self.tail_square = 0.0


class Humps(NamedTuple):
    """Two normal distributions of log(seconds): of usual jobs, and of the share that takes long."""

    share: float
    mean: float
    spread: float
    far: float
    wide: float

    def chance(self, low: float, high: float) -> float:
        """Return the chance of a logarithm between `low` and `high`."""
        share, mean, spread, far, wide = self
        usual = truncated((low - mean) / spread, (high - mean) / spread)[0]
        return (1.0 - share) * usual + share * truncated((low - far) / wide, (high - far) / wide)[0]


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
        self.typical: float = typical
        self.cohort: Cohort = Cohort()
        self.earlier: Cohort | None = None
        self.curve: Curve = Curve()
        #: Finished jobs that sent useful progress, and those that sent none.
        self.talking: int = 0
        self.silent: int = 0
        #: The numbers the last finished job sent.
        self.shown: frozenset[float] = frozenset()
        #: How much better progress foretold the ends of late jobs than time alone would have, as
        #: the mean logarithm of the chances both gave to what then came.
        self.gain: float = 0.3
        self.mean: float = 0.0
        self.mean_error: float = UNKNOWN_SPEED
        self.sigma: float = SPREAD
        #: What one job's logarithm may be off: its own spread and our error about the mean.
        self.spread: float = math.hypot(SPREAD, UNKNOWN_SPEED)
        self.tail_share: float = TAIL_SHARE
        self.tail_mean: float = TAIL_OFFSET
        self.tail_sigma: float = TAIL_SPREAD
        #: Evidence since the last fit (a finished job 1, a poll 0.05), and what the fit rests on.
        self.news: float = 1.0
        self.weighed: float = 0.0
        self.version: int = 0
        self.plan: object = None

    @property
    def finished(self) -> int:
        """How many jobs of this kind were seen to the end, in the generations still remembered."""
        return self.cohort.seen + (self.earlier.seen if self.earlier else 0)

    def humps(self) -> Humps:
        """Return what is believed of one job of this kind before it has shown anything."""
        base = math.log(self.typical)
        wide = math.hypot(self.tail_sigma, self.mean_error)
        return Humps(self.tail_share, base + self.mean, self.spread, base + self.tail_mean, wide)

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
            high - OPEN_BELOW if low < NO_BEGINNING else 0.5 * (low + high)
            for _, low, high in items
            if high < math.inf
        )
        middle = middles[len(middles) // 2] if middles else self.mean
        if abs(middle - self.mean) > TOO_FAR * self.sigma:
            self.mean, self.tail_mean = middle, middle + TAIL_OFFSET
        for _ in range(STEPS):
            sums = self._weigh(items)
            pull = (self.mean - before) / before_error
            trust = (FREEDOM + 1.0) / (FREEDOM + pull * pull) / before_error**2
            information = sums.information + trust
            step = (sums.slope - trust * (self.mean - before)) / information
            self.mean += min(max(step, -LONGEST_STEP), LONGEST_STEP)
            # Log-normal, so that a server that hardly varies is soon believed
            warmer = (sums.heat + 2.0 * FIRMNESS * math.log(SPREAD / self.sigma)) / (
                sums.heat_information + 2.0 * FIRMNESS
            )
            self.sigma *= math.exp(min(max(warmer, -LONGEST_WARMING), LONGEST_WARMING))
            self.sigma = min(max(self.sigma, LEAST_SPREAD), MOST_SPREAD)
            self.mean_error = 1.0 / math.sqrt(information)
            self._place_tail(sums)
            if abs(step) < NO_STEP * self.sigma:
                break
        self.spread = math.hypot(self.sigma, self.mean_error)
        self.weighed += self.news
        self.news = 0.0
        self.version += 1

    def _weigh(self, items: list[tuple[float, float, float]]) -> _Sums:
        """Return how the windows pull at mean and spread, and what belongs to the tail."""
        mean, sigma, far, wide = self.mean, self.sigma, self.tail_mean, self.tail_sigma
        share = self.tail_share
        sums = _Sums()
        for weight, low, high in items:
            mass, z, zz = truncated((low - mean) / sigma, (high - mean) / sigma)
            part = weight
            if high - mean > MAYBE_LATE * sigma:
                tail_mass, zt, zzt = truncated((low - far) / wide, (high - far) / wide)
                odds = share * tail_mass / (share * tail_mass + (1.0 - share) * mass)
                part *= 1.0 - odds
                if high < math.inf:
                    value = far + wide * zt
                    sums.tail_n += weight * odds
                    sums.tail_sum += weight * odds * value
                    sums.tail_square += (
                        weight * odds * (wide * wide * (zzt - zt * zt) + value * value)
                    )
            if high < math.inf:
                sums.core_n += part
            # A window much narrower than sigma tells all about its job, an open one hardly any.
            told = 1.0 - max(0.0, zz - z * z)
            sums.slope += part * z / sigma
            sums.information += part * max(told, 0.02) / sigma**2
            # Running jobs are of one age because they began together: hardly a sign of small sigma.
            hotter = zz - 1.0
            sums.heat += part * (hotter if hotter > 0.0 or high < math.inf else AGREEMENT * hotter)
            sums.heat_information += part * 2.0 * max(told, 0.05)
        return sums

    def _place_tail(self, sums: _Sums) -> None:
        """Put the second hump where the late jobs were, held by a few imagined ones."""
        n, total = sums.tail_n, sums.tail_sum
        self.tail_share = (SHARE_COUNTS * TAIL_SHARE + n) / (SHARE_COUNTS + sums.core_n + n)
        start = self.mean + max(TAIL_OFFSET, TAIL_START * self.sigma)
        nearest = self.mean + TAIL_NEAREST * self.sigma
        far = max((LATE_COUNTS * start + total) / (LATE_COUNTS + n), nearest)
        square = max(sums.tail_square - 2.0 * far * total + n * far * far, 0.0)
        self.tail_mean = far
        self.tail_sigma = math.sqrt(
            (LATE_COUNTS * TAIL_SPREAD * TAIL_SPREAD + square) / (LATE_COUNTS + n)
        )
