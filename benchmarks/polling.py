"""How late is a finished video noticed, and for how many polls? Simulated, seeded, on no network.

Each case is a stream of jobs through the policies: the default (numbers withheld, rough as in the
two recorded shapes, or smooth), fixed 5 s, 6 s give or take 1.5, 1 to 10 s doubling. `at_equal` is
the lag over that of the fixed interval with as many polls on the same jobs; `to_optimum` over that
of the best schedule for the true distribution with as many polls (dynamic programming). Every poll
takes half a second, as recorded; lag runs from the end of the job to the answer that says so, so
0.25 s of it is the way home and nobody's fault.

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

from grok_video._polling import Experience, Polling, Watch, inspect

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
                experience.record(seen, last, age)
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


def optimum(case: Case, points: int) -> list[list[float]]:
    """Return the best schedules for the true distribution, from thrifty to eager."""
    low = case.median * math.exp(-4.5 * case.sigma)
    high = case.median * math.exp(4.5 * case.sigma) * (4 if case.tail else 1)
    times = [low * (high / low) ** (i / 1200) for i in range(1201)]
    chances = [case.done_by(t) for t in times]
    schedules = []
    for k in range(points):
        price = 0.5 * (30 * 0.05 ** (k / (points - 1))) ** 2 / case.median
        best, at, looks = inspect([0.0, *times], [0.0, *chances], price, ROUND_TRIP), 0.0, []
        while at < high:
            at = best.after(at)
            looks.append(at)
        schedules.append(looks)
    return schedules


def scheduled(looks: list[float], ends: list[float]) -> tuple[float, float]:
    lag = polls = 0.0
    for end in ends:
        i = bisect_left(looks, end)
        look = looks[i] if i < len(looks) else end
        lag += look - end + HOME
        polls += min(i, len(looks) - 1) + 1
    return lag / len(ends), polls / len(ends)


def optimum_at(polls: float, schedules: list[list[float]], ends: list[float]) -> float:
    """Lag of the best schedules with that many polls on these jobs (mixing two neighbours)."""
    frontier = [scheduled(looks, ends) for looks in schedules]
    for (lag0, n0), (lag1, n1) in itertools.pairwise(frontier):
        if n0 <= polls <= n1:
            return lag0 + (lag1 - lag0) * (polls - n0) / max(n1 - n0, 1e-9)
    return frontier[0][0] if polls < frontier[0][1] else frontier[-1][0]


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
    return {
        "lag": lag,
        "polls": polls,
        "at_equal": lag / fixed_at(polls, ends),
        "less_lag": all(lag < other[0] for other in against.values()),
        "fewer_polls": all(polls < other[1] for other in against.values()),
        "beats": [name for name, other in against.items() if lag < other[0] and polls < other[1]],
    }


def summary(rounds: list[dict], against: list[dict]) -> dict:
    """Return the figures of all rounds as one row."""
    row: dict = {
        key: middle([one[key] for one in rounds])
        for key in ("lag", "polls", "at_equal", "to_optimum", "first_to_optimum")
        if key in rounds[0]
    }
    lag, polls = mean(one["lag"] for one in rounds), mean(one["polls"] for one in rounds)
    row["beats"] = [
        name
        for name in against[0]
        if lag < mean(one[name][0] for one in against)
        and polls < mean(one[name][1] for one in against)
    ]
    return row


def ask_case(case: Case, tiny: bool, policy: Polling) -> dict:
    rounds, clients, firsts = (1, 1, 2) if tiny else (ROUNDS, 8, 150)
    schedules = optimum(case, 4 if tiny else 24)
    rows: dict = {"kind": case.name, "modes": {}, "rivals": {}}
    known: list[dict] = []
    for mode in ("none", "image", "extension", "smooth"):
        seen_rounds, known = [], []
        for number in range(rounds):
            dice = random.Random(f"{case.name} {number}")
            late, ends, young, young_ends = [], [], [], []
            for _ in range(clients):
                experience = Experience()
                for place, job in enumerate(stream(case, mode, 40, dice)):
                    lived = live(policy, job, experience, dice)
                    if place >= 20:
                        late.append(lived)
                        ends.append(job.ends)
            against = rivals(ends, dice)
            known.append(against)
            one = figures(late, ends, against)
            if mode == "none":
                one["to_optimum"] = one["lag"] / optimum_at(one["polls"], schedules, ends)
                for _ in range(firsts):
                    job = stream(case, mode, 1, dice)[0]
                    young.append(live(policy, job, Experience(), dice))
                    young_ends.append(job.ends)
                polls = mean(x[1] for x in young)
                best = optimum_at(polls, schedules, young_ends)
                one["first_to_optimum"] = mean(x[0] for x in young) / best
            seen_rounds.append(one)
        rows["modes"][mode] = summary(seen_rounds, known)
    rows["rivals"] = {
        name: [round(mean(one[name][i] for one in known), 2) for i in (0, 1)] for name in known[0]
    }
    rows["optimum_could"] = could(schedules, rows["rivals"], case, tiny)
    return rows


def could(schedules, against: dict, case: Case, tiny: bool) -> bool:
    """Is there any schedule at all with less lag and fewer polls than all rivals, blind?"""
    dice = random.Random(1)
    ends = [case.draw(dice) for _ in range(200 if tiny else 10_000)]
    lag = min(one[0] for one in against.values())
    polls = min(one[1] for one in against.values())
    return optimum_at(polls, schedules, ends) < lag


def ask_recorded(tiny: bool, policy: Polling) -> dict:
    rounds, clients = (1, 2) if tiny else (ROUNDS, 30)
    row: dict = {"kind": "the seven recorded jobs", "modes": {}}
    for mode in ("none", "recorded"):
        young_rounds, late_rounds, known = [], [], []
        for number in range(rounds):
            dice = random.Random(f"recorded {number}")
            seen = {False: ([], []), True: ([], [])}
            for _ in range(clients):
                experience = Experience()
                for time_round in range(5):
                    for job in recorded(mode, dice):
                        lived, ends = seen[time_round >= 3]
                        lived.append(live(policy, job, experience, dice))
                        ends.append(job.ends)
            against = rivals(seen[True][1], dice)
            known.append(against)
            late_rounds.append(figures(*seen[True], against))
            young_rounds.append(figures(*seen[False], against))
        row["modes"][mode] = summary(late_rounds, known)
        row["modes"][f"{mode}, first 21"] = summary(young_rounds, known)
        row["rivals"] = {
            name: [round(mean(one[name][i] for one in known), 2) for i in (0, 1)]
            for name in known[0]
        }
    return row


def ask_fan_out(tiny: bool, policy: Polling) -> list[dict]:
    """Does the first batch learn from its own first finishers? Against each job for itself."""
    rounds, size = (1, 20) if tiny else (ROUNDS, 200)
    rows = []
    for case, kind in (
        (Case(45, 0.25, 0), 45),
        (Case(45, 0.5, 0), 45),
        (Case(120, 0.25, 0), 120),
        (Case(45, 0.25, 0), 20),
        (Case(120, 0.25, 0), 45),
        (Case(450, 0.25, 0), 45),
    ):
        for mode in ("none", "extension"):
            together, alone = [], []
            for number in range(rounds):
                dice = random.Random(f"fan {case.name} {number}")
                jobs = []
                for _ in range(size):
                    ends = case.draw(dice)
                    jobs.append(Job(KINDS[kind], ends, numbers(mode, ends, dice)))
                ends = [job.ends for job in jobs]
                out, _ = fan_out(policy, jobs, dice, Experience())
                one = {"lag": mean(x[0] for x in out), "polls": mean(x[1] for x in out)}
                one["at_equal"] = one["lag"] / fixed_at(one["polls"], ends)
                together.append(one)
                single = [live(policy, job, Experience(), dice) for job in jobs]
                one = {"lag": mean(x[0] for x in single), "polls": mean(x[1] for x in single)}
                one["at_equal"] = one["lag"] / fixed_at(one["polls"], ends)
                alone.append(one)
            rows.append(
                {
                    "kind": f"{size} at once: {case.name}, expected {kind} s, numbers: {mode}",
                    "together": summary(together, [{}]),
                    "each alone": summary(alone, [{}]),
                }
            )
    return rows


def ask_cost(tiny: bool, policy: Polling) -> dict:
    """Microseconds of CPU of `next_delay`, everything it relearns included."""
    out: dict = {}
    for mode in ("none", "extension"):
        for size in (50,) if tiny else (1000, 10_000):
            costs = []
            for number in range(1 if tiny else 5):
                dice = random.Random(number)
                jobs = stream(Case(45, 0.25, 0), mode, size, dice)
                costs.append(fan_out(policy, jobs, dice, Experience())[1])
            out[f"{size} in flight, numbers: {mode}"] = middle(costs)
    return out


def run(tiny: bool) -> dict:
    """Return every figure; tiny only shows that the benchmark still runs."""
    policy = Polling()
    cases = CASES[:1] if tiny else CASES
    return {
        "question": "how late is a finished video noticed, and for how many polls?",
        "cases": [ask_case(case, tiny, policy) for case in cases],
        "recorded": ask_recorded(tiny, policy),
        "fan_out": ask_fan_out(tiny, policy)[: 2 if tiny else None],
        "microseconds": ask_cost(tiny, policy),
    }


# Telling ----------------------------------------------------------------------------------------


def table(result: dict) -> str:
    lines = [f"{'case':28}{'numbers':20}{'lag s':>8}{'polls':>8}{'at equal':>20}  beats; optimum"]

    def span(of: dict) -> str:
        return f"{of['median']:.2f} ({of['from']:.2f}..{of['to']:.2f})"

    for row in [*result["cases"], result["recorded"]]:
        for name, (lag, polls) in row["rivals"].items():
            lines.append(f"{row['kind']:28}{name:20}{lag:8.2f}{polls:8.2f}")
        for mode, of in row["modes"].items():
            more = f"{len(of['beats'])} of 3"
            if "to_optimum" in of:
                more += f"; to optimum {span(of['to_optimum'])}"
                more += f", from the first {span(of['first_to_optimum'])}"
                if not row["optimum_could"]:
                    more += "; no blind schedule beats all three"
            lines.append(
                f"{row['kind']:28}{mode:20}{of['lag']['median']:8.2f}{of['polls']['median']:8.2f}"
                f"{span(of['at_equal']):>20}  {more}"
            )
    for row in result["fan_out"]:
        for who in ("together", "each alone"):
            of = row[who]
            lines.append(
                f"{row['kind']}, {who}: lag {of['lag']['median']:.2f}, "
                f"polls {of['polls']['median']:.2f}, at equal {span(of['at_equal'])}"
            )
    for what, of in result["microseconds"].items():
        lines.append(f"next_delay, {what}: {span(of)} µs")
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
            [scheduled(looks, ends) for looks in optimum(case, 24)],
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
