"""The schedule is as good as every other, and the sum of the docstring adds up."""

from __future__ import annotations

import math
from random import Random
from typing import Any

import pytest

from grok_video import _polling
from grok_video._experience import typical_seconds
from grok_video._kinds import Kind, narrow, truncated
from grok_video._polling import Experience, Polling
from grok_video._schedule import inspect

from .conftest import OLDER, live, watch


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
