"""The policy: its values, its bounds, and the server's wish."""

from __future__ import annotations

import math
import pickle
from random import Random

import pytest

import grok_video
from grok_video._polling import LONGEST, SHORTEST, Experience, Polling

from .conftest import taught, watch


# The face ---------------------------------------------------------------------------------------
def test_it_is_public_frozen_and_survives_pickling():
    assert Polling.__module__ == "grok_video"
    assert grok_video.Polling is Polling
    assert pickle.loads(pickle.dumps(Polling.fixed(3, jitter=1))) == Polling.fixed(3, jitter=1)
    with pytest.raises(AttributeError):
        Polling().interval = 3.0


@pytest.mark.parametrize(
    "wrong",
    [
        {"interval": 0},
        {"interval": -1},
        {"interval": math.nan},
        {"interval": math.inf},
        {"interval": 1e-200},
        {"interval": 0.0009},
        {"interval": 1_000_001},
        {"interval": 1e200},
        {"interval": 5, "jitter": 5},
        {"interval": 5, "jitter": -1},
        {"interval": 5, "jitter": math.nan},
    ],
)
def test_a_policy_that_makes_no_sense_is_refused(wrong: dict[str, float]):
    with pytest.raises(ValueError):
        Polling(**wrong)


def test_an_interval_is_refused_with_the_limits_that_it_has():
    for make in (Polling, Polling.fixed):
        with pytest.raises(ValueError, match=r"interval .* from 0\.001 to 1,000,000; got 1e\+200"):
            make(1e200)


@pytest.mark.parametrize("interval", [0.001, 1e6])
@pytest.mark.parametrize("scale", [1e-3, 1.0, 1e5])
def test_each_interval_that_is_taken_makes_delays_of_whatever_jobs(interval: float, scale: float):
    experience, dice, policy = Experience(), Random(1), Polling(interval=interval)
    for number in range(12):
        seen, age = watch(), 0.0
        for percent in (None, 10.0, 40.0, 80.0):
            assert SHORTEST <= policy.next_delay(seen, age, experience, dice) <= LONGEST
            age += scale * (1.0 + dice.random())
            seen.note(age, percent if number % 3 else None)
        experience.record(seen, age, age + scale)


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
