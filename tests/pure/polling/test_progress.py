"""What progress foretells, and what it costs where it lies."""

from __future__ import annotations

import math
from random import Random
from typing import Any

import pytest

from grok_video._curve import Curve, answered_at, shown_at
from grok_video._polling import SHORTEST, Experience, Polling

from .conftest import live, watch


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
