"""Jobs as the recorded ones behave, and a policy that lives through them: no network, no sleep.

Every poll takes half a second, as recorded; lag runs from the end of the job to the answer that
says so, so 0.25 s of it is the way home and nobody's fault.
"""

from __future__ import annotations

import heapq
import itertools
import math
import time
from typing import TYPE_CHECKING, NamedTuple

from grok_video._polling import Experience, Polling, Watch

if TYPE_CHECKING:
    import random

ROUND_TRIP = 0.5
HOME = ROUND_TRIP / 2

#: (model, duration, resolution) whose expected time, before anything is seen, is that many seconds.
KINDS = {
    20: ("grok-imagine-video", 10, "480p"),
    45: ("grok-imagine-video", 13, "720p"),
    120: ("grok-imagine-video-1.5", 11, "720p"),
}
# contract.md, section 5: fraction of the whole time -> percent.
SHAPES = {
    "image": [(0, 1), (0.22, 1), (0.41, 20), (0.61, 35), (0.81, 35), (1, 35)],
    "extension": [
        *[(0, 0), (0.16, 0), (0.30, 13), (0.44, 42), (0.58, 59), (0.72, 84), (0.86, 95), (1, 95)]
    ],
}
# The seven recorded jobs (contract/payloads/trajectories): kind, window of the end, polls.
RECORDED = [
    (
        ("grok-imagine-video", 6, "720p"),
        (22.89, 28.39),
        [(0.80, 1), (6.20, 1), (11.70, 20), (17.26, 35), (22.89, 35)],
    ),
    (
        ("grok-imagine-video", 10, None),
        (34.42, 39.88),
        *[[(0.75, 0), (6.36, 0), (12.04, 13), (17.55, 42), (23.14, 59), (28.69, 84), (34.42, 95)]],
    ),
    (
        ("grok-imagine-video", None, None),
        (11.95, 17.46),
        [(0.72, 1), (6.33, 1), (11.95, 21)],
    ),
    (
        ("grok-imagine-video", None, None),
        (11.68, 17.19),
        [(0.53, 1), (5.93, 1), (11.68, 25)],
    ),
    (
        ("grok-imagine-video", 10, None),
        (33.69, 39.20),
        *[[(0.65, 0), (6.07, 0), (11.72, 14), (17.18, 30), (22.70, 58), (28.21, 77), (33.69, 95)]],
    ),
    (
        ("grok-imagine-video", 6, "720p"),
        (22.94, 28.38),
        [(0.81, 1), (6.19, 1), (11.75, 19), (17.27, 35), (22.94, 35)],
    ),
    (
        ("grok-imagine-video", None, None),
        (17.17, 22.67),
        [(0.61, 1), (6.06, 1), (11.60, 12), (17.17, 42)],
    ),
]


class Job(NamedTuple):
    kind: tuple
    ends: float
    #: What the server shows at a given age; None where it sends no number.
    shows: object


class Case(NamedTuple):
    median: int
    sigma: float
    tail: float

    @property
    def name(self) -> str:
        return f"{self.median} s, sigma {self.sigma}" + (", tail" if self.tail else "")

    def draw(self, dice: random.Random) -> float:
        ends = self.median * math.exp(self.sigma * dice.gauss(0, 1))
        return 4 * ends if dice.random() < self.tail else ends

    def done_by(self, seconds: float) -> float:
        z = -math.log(seconds / self.median) / self.sigma / math.sqrt(2)
        late = z + math.log(4) / self.sigma / math.sqrt(2)
        return 0.5 * (1 - self.tail) * math.erfc(z) + 0.5 * self.tail * math.erfc(late)


CASES = [
    Case(median, sigma, tail) for median in KINDS for tail in (0, 0.05) for sigma in (0.25, 0.5)
]


def interpolated(knots, x):
    for (x0, p0), (x1, p1) in itertools.pairwise(knots):
        if x <= x1:
            return p0 + (p1 - p0) * (x - x0) / (x1 - x0)
    return knots[-1][1]


def numbers(mode: str, ends: float, dice: random.Random):
    """Return what the server shows at an age, or None where it sends nothing.

    Rough: refreshed every one to two seconds, two points of noise, and each job bends the curve a
    little its own way; the recorded jobs show at least as much.
    """
    if mode == "none":
        return None
    if mode == "smooth":
        return lambda age: int(100 * min(age / ends, 0.99))
    bend, every = math.exp(dice.gauss(0, 0.05)), dice.uniform(1, 2)
    offset, noise = dice.uniform(0, every), dice.gauss(0, 2)

    def shows(age: float) -> int:
        refreshed = max(0.0, math.floor((age - offset) / every) * every + offset)
        percent = interpolated(SHAPES[mode], min((refreshed / ends) ** bend, 1))
        return int(min(max(percent + (noise if 2 < percent < 94 else 0), 0), 95))

    return shows


def stream(case: Case, mode: str, count: int, dice: random.Random) -> list[Job]:
    jobs = []
    for _ in range(count):
        ends = case.draw(dice)
        jobs.append(Job(KINDS[case.median], ends, numbers(mode, ends, dice)))
    return jobs


def recorded(mode: str, dice: random.Random) -> list[Job]:
    jobs = []
    for kind, (low, high), polls in RECORDED:
        ends = dice.uniform(low, high)
        if mode == "none":
            shows = None
        else:
            knots = [(0.0, 0.0), *polls, (high, polls[-1][1])]
            shows = lambda age, knots=knots: int(interpolated(knots, age))  # noqa: E731
        jobs.append(Job(kind, ends, shows))
    return jobs


def watch(job: Job) -> Watch:
    model, duration, resolution = job.kind
    return Watch(model=model, duration=duration, resolution=resolution)


def live(policy: Polling, job: Job, experience: Experience, dice: random.Random):
    """Return lag and polls of one job, as the client runs it."""
    seen, age, last, polls = watch(job), 0.0, None, 0
    while True:
        asked = age + policy.next_delay(seen, age, experience, dice)
        polls += 1
        age = asked + ROUND_TRIP
        if asked + HOME >= job.ends:
            experience.record(seen, last, age)
            return age - job.ends, polls
        seen.note(age, job.shows(asked + HOME) if job.shows else None)
        last = age


def fan_out(policy: Polling, jobs: list[Job], dice: random.Random, experience: Experience):
    """Return (lag, polls, when noticed) of jobs that run at the same time, in order of notice."""
    queue, out, spent, calls = [], [], 0.0, 0
    for number, job in enumerate(jobs):
        start = dice.uniform(0, 2)
        queue.append((start, number, start, job, watch(job), None, None, 0))
    heapq.heapify(queue)
    while queue:
        now, number, start, job, seen, asked, last, polls = heapq.heappop(queue)
        age = now - start
        if asked is not None:
            if asked + HOME >= job.ends:
                before = time.thread_time()
                experience.record(seen, last, age)
                spent += time.thread_time() - before
                out.append((age - job.ends, polls, now))
                continue
            seen.note(age, job.shows(asked + HOME) if job.shows else None)
            last = age
        before = time.thread_time()
        delay = policy.next_delay(seen, age, experience, dice)
        spent += time.thread_time() - before
        calls += 1
        answer = now + delay + ROUND_TRIP
        heapq.heappush(queue, (answer, number, start, job, seen, age + delay, last, polls + 1))
    return out, spent / calls * 1e6
