"""When the next poll comes: bounds, what is learned, and the sum of the module's docstring."""

from __future__ import annotations

import heapq
import math
import pickle
from random import Random
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import grok_video
from benchmarks import polling
from grok_video import _polling
from grok_video._curve import Curve, answered_at, shown_at
from grok_video._experience import KINDS, typical_seconds
from grok_video._kinds import KEPT, Kind, narrow, truncated
from grok_video._polling import LONGEST, SHORTEST, Experience, Polling, Watch
from grok_video._schedule import inspect

OLDER = "grok-imagine-video"


def watch(**facts: Any) -> Watch:
    return Watch(**{"duration": 10, "resolution": "480p", "model": OLDER, **facts})


def live(
    ends: float,
    experience: Experience,
    *,
    shows: Any = lambda age: None,
    policy: Polling = Polling(),
    dice: Random | None = None,
    **facts: Any,
) -> tuple[float, int]:
    """Return lag and polls of one job whose polls take no time."""
    dice = dice or Random(1)
    seen, age, last = watch(**facts), 0.0, None
    for polls in range(1, 10_000):
        age += policy.next_delay(seen, age, experience, dice)
        if age >= ends:
            experience.record(seen, last, age)
            return age - ends, polls
        seen.note(age, shows(age))
        last = age
    raise AssertionError("never done")


def taught(*ends: float, **facts: Any) -> Experience:
    experience = Experience()
    for end in ends:
        live(end, experience, **facts)
    return experience


# The face ---------------------------------------------------------------------------------------


def test_it_is_public_frozen_and_survives_pickling():
    assert Polling.__module__ == "grok_video"
    assert grok_video.Polling is Polling
    assert pickle.loads(pickle.dumps(Polling.fixed(3, jitter=1))) == Polling.fixed(3, jitter=1)
    with pytest.raises(AttributeError):
        Polling().interval = 3.0  # type: ignore[misc]


@pytest.mark.parametrize(
    "wrong",
    [
        {"interval": 0},
        {"interval": -1},
        {"interval": math.nan},
        {"interval": math.inf},
        {"interval": 5, "jitter": 5},
        {"interval": 5, "jitter": -1},
        {"interval": 5, "jitter": math.nan},
    ],
)
def test_a_policy_that_makes_no_sense_is_refused(wrong: dict[str, float]):
    with pytest.raises(ValueError):
        Polling(**wrong)


def test_fixed_is_fixed_whatever_the_job_shows():
    experience, seen, policy = taught(20.0, 21.0, 19.0), watch(), Polling.fixed(3)
    for step in range(1, 20):
        assert policy.next_delay(seen, 3.0 * step, experience, Random(step)) == 3.0
        seen.note(3.0 * step, 5.0 * step)


def test_jitter_stays_inside_its_bounds_and_uses_them():
    delays = [
        Polling.fixed(6, jitter=1.5).next_delay(watch(), 0.0, Experience(), Random(seed))
        for seed in range(200)
    ]
    assert 4.5 <= min(delays) < 4.8
    assert 7.2 < max(delays) <= 7.5


@pytest.mark.parametrize("policy", [Polling(), Polling.fixed(2)])
def test_the_servers_wish_is_kept(policy: Polling):
    seen = watch()
    seen.note(18.0, None, hint=30.0)
    assert policy.next_delay(seen, 18.0, Experience(), Random(1)) == 30.0
    assert policy.next_delay(seen, 40.0, Experience(), Random(1)) >= 8.0
    assert policy.next_delay(seen, 50.0, Experience(), Random(1)) < 10.0


@pytest.mark.parametrize("hint", [-5.0, 0.0, math.nan, math.inf])
def test_a_wish_that_makes_no_sense_is_ignored(hint: float):
    seen = watch()
    seen.note(18.0, None, hint=hint)
    assert Polling.fixed(2).next_delay(seen, 18.0, Experience(), Random(1)) == 2.0


def test_the_same_dice_give_the_same_delays():
    def delays() -> list[float]:
        dice, experience, out = Random(7), taught(18.0, 22.0), []
        seen, age = watch(), 0.0
        for _ in range(10):
            out.append(Polling().next_delay(seen, age, experience, dice))
            age += out[-1]
            seen.note(age, 2 * age)
        return out

    assert delays() == delays()


def test_what_the_caller_left_out_is_the_servers_default():
    assert typical_seconds(None, None, None) == pytest.approx(3 * (8 + 8 * 2.9))
    assert typical_seconds(OLDER, 6, "720p") == pytest.approx(25.4)
    assert typical_seconds(OLDER, None, None) == pytest.approx(17.6)
    assert typical_seconds("something new", 5, "4k") > 0


# The sum of the docstring -----------------------------------------------------------------------


def test_the_example_of_the_docstring_adds_up():
    kind = Kind(typical_seconds(OLDER, 10, "480p"))
    plan = _polling.survey(kind, 5.0, 0.0)
    assert kind.typical == 20.0
    assert plan.price == 0.625
    assert kind.spread == pytest.approx(0.446, abs=0.001)
    tail = math.hypot(kind.tail_sigma, kind.mean_error)

    def done_by(seconds: float) -> float:
        u = math.log(seconds / 20.0)
        early = 0.5 * math.erfc(-u / kind.spread / math.sqrt(2))
        late = 0.5 * math.erfc((kind.tail_mean - u) / tail / math.sqrt(2))
        return 0.97 * early + 0.03 * late

    left = 1.0 - done_by(20.0)
    assert left == pytest.approx(0.515, abs=0.001)
    assert done_by(14.3) == pytest.approx(0.22, abs=0.005)
    hazard = 0.97 * 0.399 / (0.446 * 20) / left
    assert hazard == pytest.approx(0.084, abs=0.0005)
    assert math.sqrt(2 * plan.price / hazard) == pytest.approx(3.9, abs=0.06)
    schedule = plan.schedule
    assert schedule.after(20.0) - 20.0 == pytest.approx(3.6, abs=0.05)
    looks = [schedule.after(0.0)]
    for _ in range(3):
        looks.append(schedule.after(looks[-1]))
    assert looks == pytest.approx([14.3, 18.6, 22.4, 25.9], abs=0.05)
    assert schedule.rest[0] == pytest.approx(4.7, abs=0.05)


def test_a_job_that_may_end_at_any_moment_is_looked_at_in_equal_steps():
    mean, price = 30.0, 0.6
    times = [0.2 * i for i in range(1500)]
    schedule = inspect(times, [1 - math.exp(-t / mean) for t in times], price)
    # exact: d / T = 1 - exp(-d / T) + c / T ... nearly sqrt(2 c T)
    for t in (0.0, 10.0, 40.0):
        assert schedule.after(t) - t == pytest.approx(math.sqrt(2 * price * mean), rel=0.05)


def test_the_schedule_is_as_cheap_as_trying_every_one():
    dice = Random(3)
    times = [0.2 * i for i in range(150)]
    for _ in range(8):
        # two humps, so that the cheapest look is not where a short search would find it
        first, second, share = dice.uniform(4, 9), dice.uniform(15, 24), dice.uniform(0.2, 0.9)
        chances = [
            share * 0.5 * math.erfc((first - t) / 2.0)
            + (1 - share) * 0.5 * math.erfc((second - t) / 2.5)
            for t in times
        ]
        chances[0], price = 0.0, dice.uniform(0.05, 2.0)
        schedule = inspect(times, chances, price)
        area = schedule.area
        rest = [0.0] * 150
        rest[149] = schedule.rest[149]
        for i in range(148, -1, -1):
            rest[i] = min(
                area[j]
                - area[i]
                - chances[i] * (times[j] - times[i])
                + price * (1 - chances[i])
                + rest[j]
                for j in range(i + 1, 150)
            )
        assert schedule.rest[0] == pytest.approx(rest[0], rel=0.005)


def test_looks_are_no_closer_than_the_round_trip():
    times = [0.1 * i for i in range(100)]
    chances = [0.5 * math.erfc(5.0 - t) for t in times]
    schedule = inspect(times, chances, 0.001, gap=0.5)
    t = 0.0
    while t < 9.0:
        assert schedule.after(t) >= t + 0.5 - 1e-9
        t = schedule.after(t)


def test_looks_in_the_long_tail_are_as_close_as_the_rule_says():
    """Where the times of the schedule were coarser than the gaps, late jobs were seen late."""
    kind = Kind(120.0)
    kind.tail_mean, kind.tail_sigma, kind.mean_error = math.log(4.0), 0.25, 0.0
    plan = _polling.survey(kind, 5.0, 0.0)
    late = 480.0
    hazard = 0.399 / (0.25 * late) / 0.5
    gap = plan.schedule.after(late) - late
    assert gap == pytest.approx(math.sqrt(2 * plan.price / hazard), rel=0.15)


def test_a_number_that_fits_only_a_late_job_moves_the_belief_to_the_far_hump():
    dice, experience, facts = Random(1), Experience(), {"duration": 13, "resolution": "720p"}

    def shows(ends: float) -> Any:
        return lambda age: int(100 * age / ends)

    for _ in range(30):
        ends = 45.0 * math.exp(0.2 * dice.gauss(0, 1))
        live(ends, experience, dice=dice, shows=shows(ends), **facts)
    late = watch(**facts)
    Polling().next_delay(late, 0.0, experience, dice)
    late.note(20.0, 10.0)
    delay = Polling().next_delay(late, 20.0, experience, dice)
    assert late.belief is not None
    assert late.belief.share > 0.5
    assert 150 < math.exp(late.belief.far) < 250
    assert delay > 60


def test_a_number_is_read_with_its_odds():
    mass, mean, spread = narrow(0.0, 1.0, 0.5, 0.5, 1.0)
    assert mean == pytest.approx(0.25, abs=0.01)
    assert spread == pytest.approx(math.sqrt(0.5), abs=0.01)
    assert 0 < mass < 0.001
    assert narrow(0.0, 1.0, 0.5, 9.0, 1.0)[0] == pytest.approx(0.362, abs=0.001)


def test_a_truncated_bell_keeps_its_digits_far_out():
    for low, high in [(-1.0, 2.0), (5.0, 7.0), (-math.inf, -6.0), (9.0, 9.5), (-40.0, -30.0)]:
        mass, mean, square = truncated(low, high)
        assert mass > 0
        assert low <= mean <= high
        assert square >= mean * mean - 1e-9
    assert truncated(-math.inf, math.inf) == pytest.approx((1.0, 0.0, 1.0))
    assert truncated(0.0, math.inf)[1] == pytest.approx(math.sqrt(2 / math.pi))


# What is learned --------------------------------------------------------------------------------


def test_polls_are_dense_where_the_end_is_likely():
    dice, seen, experience = Random(1), watch(), taught(19.0, 21.0, 20.0, 20.5, 19.5, 20.0)
    first = Polling().next_delay(seen, 0.0, experience, dice)
    seen.note(first, None)
    second = Polling().next_delay(seen, first, experience, dice)
    assert first > 3 * second


def test_a_server_a_thousand_times_faster_is_learned_from_five_jobs():
    experience, dice = Experience(), Random(1)
    lags = [live(0.02 * dice.uniform(0.8, 1.2), experience, dice=dice)[0] for _ in range(8)]
    assert max(lags[5:]) < 0.1


def test_a_fresh_client_looks_once_early_where_that_is_cheap():
    delay = Polling().next_delay(
        Watch(duration=None, resolution=None, model=None), 0.0, Experience(), Random(1)
    )
    assert delay < 1.5
    experience = taught(90.0, duration=None, resolution=None, model=None)
    delay = Polling().next_delay(
        Watch(duration=None, resolution=None, model=None), 0.0, experience, Random(1)
    )
    assert delay > 20


def test_a_server_that_hardly_varies_is_believed():
    experience, dice = Experience(), Random(1)
    seen = [live(20.0 * dice.uniform(0.97, 1.03), experience, dice=dice) for _ in range(40)]
    assert sum(lag for lag, _ in seen[20:]) / 20 < 1.0
    assert sum(polls for _, polls in seen[20:]) / 20 < 2.0


def test_a_plan_stays_while_what_is_believed_hardly_moves():
    dice, experience, plans = Random(1), Experience(), []
    for _ in range(400):
        live(20.0 * math.exp(0.25 * dice.gauss(0, 1)), experience, dice=dice)
        (kind,) = experience._kinds.values()
        plans.append((kind.plan.schedule, kind.version))  # type: ignore[attr-defined]
    lessons = plans[-1][1] - plans[100][1]
    made = len({id(schedule) for schedule, _ in plans[100:]})
    assert made < 0.8 * lessons


def test_a_server_ten_times_slower_costs_little_from_the_second_job_on():
    experience, dice = Experience(), Random(1)
    seen = [live(200.0 * dice.uniform(0.9, 1.1), experience, dice=dice) for _ in range(6)]
    assert max(lag for lag, _ in seen) < 30.0
    for lag, polls in seen[2:]:
        assert lag < 15.0
        assert polls < 200.0 / 5.5


def test_one_kind_teaches_the_others_the_speed_of_the_server():
    slow = taught(*[60.0] * 8)
    delay = Polling().next_delay(watch(duration=5), 0.0, slow, Random(1))
    usual = Polling().next_delay(watch(duration=5), 0.0, taught(*[20.0] * 8), Random(1))
    assert delay > 1.8 * usual


def test_the_earliest_finishers_are_not_taken_for_typical():
    """Five of fifty done at 12 s and the rest running says: later than 12 s, typically."""
    experience, dice, policy = Experience(), Random(1), Polling()
    jobs = [watch() for _ in range(50)]
    for job in jobs:
        policy.next_delay(job, 0.0, experience, dice)
    for job in jobs[5:]:
        job.note(12.0, None)
        policy.next_delay(job, 12.0, experience, dice)
    for job in jobs[:5]:
        experience.record(job, 9.0, 12.0)
    fresh = watch()
    policy.next_delay(fresh, 0.0, experience, dice)
    kind = experience.kind(fresh)
    assert kind.typical * math.exp(kind.mean) > 14.0


def test_a_crowd_still_running_is_not_taken_for_a_crowd_about_to_end():
    """Five hundred jobs of one age, and none done: that says "longer", not "all of them now"."""
    experience, dice, policy = Experience(), Random(1), Polling()
    jobs, polls = [(0.0, number) for number in range(500)], 0
    seen = [watch() for _ in jobs]
    while jobs:
        age, number = heapq.heappop(jobs)
        if age < 80.0:
            if age:
                seen[number].note(age, None)
                polls += 1
            delay = policy.next_delay(seen[number], age, experience, dice)
            heapq.heappush(jobs, (age + delay, number))
        else:
            experience.record(seen[number], seen[number].elapsed, age)
    assert polls / 500 < 80.0 / 5.0


def test_a_changed_speed_is_believed_within_two_generations():
    dice = Random(1)
    experience = taught(*[20.0 * dice.uniform(0.9, 1.1) for _ in range(150)])
    for _ in range(220):
        live(60.0 * dice.uniform(0.9, 1.1), experience, dice=dice)
    kind = experience.kind(watch())
    assert 50 < kind.typical * math.exp(kind.mean) < 70


def test_steady_progress_saves_most_of_the_lag():
    dice = Random(1)

    def lag(shows: bool) -> float:
        experience, lags = Experience(), []
        for _ in range(30):
            ends = 45.0 * math.exp(0.4 * dice.gauss(0, 1))
            lags.append(
                live(
                    ends,
                    experience,
                    dice=dice,
                    duration=13,
                    resolution="720p",
                    shows=lambda age, ends=ends: int(100 * age / ends) if shows else None,
                )[0]
            )
        return sum(lags[10:])

    assert lag(shows=True) < 0.5 * lag(shows=False)


def test_a_number_is_older_than_its_answer_by_seconds_not_by_a_share_of_the_job():
    def number(age: float, ends: float) -> float:
        return 100.0 * (age - 0.75) / ends

    curve = Curve()
    for job in range(200):
        ages = [20.0 * (0.2 + 0.7 * (job + k) % 1.0) for k in (0.1, 0.37, 0.61, 0.83)]
        curve.learn([(age, number(age, 20.0)) for age in ages], 19.9, 20.1)

    def foretold(age: float, ends: float) -> float:
        low, high, _ = curve.read(number(age, ends))
        return shown_at(age) / math.exp(0.5 * (low + high)) / ends

    known = foretold(10.0, 20.0)
    # Taken for a share of the job, all three would be foretold 4 to 6 % earlier than the known one.
    for ends in (40.0, 60.0, 80.0):
        assert foretold(0.5 * ends, ends) == pytest.approx(known, rel=0.015)
    assert [shown_at(answered_at(age)) for age in (0.01, 2.0, 30.0)] == pytest.approx(
        [0.01, 2.0, 30.0]
    )


@pytest.mark.parametrize(
    "shows",
    [
        lambda age: 0,
        lambda age: 30,
        lambda age: 95,
        lambda age: 100,
        lambda age: 100 - age,
        lambda age: Random(age).uniform(0, 100),
    ],
    ids=["zero", "thirty", "ninety-five", "hundred", "falling", "random"],
)
def test_numbers_that_mean_nothing_do_little_harm(shows: Any):
    experience, dice, seen = Experience(), Random(1), []
    for _ in range(40):
        ends = 45.0 * math.exp(0.25 * dice.gauss(0, 1))
        facts: Any = {"duration": 13, "resolution": "720p"}
        seen.append(live(ends, experience, dice=dice, shows=shows, **facts))
    assert sum(lag for lag, _ in seen) / 40 < 4.5
    assert sum(polls for _, polls in seen) / 40 < 12


def test_a_gateway_that_stops_telling_the_truth_is_found_out():
    experience, dice = Experience(), Random(1)
    for _ in range(30):
        ends = 20.0 * math.exp(0.3 * dice.gauss(0, 1))
        live(ends, experience, dice=dice, shows=lambda age, ends=ends: int(100 * age / ends))
    lags = [live(20.0, experience, dice=dice, shows=lambda age: int(age))[0] for _ in range(80)]
    assert sum(lags[-20:]) / 20 < 8.0


def test_a_handle_of_unknown_age_is_polled_at_once_and_teaches_nothing():
    experience, seen = Experience(), watch(age_known=False)
    assert Polling().next_delay(seen, 0.0, experience, Random(1)) == SHORTEST
    seen.note(0.5, 40.0)
    assert 0.5 < Polling().next_delay(seen, 0.5, experience, Random(1)) < 15.0
    experience.record(seen, 0.5, 4.0)
    assert experience.kind(seen).finished == 0


def test_the_round_trip_is_taken_off_the_delay():
    def gap(trip: float) -> float:
        experience, dice, policy = Experience(), Random(1), Polling()
        for _ in range(60):
            seen, age, ends = watch(), 0.0, 21.0 * math.exp(0.4 * dice.gauss(0, 1))
            last = None
            while True:
                age += policy.next_delay(seen, age, experience, dice) + trip
                if age >= ends:
                    break
                seen.note(age, None)
                last = age
            experience.record(seen, last, age)
        assert experience.round_trip == pytest.approx(trip, abs=0.05)
        return experience.round_trip

    assert gap(1.0) > gap(0.1)


def test_memory_is_bounded():
    experience, dice = Experience(), Random(1)
    for number in range(3 * KINDS):
        live(20.0, experience, dice=dice, duration=number + 1)
    assert len(experience._kinds) == KINDS
    experience = taught(*[20.0 + number % 7 for number in range(400)])
    (kind,) = experience._kinds.values()
    for cohort in (kind.cohort, kind.earlier):
        assert cohort is not None
        assert len(cohort.finished) <= KEPT
        assert not cohort.waiting
    seen = watch()
    for step in range(100):
        seen.note(float(step), float(step))
    assert len(seen.readings) <= 12


# Whatever happens -------------------------------------------------------------------------------

NUMBERS = st.one_of(
    st.none(), st.floats(allow_nan=True, allow_infinity=True), st.integers(-5, 105).map(float)
)
STEPS = st.lists(st.tuples(st.floats(0, 5000), NUMBERS), max_size=12)


@settings(max_examples=60, deadline=None)
@given(
    jobs=st.lists(st.tuples(STEPS, st.floats(0, 10_000), st.booleans()), min_size=1, max_size=6),
    duration=st.one_of(st.none(), st.integers(1, 15)),
    model=st.one_of(st.none(), st.just(OLDER), st.text(max_size=5)),
    interval=st.floats(0.5, 30),
)
def test_no_history_makes_a_delay_that_is_not_a_delay(
    jobs: list[tuple[list[tuple[float, float | None]], float, bool]],
    duration: int | None,
    model: str | None,
    interval: float,
):
    experience, dice, policy = Experience(), Random(1), Polling(interval=interval)
    for steps, done, known in jobs:
        seen = Watch(duration=duration, resolution=None, model=model, age_known=known)
        last = None
        for elapsed, progress in [(0.0, None), *sorted(steps, key=lambda step: step[0])]:
            if elapsed:
                seen.note(elapsed, progress)
                last = elapsed
            delay = policy.next_delay(seen, elapsed, experience, dice)
            assert SHORTEST <= delay <= LONGEST
        experience.record(seen, last, max(done, last or 0.0))


@settings(max_examples=40, deadline=None)
@given(elapsed=st.lists(st.floats(0, 1e7), max_size=8), seconds=st.floats(0.01, 100))
def test_clocks_that_jump_do_no_harm(elapsed: list[float], seconds: float):
    for policy in (Polling(), Polling.fixed(seconds)):
        seen, experience = watch(), Experience()
        for now in elapsed:
            assert 0 < policy.next_delay(seen, now, experience, Random(1)) <= LONGEST
            seen.note(now, 50.0)
        experience.record(seen, elapsed[-1] if elapsed else None, 0.0)
        assert 0 < policy.next_delay(watch(), 0.0, experience, Random(1)) <= LONGEST


def test_the_benchmark_still_runs():
    result = polling.run(tiny=True)
    assert {"cases", "recorded", "fan_out", "microseconds", "verdicts"} <= result.keys()
    assert polling.table(result)
    # a check that can be fooled is worse than none: every figure made bad is reported as a miss
    for row in [*result["cases"], result["recorded"]]:
        for of in row["modes"].values():
            for figure in of.values():
                figure["median"] = 9.0
    for row in result["fan_out"]:
        row["to alone"]["median"] = 9.0
    verdicts = polling.judge(result)
    assert len(verdicts) == len(result["verdicts"]) > 45
    assert not [one for one in verdicts if one["holds"]]
