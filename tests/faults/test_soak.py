"""A small soak: what `python -m tests.faults.soak` does, with fewer jobs."""

from __future__ import annotations

import logging
import random

import pytest

from ..conftest import LANES
from .account import TABLE
from .soak import Run

#: One of the lanes in the normal run, chosen by a seed.
LANE = random.Random(3).choice(list(LANES))


def test_many_jobs_with_faults_lose_nothing_and_leave_nothing(
    request: pytest.FixtureRequest, caplog: pytest.LogCaptureFixture
) -> None:
    # pytest keeps every record until the test ends, and that would be the memory that grows.
    caplog.set_level(logging.CRITICAL, logger="grok_video")
    whole = request.config.getoption("--whole", default=False)
    for lane in LANES if whole else [LANE]:
        run = Run(2000 if whole else 200, lane, say=lambda line: None)
        run.go()
        TABLE.lines += run.lines()
        assert run.problems == []
        assert run.report["faults"] > run.jobs * 0.05
