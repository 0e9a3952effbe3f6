"""What jobs that ended teach the next ones, and what they must not."""

from __future__ import annotations

import heapq
import math
from random import Random

from grok_video._polling import Experience, Polling, Watch

from .conftest import live, taught, watch


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
        plans.append((kind.plan.schedule, kind.version))
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
