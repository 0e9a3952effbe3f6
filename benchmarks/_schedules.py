"""What a policy is compared with: schedules that do not look at the job, and the best there is."""

from __future__ import annotations

import itertools
import math
import random
import statistics
from bisect import bisect_left

from benchmarks._simulation import HOME, ROUND_TRIP, Case
from grok_video._schedule import inspect


def mean(values) -> float:
    return statistics.fmean(values)


def fixed(interval: float, ends: list[float]) -> tuple[float, float]:
    """Mean lag and polls of sleeping `interval` before each poll."""
    lag = polls = 0.0
    for end in ends:
        more = max(0, math.ceil((end - HOME - interval) / (interval + ROUND_TRIP)))
        lag += interval + more * (interval + ROUND_TRIP) + ROUND_TRIP - end
        polls += 1 + more
    return lag / len(ends), polls / len(ends)


def slept(sleeps, ends: list[float]) -> tuple[float, float]:
    """Mean lag and polls of sleeping what `sleeps()` yields before each poll."""
    lag = polls = 0.0
    for end in ends:
        age = 0.0
        for sleep in sleeps():
            age += sleep + ROUND_TRIP
            polls += 1
            if age - HOME >= end:
                break
        lag += age - end
    return lag / len(ends), polls / len(ends)


def rivals(ends: list[float], dice: random.Random) -> dict[str, tuple[float, float]]:
    return {
        "fixed 5 s": fixed(5, ends),
        "6 ± 1.5 s": slept(lambda: iter(lambda: dice.uniform(4.5, 7.5), None), ends),
        "1 to 10 s": slept(lambda: (min(10.0, 2.0**k) for k in itertools.count()), ends),
    }


def fixed_at(polls: float, ends: list[float]) -> float:
    """Lag of the fixed interval that takes that many polls on these jobs.

    The mean of its near neighbours, or it would be luck which of them hits a narrow window.
    """
    low, high = 0.05, 4 * max(ends)
    for _ in range(30):
        middle = math.sqrt(low * high)
        if fixed(middle, ends)[1] > polls:
            low = middle
        else:
            high = middle
    return mean(fixed(high * (1 + 0.02 * k), ends)[0] for k in range(-5, 6))


def optimum(times: list[float], chances: list[float], scale: float, points: int) -> list:
    """Return (price, cost, looks) of the best schedules for a distribution, thrifty to eager."""
    found = []
    for k in range(points):
        price = 0.5 * (30 * 0.05 ** (k / (points - 1))) ** 2 / scale
        best, at, looks = inspect([0.0, *times], [0.0, *chances], price, ROUND_TRIP), 0.0, []
        while at < times[-1]:
            at = best.after(at)
            looks.append(at)
        found.append((price, best.rest[0] + HOME, looks))
    return found


def optimum_for(case: Case, points: int) -> list:
    low = case.median * math.exp(-4.5 * case.sigma)
    high = case.median * math.exp(4.5 * case.sigma) * (4 if case.tail else 1)
    times = [low * (high / low) ** (i / 1200) for i in range(1201)]
    return optimum(times, [case.done_by(t) for t in times], case.median, points)


def scheduled(looks: list[float], ends: list[float]) -> tuple[float, float]:
    lag = polls = 0.0
    for end in ends:
        i = bisect_left(looks, end)
        look = looks[i] if i < len(looks) else end
        lag += look - end + HOME
        polls += min(i, len(looks) - 1) + 1
    return lag / len(ends), polls / len(ends)


def optimum_at(polls: float, frontier: list[tuple[float, float]]) -> float:
    """Lag of the best schedules with that many polls on these jobs (mixing two neighbours)."""
    for (lag0, n0), (lag1, n1) in itertools.pairwise(frontier):
        if n0 <= polls <= n1:
            return lag0 + (lag1 - lag0) * (polls - n0) / max(n1 - n0, 1e-9)
    return frontier[0][0] if polls < frontier[0][1] else frontier[-1][0]


def room(case: Case, schedules: list) -> dict:
    """What a policy without numbers would need to beat all rivals, and the least lag there is.

    Whatever the schedule, lag + price * polls is at least the optimum's at that price (randomised
    schedules included), so with the fewest polls of any rival the lag is at least
    cost - price * polls, at every price. Where that is more than the least lag of a rival, no
    policy at all can have less lag and fewer polls than all of them.
    """
    quantiles, at = [], 0.0
    for i in range(4000):
        while case.done_by(at + 1e-9) < (i + 0.5) / 4000:
            at += case.median / 2000
        quantiles.append(at)
    against = rivals(quantiles, random.Random(1))
    lag, polls = (min(other[i] for other in against.values()) for i in (0, 1))
    least = max(cost - price * polls for price, cost, _ in schedules)
    return {"lag of a rival": lag, "polls of a rival": polls, "least lag with those": least}
