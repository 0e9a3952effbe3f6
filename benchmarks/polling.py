"""How late is a finished video noticed, and for how many polls? Simulated, seeded, on no network.

Each case is a stream of jobs through the policies: the default (numbers withheld, rough as in the
two recorded shapes, or smooth), fixed 5 s, 6 s give or take 1.5, 1 to 10 s doubling. `at_equal` is
the lag over that of the fixed interval with as many polls on the same jobs; `to optimum` over that
of the best schedule for the true distribution with as many polls (dynamic programming). Every poll
takes half a second, as recorded; lag runs from the end of the job to the answer that says so, so
0.25 s of it is the way home and nobody's fault. All figures are the median of some rounds, each
with its own dice, and their range; `misses` names every clause and case that does not hold, `room`
says where beating every rival without numbers is more than any schedule can do.

    python benchmarks/polling.py [--tiny] [--json FILE] [--plot FILE.svg]
"""

from __future__ import annotations

import argparse
import heapq
import itertools
import json
import math
import random
import statistics
import sys
import time
from bisect import bisect_left
from pathlib import Path
from typing import NamedTuple

from grok_video._polling import Experience, Polling, Watch
from grok_video._schedule import inspect

ROUND_TRIP = 0.5
HOME = ROUND_TRIP / 2
ROUNDS = 7

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


# What is compared against: schedules that do not look at the job ------------------------------


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


# The questions ----------------------------------------------------------------------------------


def mean(values) -> float:
    return statistics.fmean(values)


def middle(values: list[float]) -> dict[str, float]:
    return {
        "median": round(statistics.median(values), 3),
        "from": round(min(values), 3),
        "to": round(max(values), 3),
    }


def figures(seen, ends: list[float], against: dict) -> dict:
    lag, polls = mean(x[0] for x in seen), mean(x[1] for x in seen)
    one = {"lag": lag, "polls": polls, "at_equal": lag / fixed_at(polls, ends)}
    for name, other in against.items():
        one[f"lag to {name}"], one[f"polls to {name}"] = lag / other[0], polls / other[1]
    return one


def summary(rounds: list[dict]) -> dict:
    """Return the figures of all rounds as one row: median and range."""
    return {key: middle([one[key] for one in rounds]) for key in rounds[0]}


def ask_case(case: Case, tiny: bool, policy: Polling) -> dict:
    """Streams of 40 jobs, the last 20 counted; and many clients' first job."""
    rounds, firsts = (1, 2) if tiny else (ROUNDS, 60)
    schedules = optimum_for(case, 4 if tiny else 24)
    row: dict = {"kind": case.name, "modes": {}, "room": room(case, schedules)}
    for mode in ("none", "image", "extension", "smooth"):
        clients = 1 if tiny else 12 if mode == "none" else 4
        seen_rounds = []
        for number in range(rounds):
            # two dice, so that every policy meets the same jobs
            jobs_dice, dice = random.Random(f"{case.name} {mode} {number}"), random.Random(number)
            parts: dict = {"late": ([], []), "2 to 20": ([], []), "first": ([], [])}
            for client in range(clients + (firsts if mode == "none" else 0)):
                experience = Experience()
                jobs = stream(case, mode, 40 if client < clients else 1, jobs_dice)
                for place, job in enumerate(jobs):
                    lived, ends = parts["late" if place >= 20 else "2 to 20" if place else "first"]
                    lived.append(live(policy, job, experience, dice))
                    ends.append(job.ends)
            against = rivals(parts["late"][1], dice)
            one = figures(*parts["late"], against)
            if mode == "none":
                for part, (lived, ends) in parts.items():
                    polls = mean(x[1] for x in lived)
                    frontier = [scheduled(looks, ends) for _, _, looks in schedules]
                    best = optimum_at(polls, frontier)
                    one[f"{part} to optimum"] = mean(x[0] for x in lived) / best
            seen_rounds.append((one, against))
        row["modes"][mode] = summary([one for one, _ in seen_rounds])
        row["rivals"] = {
            name: [round(mean(against[name][i] for _, against in seen_rounds), 2) for i in (0, 1)]
            for name in seen_rounds[0][1]
        }
    return row


def ask_recorded(tiny: bool, policy: Polling) -> dict:
    """The seven recorded jobs over and over; 20 of each kind are seen after ten times."""
    rounds, clients, times_round = (1, 1, 4) if tiny else (ROUNDS, 5, 16)
    learned = times_round * 5 // 8
    kinds: dict = {}
    for kind, window, _ in RECORDED:
        kinds.setdefault(kind, []).append(window)
    times = [0.05 * i for i in range(1, 860)]
    schedules = {}
    for kind, windows in kinds.items():
        chances = [
            mean(min(max((t - low) / (high - low), 0.0), 1.0) for low, high in windows)
            for t in times
        ]
        schedules[kind] = optimum(times, chances, 25, 4 if tiny else 40)
    row: dict = {"kind": "the seven recorded jobs", "modes": {}}
    for mode in ("none", "recorded"):
        known, parts = [], {"first 21": [], "late": []}
        for number in range(rounds):
            jobs_dice, dice = random.Random(f"recorded {number}"), random.Random(number)
            seen: dict = {"first 21": [], "late": []}
            for _ in range(clients):
                experience = Experience()
                for time_round in range(times_round):
                    for job in recorded(mode, jobs_dice):
                        lived = live(policy, job, experience, dice)
                        if time_round < 3 or time_round >= learned:
                            part = "first 21" if time_round < 3 else "late"
                            seen[part].append((job, lived))
            for part, pairs in seen.items():
                ends = [job.ends for job, _ in pairs]
                against = rivals(ends, dice)
                one = figures([lived for _, lived in pairs], ends, against)
                if mode == "none" and part == "late":
                    frontier = []
                    for k in range(len(schedules[RECORDED[0][0]])):
                        each = [scheduled(schedules[j.kind][k][2], [j.ends]) for j, _ in pairs]
                        frontier.append((mean(x[0] for x in each), mean(x[1] for x in each)))
                    one["late to optimum"] = one["lag"] / optimum_at(one["polls"], frontier)
                parts[part].append(one)
            known.append(against)
        row["modes"][mode] = summary(parts["late"])
        row["modes"][f"{mode}, first 21"] = summary(parts["first 21"])
        row["rivals"] = {
            name: [round(mean(one[name][i] for one in known), 2) for i in (0, 1)]
            for name in known[0]
        }
    return row


def ask_fan_out(tiny: bool, policy: Polling) -> list[dict]:
    """Does the first batch learn from its own first finishers? Against each job for itself."""
    rounds, size, alone = (1, 20, 5) if tiny else (5, 200, 50)
    rows = []
    for case, kind in (
        (Case(45, 0.25, 0), 45),
        (Case(45, 0.5, 0), 45),
        (Case(120, 0.25, 0), 120),
        (Case(45, 0.25, 0), 20),
        (Case(120, 0.25, 0), 45),
        (Case(450, 0.25, 0), 45),
    )[: 1 if tiny else None]:
        for mode in ("none", "extension"):
            found = []
            for number in range(rounds):
                jobs_dice = random.Random(f"fan {case.name} {number}")
                dice = random.Random(number)
                jobs = []
                for _ in range(size):
                    ends = case.draw(jobs_dice)
                    jobs.append(Job(KINDS[kind], ends, numbers(mode, ends, jobs_dice)))
                out, _ = fan_out(policy, jobs, dice, Experience())
                one = figures(out, [job.ends for job in jobs], {})
                some = jobs[:alone]
                single = [live(policy, job, Experience(), dice) for job in some]
                for key, value in figures(single, [job.ends for job in some], {}).items():
                    one[f"{key} alone"] = value
                one["to alone"] = one["at_equal"] / one["at_equal alone"]
                found.append(one)
            name = f"{size} at once: {case.name}, expected {kind} s, numbers: {mode}"
            rows.append({"kind": name, "expected": kind == case.median, **summary(found)})
    return rows


def ask_cost(tiny: bool, policy: Polling) -> dict:
    """Microseconds of CPU per `next_delay`, with `record` and everything that is relearned."""
    out: dict = {}
    for mode in ("none", "extension"):
        for size, waves in ((50, 1),) if tiny else ((1000, 1), (10_000, 1), (50, 30)):
            costs = []
            for number in range(1 if tiny else 3):
                dice, experience, spent, calls = random.Random(number), Experience(), 0.0, 0
                for _ in range(waves):
                    jobs = stream(Case(45, 0.25, 0), mode, size, dice)
                    seen, cost = fan_out(policy, jobs, dice, experience)
                    spent += cost * sum(x[1] for x in seen)
                    calls += sum(x[1] for x in seen)
                costs.append(spent / calls)
            name = f"{size} in flight" + (f", {waves} times" if waves > 1 else "")
            out[f"{name}, numbers: {mode}"] = middle(costs)
    return out


# The verdict ------------------------------------------------------------------------------------


def judge(result: dict) -> list[dict]:
    """Return one verdict for each clause and case: does the median of all rounds hold?"""
    verdicts: list[dict] = []

    def hold(clause: str, case: str, figure: dict, limit: float, **more) -> None:
        holds = figure["median"] < limit
        verdicts.append(
            {"clause": clause, "case": case, "holds": holds, "limit": limit, **figure, **more}
        )

    for row in [*result["cases"], result["recorded"]]:
        for mode, of in row["modes"].items():
            case = f"{row['kind']}, numbers: {mode}"
            if "first 21" in mode:
                continue
            for name in row["rivals"]:
                for what in ("lag", "polls"):
                    figure, more = of[f"{what} to {name}"], {}
                    if mode == "none" and "room" in row:
                        lag, _, least = row["room"].values()
                        more["possible"] = least < lag  # together with the other five
                    hold(f"{what} less than {name}", case, figure, 1.0, **more)
            hold("less lag than any fixed interval at equal polls", case, of["at_equal"], 1.0)
            if mode in ("image", "extension", "recorded"):
                hold("a third of fixed polling's lag", case, of["at_equal"], 1 / 3)
            if mode == "smooth":
                hold("a fifth of fixed polling's lag", case, of["at_equal"], 1 / 5)
            if mode == "none":
                clause = "within 15 % of the optimum after 20 jobs"
                hold(clause, case, of["late to optimum"], 1.15)
                for part in ("first", "2 to 20"):
                    if f"{part} to optimum" in of:
                        clause = f"within 60 % of the optimum, job {part}"
                        hold(clause, case, of[f"{part} to optimum"], 1.6)
    for row in result["fan_out"]:
        # where the formula was right there is little to learn, and little may be lost by trying
        hold(
            "the first batch learns from its own",
            row["kind"],
            row["to alone"],
            1.05 if row["expected"] else 0.8,
        )
    return verdicts


def run(tiny: bool) -> dict:
    """Return every figure; tiny only shows that the benchmark still runs."""
    policy = Polling()
    cases = CASES[:1] if tiny else CASES
    result: dict = {
        "question": "how late is a finished video noticed, and for how many polls?",
        "cases": [ask_case(case, tiny, policy) for case in cases],
        "recorded": ask_recorded(tiny, policy),
        "fan_out": ask_fan_out(tiny, policy),
        "microseconds": ask_cost(tiny, policy),
    }
    result["verdicts"] = judge(result)
    result["held"] = sum(one["holds"] for one in result["verdicts"])
    result["misses"] = [one for one in result["verdicts"] if not one["holds"]]
    return result


# Telling ----------------------------------------------------------------------------------------


def table(result: dict) -> str:
    lines = [f"{'case':28}{'numbers':20}{'lag s':>8}{'polls':>8}{'at equal':>20}  to optimum"]

    def span(of: dict) -> str:
        return f"{of['median']:.2f} ({of['from']:.2f}..{of['to']:.2f})"

    for row in [*result["cases"], result["recorded"]]:
        for name, (lag, polls) in row["rivals"].items():
            lines.append(f"{row['kind']:28}{name:20}{lag:8.2f}{polls:8.2f}")
        for mode, of in row["modes"].items():
            more = [
                f"{key.removesuffix(' to optimum')} {span(value)}"
                for key, value in of.items()
                if key.endswith(" to optimum")
            ]
            lines.append(
                f"{row['kind']:28}{mode:20}{of['lag']['median']:8.2f}{of['polls']['median']:8.2f}"
                f"{span(of['at_equal']):>20}  {', '.join(more)}"
            )
        if "room" in row:
            lag, polls, least = row["room"].values()
            lines.append(
                f"{row['kind']:28}to beat all three without numbers: lag < {lag:.2f} with polls < "
                f"{polls:.2f}; the optimum needs {least:.2f}"
                + (": impossible" if least >= lag else f", {lag / least - 1:.1%} of room")
            )
    for row in result["fan_out"]:
        lines.append(
            f"{row['kind']}: lag {row['lag']['median']:.2f}, polls {row['polls']['median']:.2f}; "
            f"alone {row['lag alone']['median']:.2f}, {row['polls alone']['median']:.2f}; "
            f"at equal polls {span(row['to alone'])} of alone"
        )
    for what, of in result["microseconds"].items():
        lines.append(f"next_delay, {what}: {span(of)} µs")
    lines.append(f"{result['held']} of {len(result['verdicts'])} verdicts hold (medians)")
    for one in result["misses"]:
        possible = "" if one.get("possible", True) else "; no policy can hold all six of this case"
        lines.append(
            f"MISS {one['clause']}: {one['case']}: {span(one)}, limit {one['limit']:.2f}{possible}"
        )
    return "\n".join(lines)


def plot(path: Path, jobs: int = 1200) -> None:
    """Draw the frontier of one case: lag over polls, both as ratios a reader can see at once."""
    case = Case(45, 0.25, 0)
    dice = random.Random(0)
    ends = [case.draw(dice) for _ in range(4000)]
    curves = {
        "any fixed interval": ("#888", [fixed(d, ends) for d in (3, 4, 5, 6, 8, 10, 13, 17, 23)]),
        "optimum, distribution known, blind": (
            "#2a7",
            [scheduled(looks, ends) for _, _, looks in optimum_for(case, 24)],
        ),
    }
    for mode, colour, label in (
        ("none", "#26c", "default, no numbers"),
        ("extension", "#c62", "default, rough numbers"),
        ("smooth", "#a2a", "default, smooth numbers"),
    ):
        points = []
        for interval in (3.5, 5, 7, 10):
            seen = []
            for _ in range(max(1, jobs // 60)):
                experience = Experience()
                for place, job in enumerate(stream(case, mode, 60, dice)):
                    lived = live(Polling(interval=interval), job, experience, dice)
                    if place >= 20:
                        seen.append(lived)
            points.append((mean(x[0] for x in seen), mean(x[1] for x in seen)))
        curves[label] = (colour, points)
    width, height, left, top, most_polls, most_lag = 640, 400, 56, 20, 14.0, 8.0

    def place(lag: float, polls: float) -> str:
        x = left + polls / most_polls * (width - left - 20)
        return f"{x:.1f},{top + (1 - lag / most_lag) * (height - top - 50):.1f}"

    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" '
        'font-family="sans-serif" font-size="12">',
        f'<rect width="{width}" height="{height}" fill="white"/>',
        f'<polyline points="{place(most_lag, 0)} {place(0, 0)} {place(0, most_polls)}" '
        'fill="none" stroke="black"/>',
    ]
    for value in range(2, 14, 2):
        x, y = place(0, value).split(",")
        parts.append(f'<text x="{x}" y="{float(y) + 16}" text-anchor="middle">{value}</text>')
    for value in range(1, 9):
        x, y = place(value, 0).split(",")
        parts.append(
            f'<text x="{float(x) - 6}" y="{float(y) + 4}" text-anchor="end">{value}</text>'
        )
    parts.append(f'<text x="{width / 2}" y="{height - 12}">polls per job</text>')
    parts.append(
        f'<text x="14" y="{height / 2}" transform="rotate(-90 14 {height / 2})">lag, s</text>'
    )
    for number, (label, (colour, points)) in enumerate(curves.items()):
        inside = [p for p in points if p[0] <= most_lag and p[1] <= most_polls]
        line = " ".join(place(*point) for point in inside)
        parts.append(f'<polyline points="{line}" fill="none" stroke="{colour}" stroke-width="2"/>')
        for point in inside if label.startswith("default") else []:
            x, y = place(*point).split(",")
            parts.append(f'<circle cx="{x}" cy="{y}" r="3.5" fill="{colour}"/>')
        parts.append(
            f'<text x="{width - 270}" y="{top + 16 + 17 * number}" fill="{colour}">{label}</text>'
        )
    for label, (lag, polls) in rivals(ends, dice).items():
        x, y = place(lag, polls).split(",")
        parts.append(f'<circle cx="{x}" cy="{y}" r="3.5" fill="black"/>')
        parts.append(f'<text x="{float(x) + 6}" y="{float(y) - 5}">{label}</text>')
    parts.append("</svg>")
    path.write_text("\n".join(parts) + "\n", encoding="utf-8")


def main() -> int:
    arguments = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    arguments.add_argument("--tiny", action="store_true", help="once, on few jobs")
    arguments.add_argument("--json", type=Path, help="write every figure there")
    arguments.add_argument("--plot", type=Path, help="draw the frontier there, as SVG")
    given = arguments.parse_args()
    result = run(given.tiny)
    print(table(result))
    if given.json:
        given.json.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
    if given.plot:
        plot(given.plot, 120 if given.tiny else 1200)
    return 0


if __name__ == "__main__":
    sys.exit(main())
