"""When to ask next (docstring later)."""

from __future__ import annotations

import math
from bisect import bisect_right
from functools import lru_cache
from typing import TYPE_CHECKING, Final, NamedTuple

from attrs import field, frozen, validators

from grok_video._experience import Experience, Kind, Watch, truncated

if TYPE_CHECKING:
    import random as _random

__all__ = ["Experience", "Polling", "Watch"]

#: Shortest and longest wait between two polls of one job, in seconds.
SHORTEST: Final = 0.05
LONGEST: Final = 60.0
#: The length of job at which a poll costs most, in seconds.
DEAREST: Final = 20.0
JITTER: Final = 0.05

_ROOT_HALF: Final = math.sqrt(0.5)


class Schedule(NamedTuple):
    """For a job still running at `times[i]`: the next look belongs at `targets[i]`."""

    times: list[float]
    targets: list[float]
    #: Expected lag plus price of all polls from the start.
    cost: float
    #: Cost still to come per start at times[i] (times the chance of getting there).
    rest: list[float]
    area: list[float]

    def after(self, elapsed: float) -> float:
        """Return when to look next, if the job is still running at `elapsed`."""
        times = self.times
        i = bisect_right(times, elapsed)
        if i == 0:
            return self.targets[0]
        if i == len(times):
            last = times[-2]
            return elapsed * self.targets[-2] / last if last > 0 else elapsed + self.targets[-2] - last
        low, high = times[i - 1], times[i]
        first, second = self.targets[i - 1], self.targets[i]
        return first + (second - first) * (elapsed - low) / (high - low)


def inspect(times: list[float], chances: list[float], price: float, gap: float) -> Schedule:
    """Return the cheapest schedule by dynamic programming, backwards from the last time.

    W(t) = min over s > t of  area between F and F(t) from t to s  +  price * (1 - F(t))  +  W(s)
    """
    n = len(times)
    area = [0.0] * n
    for i in range(1, n):
        area[i] = area[i - 1] + 0.5 * (chances[i] + chances[i - 1]) * (times[i] - times[i - 1])
    rest = [0.0] * n
    targets = [0.0] * n
    last = n - 1
    alive = 1.0 - chances[last]
    rest[last] = alive * (price + math.sqrt(2.0 * price * 0.5 * (times[last] - times[0])))
    sums = [a + r for a, r in zip(area, rest, strict=True)]
    sums[last] = area[last] + rest[last]
    best = last
    for i in range(n - 2, -1, -1):
        now, chance = times[i], chances[i]
        lowest = i + 1
        if best < lowest:
            best = lowest
        soonest = now + gap
        while times[best] < soonest and best < last:
            best += 1
        value = sums[best] - chance * times[best]
        j, misses = best - 1, 0
        while j >= lowest and misses < 3:
            if times[j] < soonest:
                break
            other = sums[j] - chance * times[j]
            if other < value:
                value, best, misses = other, j, 0
            else:
                misses += 1
            j -= 1
        rest[i] = value - area[i] + chance * now + price * (1.0 - chance)
        sums[i] = area[i] + rest[i]
        target = times[best]
        if lowest < best < last:
            # the minimum of the parabola through three costs
            left = sums[best - 1] - chance * times[best - 1] - value
            right = sums[best + 1] - chance * times[best + 1] - value
            down, up = times[best] - times[best - 1], times[best + 1] - times[best]
            bend = left / down + right / up
            if bend > 0:
                target += min(max(0.5 * (left * up / down - right * down / up) / bend, -0.5 * down), 0.5 * up)
        targets[i] = max(target, soonest)
    targets[last] = targets[last - 1] + times[last] - times[last - 1]
    return Schedule(times, targets, rest[0], rest, area)


@lru_cache(maxsize=32)
def standard(row: int) -> Schedule:
    """Return the schedule for a bell of width 1 at 0 and a poll price of 0.004 * 1.5 ** row."""
    times = [-5.0 + 0.0625 * i for i in range(145)] + [4.0 * 1.04**i for i in range(1, 40)]
    chances = [
        0.47 * math.erfc(-z * _ROOT_HALF) + 0.03 * math.erfc(-z * _ROOT_HALF / 2.5) for z in times
    ]
    chances[0] = 0.0
    return inspect(times, chances, 0.004 * 1.5**row, 0.0)


def bell(price: float) -> Schedule:
    """Return the standard schedule whose price is nearest."""
    row = int((math.log(max(price, 1e-9)) + 5.521461) * 2.466304 + 0.5)
    return standard(min(max(row, 0), 26))


def survey(kind: Kind, interval: float, gap: float) -> Plan:
    """Return the schedule for jobs of this kind from what is believed of them now."""
    mean, spread = kind.mean, kind.spread
    share, far = kind.tail_share, kind.tail_mean
    wide = math.hypot(kind.tail_sigma, kind.mean_error)
    typical = kind.typical * math.exp(mean)
    price = poll_price(interval, typical)
    if kind.talking > kind.silent:
        price = max(TALKING_PRICE * price, min(price, 0.15))
    logs = [mean + 0.05 * spread * i for i in range(-90, 91)]
    step, end = 0.05 * spread, max(far + 3.5 * wide, mean + 6.0 * spread)
    while logs[-1] < end:
        step = min(step * 1.1, 0.04)
        logs.append(logs[-1] + step)
    times = [0.0] + [kind.typical * math.exp(u) for u in logs]
    near, out = _ROOT_HALF / spread, _ROOT_HALF / wide
    chances = [0.0] + [
        0.5 * (1.0 - share) * math.erfc((mean - u) * near) + 0.5 * share * math.erfc((far - u) * out)
        for u in logs
    ]
    schedule = inspect(times, chances, price, gap)
    first = schedule.targets[0]
    width = math.hypot(spread, math.sqrt(share) * (far - mean))
    likely = (1.0 + kind.talking) / (2.0 + kind.talking + kind.silent)
    scout = 0.0
    if likely > 0.2:
        nodes = [kind.typical * math.exp(mean + spread * z) for z in _NODES]
        known: dict[int, tuple[float, float]] = {}
        best = math.inf
        for k in range(24):
            look = typical * (0.2 + 0.04 * k)
            if look > 1.5 * first:
                break
            i = bisect_right(times, look) - 1
            silent = schedule.area[i] + price + schedule.rest[i]
            talking = price
            for moment in nodes:
                if moment <= look:
                    talking += (look - moment) / len(nodes)
                    continue
                cell = int(40.0 * look / moment)
                if cell not in known:
                    known[cell] = gain(kind, (cell + 0.5) / 40.0, width, price, typical)
                cost, _ = known[cell]
                talking += cost * moment / typical / len(nodes)
            value = likely * talking + (1.0 - likely) * silent
            if value < best:
                best, scout = value, look
    return Plan(kind.version, interval, schedule, price, scout or first, first, math.log(typical), width)


_NODES: Final = (-1.9, -1.35, -1.0, -0.74, -0.52, -0.33, -0.16, 0.0, 0.16, 0.33, 0.52, 0.74, 1.0, 1.35, 1.9)


def gain(kind: Kind, fraction: float, width: float, price: float, typical: float) -> tuple[float, float]:
    low, high, noise = kind.read(kind.says(fraction))
    least = math.log(fraction) - high if high < NEARLY_ALL else -9.0
    _, after = narrow(0.0, width, least, math.log(fraction) - low, noise)
    after = min(after, width)
    scale = after * typical
    cost = bell(price / scale).cost * scale
    sharp, place = kind.sharpest()
    if fraction < place - 0.05:
        # a second look at the telling part of the curve may be worth its poll
        then = typical / math.sqrt(1.0 / after**2 + 0.4 / sharp**2)
        cost = min(cost, price + bell(price / then).cost * then)
    return cost, after


def narrow(mean: float, spread: float, low: float, high: float, noise: float) -> tuple[float, float]:
    """Return mean and spread of a normal belief x, told that x + noise lies in low..high."""
    total = spread * spread + noise * noise
    root = math.sqrt(total)
    _, z, zz = truncated((low - mean) / root, max(high - mean, low - mean + 1e-3) / root)
    share = spread * spread / total
    variance = share * noise * noise + share * share * total * max(zz - z * z, 1e-6)
    return mean + share * root * z, math.sqrt(variance)


class Plan(NamedTuple):
    """What one state of experience says about jobs of one kind."""

    version: int
    interval: float
    schedule: Schedule
    price: float
    scout: float
    first: float
    centre: float
    width: float


def poll_price(interval: float, typical: float) -> float:
    """Return what a poll costs, in seconds of lag."""
    return 0.5 * interval * interval * min(1.0 / typical, typical / DEAREST**2)


@frozen
class Polling:
    """How often running jobs are asked about; the default learns (see the module)."""

    #: Seconds; fixed polling asks this often, the learner is as thrifty as this where it must guess.
    interval: float = field(default=6.0, converter=float, validator=validators.gt(0))
    adaptive: bool = True
    #: Seconds added or taken at random around a fixed interval.
    jitter: float = field(default=0.0, converter=float, validator=validators.ge(0))

    @classmethod
    def fixed(cls, seconds: float, jitter: float = 0.0) -> Polling:
        """Ask every `seconds`, give or take `jitter`."""
        return cls(interval=seconds, adaptive=False, jitter=jitter)

    def next_delay(
        self, watch: Watch, elapsed: float, experience: Experience, random: _random.Random
    ) -> float:
        """Seconds until the next poll; at least `SHORTEST` and at most `LONGEST`."""
        if self.adaptive:
            delay = self._adaptive(watch, elapsed, experience, random)
        else:
            delay = self.interval + (random.uniform(-self.jitter, self.jitter) if self.jitter else 0)
        delay = max(delay, watch.hint_until - elapsed)
        delay = min(max(delay, SHORTEST), LONGEST)
        watch.due = elapsed + delay
        return delay

    def _adaptive(
        self, watch: Watch, elapsed: float, experience: Experience, random: _random.Random
    ) -> float:
        kind = experience.kind(watch)
        fresh = not (experience.answered or kind.finished)
        experience.follow(watch, kind)
        if kind.news >= 1.0:
            experience.consult(kind)
        plan = kind.plan
        if not isinstance(plan, Plan) or plan.version != kind.version or plan.interval != self.interval:
            plan = kind.plan = survey(kind, self.interval, experience.round_trip)
        if watch._unread:
            watch._unread = False
            self._read(watch, kind, plan, random)
        if not watch.age_known:
            return self._stranger(watch, elapsed, plan, random)
        target = self._target(watch, kind, elapsed, plan)
        if kind.finished and not experience.answered:
            # nothing was ever caught running: the server is faster than anything asked so far
            target = min(target, 0.25 * experience.soonest)
        trip = experience.round_trip if watch.polls else 0.0
        delay = (target - elapsed) * (1.0 + JITTER * (2.0 * random.random() - 1.0)) - trip
        if fresh and not watch.polls and EARLY_CHANCE * target > 2.0 * plan.price:
            return min(1.0, 0.05 * target) * (0.8 + 0.4 * random.random())
        return delay

    def _target(self, watch: Watch, kind: Kind, elapsed: float, plan: Plan) -> float:
        belief = watch._belief
        if belief is None:
            if elapsed < 0.5 * plan.scout:
                return plan.scout
            return plan.schedule.after(elapsed)
        mean, spread = belief
        if kind.trust < TRUSTED or (
            spread > 0.8 * plan.width and abs(mean - plan.centre) < plan.width
        ):
            return plan.schedule.after(elapsed)
        total = math.exp(mean)
        z = (math.log(max(elapsed, 1e-4)) - mean) / spread
        target = math.exp(mean + spread * bell(plan.price / (spread * total)).after(z))
        if spread > 0.12:
            scout = total * plan.scout / math.exp(plan.centre)
            if elapsed + 0.15 * total < target and elapsed < 0.85 * scout:
                target = min(target, max(scout, elapsed + 0.15 * total))
        if watch._audit:
            target = min(target, plan.schedule.after(elapsed))
        return target

    def _read(
        self, watch: Watch, kind: Kind, plan: Plan, random: _random.Random
    ) -> None:
        percent = watch.progress
        if percent is None or watch.elapsed <= 0.0:
            return
        if watch._belief is None:
            watch._audit = kind.talking < 3 or random.random() < AUDITED
        mean, spread = watch._belief or (plan.centre, plan.width)
        low, high, noise = kind.read(percent)
        now = math.log(watch.elapsed)
        readings = watch.readings
        stalled = len(readings) > 1 and readings[-2][1] == percent
        # "At most nearly all of its life" is what still running says, and the schedule knows that.
        least = now - high if high < NEARLY_ALL else now - 9.0
        most = now - low
        if stalled:
            if high >= NEARLY_ALL or kind.talking + kind.silent < 3:
                return
            most = now + 9.0
        # A number that contradicts what is already known is believed the less, the more it does.
        surprise = max(least - mean, mean - most) / math.hypot(spread, noise)
        if surprise > 1.5:
            noise *= (surprise / 1.5) ** 2
        mean, spread = narrow(mean, spread, least, most, noise)
        watch._belief = (mean, max(spread, 0.004))

    def _stranger(
        self, watch: Watch, elapsed: float, plan: Plan, random: _random.Random
    ) -> float:
        """A handle made from an id: done long ago, most likely; else anywhere in its life."""
        if not watch.polls:
            return SHORTEST
        half = 0.5 * math.exp(plan.centre)
        step = math.sqrt(2.0 * plan.price * half) * math.sqrt(max(1.0, elapsed / half))
        return step * (0.9 + 0.2 * random.random())


TRUSTED: Final = 0.6
AUDITED: Final = 0.06
NEARLY_ALL: Final = -0.12
EARLY_CHANCE: Final = 0.08
TALKING_PRICE = 0.5

Polling.__module__ = "grok_video"
