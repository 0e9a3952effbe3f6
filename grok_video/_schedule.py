"""The cheapest times to look at something that ends at an unknown time: a schedule.

`_polling` says what a look costs and when a job may end; here is the arithmetic alone, for any
distribution and for a bell. No clock, no jobs, no numbers of a server.
"""

from __future__ import annotations

import math
from bisect import bisect_right
from functools import lru_cache
from typing import Final

__all__ = ["ROOT_HALF", "Schedule", "bell", "inspect"]

#: What makes `math.erfc` the tail of a normal distribution.
ROOT_HALF: Final = math.sqrt(0.5)


# Written by hand: a class that writes its own methods is compiled with each import, and nobody
# compares or shows one.


class Schedule:
    """For a job still running at `times[i]`, the next look belongs at `targets[i]`."""

    __slots__ = ("area", "rest", "targets", "times")

    def __init__(
        self, times: list[float], targets: list[float], rest: list[float], area: list[float]
    ) -> None:
        self.times = times
        self.targets = targets
        #: What is still to be paid from `times[i]` on, times the chance of getting there.
        self.rest = rest
        #: Area under the chance of being done, from the start to `times[i]`.
        self.area = area

    def after(self, elapsed: float) -> float:
        """Return when to look next, if the job is still running at `elapsed`."""
        times, targets = self.times, self.targets
        i = bisect_right(times, elapsed)
        if i == 0:
            return targets[0]
        if i == len(times):
            # Later than anything expected: the last gap, growing with the age.
            gap = targets[-1] - times[-1]
            return elapsed + (gap * elapsed / times[-1] if times[-1] > 0.0 else gap)
        low, first = times[i - 1], targets[i - 1]
        return first + (targets[i] - first) * (elapsed - low) / (times[i] - low)


def inspect(times: list[float], chances: list[float], price: float, gap: float = 0.0) -> Schedule:
    """Return the cheapest schedule for a job that is done by `times[i]` with `chances[i]`.

    With F for the chance of being done, what is still to be paid is::

        W(t) = min over s >= t + gap of  (area of F - F(t) from t to s) + price * (1 - F(t)) + W(s)

    where the area is the lag of the jobs that end between two looks. Of what s costs only
    area(s) + W(s) - F(t) * s depends on s: a straight line over F(t), the steeper the later s is.
    Going backwards F(t) only falls, so the lines that are lowest somewhere below it are kept in
    order, each new one is the flattest, and the best moves along them: one step per time.
    """
    last = len(times) - 1
    area = [0.0] * (last + 1)
    for i in range(last):
        area[i + 1] = area[i] + 0.5 * (chances[i] + chances[i + 1]) * (times[i + 1] - times[i])
    rest = [0.0] * (last + 1)
    targets = [0.0] * (last + 1)
    # The few jobs longer than the last time: as if they ended at a constant rate.
    rest[last] = (1.0 - chances[last]) * (price + math.sqrt(price * (times[last] - times[0])))
    sums = [0.0] * (last + 1)
    sums[last] = area[last] + rest[last]
    lines, below, best, newest = [last], [0.0], 0, last
    for i in range(last - 1, -1, -1):
        now, chance = times[i], chances[i]
        soonest = now + gap
        while newest > i + 1 and times[newest - 1] >= soonest:
            newest -= 1
            height, at = sums[newest], times[newest]
            while True:
                # below this chance the new line lies under the one before it
                other = lines[-1]
                crossing = (sums[other] - height) / (times[other] - at)
                if len(lines) - 1 == best or crossing < below[-1]:
                    break
                lines.pop()
                below.pop()
            lines.append(newest)
            below.append(crossing)
        while best + 1 < len(lines) and chance <= below[best + 1]:
            best += 1
        j = lines[best]
        target = times[j]
        value = sums[j] - chance * target
        rest[i] = value - area[i] + chance * now + price * (1.0 - chance)
        sums[i] = area[i] + rest[i]
        if i + 1 < j < last:
            # the lowest point of the parabola through the three costs around it
            down, up = target - times[j - 1], times[j + 1] - target
            left = sums[j - 1] - chance * times[j - 1] - value
            right = sums[j + 1] - chance * times[j + 1] - value
            bend = left / down + right / up
            if bend > 0.0:
                shift = 0.5 * (left * up / down - right * down / up) / bend
                target += min(max(shift, -0.5 * down), 0.5 * up)
        targets[i] = max(soonest, target)
    targets[last] = times[last] + max(targets[last - 1] - times[last - 1], gap)
    return Schedule(times, targets, rest, area)


@lru_cache(maxsize=32)
def _bell(row: int) -> Schedule:
    # 3 % of it 2.5 times as wide: a foretold end is sometimes off by more than it claimed
    times = [-5.0 + 0.0625 * i for i in range(145)] + [4.0 * 1.04**i for i in range(1, 40)]
    chances = [
        0.485 * math.erfc(-z * ROOT_HALF) + 0.015 * math.erfc(-z * ROOT_HALF / 2.5) for z in times
    ]
    chances[0] = 0.0
    return inspect(times, chances, 0.004 * 1.5**row)


def bell(price: float) -> Schedule:
    """Return the schedule for an end about 0 give or take 1, at about this price per look."""
    row = round(math.log(price * 250.0) * 2.466303)  # 1 / log(1.5)
    return _bell(min(max(row, 0), 26))
