"""The latency model and the progress curve, held against the recorded jobs."""

import random
import statistics

import pytest

from grok_video.emulator._answers import gateway_request_id
from grok_video.emulator._life import Moment, moment, percent, seconds_needed


@pytest.mark.parametrize(
    ("share", "expected"), [(0.03, 1), (0.22, 1), (0.41, 20), (0.61, 35), (0.81, 35), (0.99, 35)]
)
def test_progress_passes_through_the_recorded_knots(share, expected):
    assert percent(share) == expected


def test_a_job_goes_through_its_stages_and_never_back():
    seen = [moment(second, 100.0) for second in range(-1, 102)]
    stages = list(dict.fromkeys(one.stage for one in seen))
    assert stages == ["accepted", "queued", "processing", "done"]
    assert [one.percent for one in seen] == sorted(one.percent for one in seen)


def test_a_job_without_length_is_done_at_once():
    assert moment(0.0, 0.0) == Moment("done", 100)


@pytest.mark.parametrize(
    ("model", "resolution", "duration", "median"),
    [
        ("grok-imagine-video", "480p", 8, 17.6),
        ("grok-imagine-video", "720p", 6, 25.4),
        ("grok-imagine-video-1.5", "720p", 8, 93.6),
    ],
)
def test_latency_follows_length_and_resolution(model, resolution, duration, median):
    chance = random.Random(7)
    drawn = [seconds_needed(model, resolution, duration, chance) for _ in range(2000)]
    assert statistics.median(drawn) == pytest.approx(median, rel=0.03)


def test_a_gateway_id_looks_like_the_logged_one():
    text = gateway_request_id(1_770_269_279.798638387, random.Random(1))
    assert text.startswith("20260205132759798638")
    assert len(text) == len("20260205132859798638387SIHCnxzJ")


def test_a_seed_gives_the_same_lengths_whatever_was_refused_in_between(launch):
    """The ids of refusals were drawn from the same numbers."""
    seen = []
    for refused in (0, 3):
        one = launch(seed=7, time_scale=1.0)
        for _ in range(3):
            for _ in range(refused):
                assert one.call("GET", one.base + "/videos/x").status == 401
            one.submit()
        jobs = (one.emulator._service.job(create.request_id) for create in one.emulator.creates)
        seen.append([job.lasts for job in jobs])
    assert seen[0] == seen[1]
