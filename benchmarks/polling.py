"""How late is a finished video noticed, and for how many polls? Simulated, seeded, on no network.

Each case is a stream of jobs through the policies: the default (numbers withheld, rough as in the
two recorded shapes, or smooth), fixed 5 s, 6 s give or take 1.5, 1 to 10 s doubling. `at_equal` is
the lag over that of the fixed interval with as many polls on the same jobs; `to optimum` over that
of the best schedule for the true distribution with as many polls (dynamic programming). Every poll
takes half a second, as recorded; lag runs from the end of the job to the answer that says so, so
0.25 s of it is the way home and nobody's fault. All figures are the median of some rounds, each
with its own dice, and their range; `misses` names every clause and case that does not hold, `room`
says where beating every rival without numbers is more than any schedule can do.

    python -m benchmarks.polling [--tiny] [--json FILE] [--plot FILE.svg]
"""

from __future__ import annotations

import argparse
import contextlib
import json
import multiprocessing
import os
import random
import statistics
import sys
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

from benchmarks._frontier import plot
from benchmarks._schedules import (
    fixed_at,
    mean,
    optimum,
    optimum_at,
    optimum_for,
    rivals,
    room,
    scheduled,
)
from benchmarks._simulation import (
    CASES,
    KINDS,
    RECORDED,
    Case,
    Job,
    fan_out,
    live,
    numbers,
    recorded,
    stream,
)
from grok_video._polling import Experience, Polling

ROUNDS = 7


# The questions ----------------------------------------------------------------------------------


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
        clients = 1 if tiny else 12
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


def _on_any_processor() -> None:
    with contextlib.suppress(AttributeError, OSError):
        os.sched_setaffinity(0, range(os.cpu_count() or 1))


def run(tiny: bool) -> dict:
    """Return every figure; tiny only shows that the benchmark still runs."""
    policy = Polling()
    cases = CASES[:1] if tiny else CASES
    # On all processors: each question throws its own dice, and answers the same wherever it runs.
    spawn = multiprocessing.get_context("spawn")  # whoever calls this may have threads
    with ProcessPoolExecutor(os.cpu_count(), spawn, _on_any_processor) as pool:
        fan_out = pool.submit(ask_fan_out, tiny, policy)
        recorded = pool.submit(ask_recorded, tiny, policy)
        asked = [pool.submit(ask_case, case, tiny, policy) for case in cases]
        result: dict = {
            "question": "how late is a finished video noticed, and for how many polls?",
            "cases": [one.result() for one in asked],
            "recorded": recorded.result(),
            "fan_out": fan_out.result(),
        }
    result["microseconds"] = ask_cost(tiny, policy)  # a time: alone
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
