"""What the log has of each job at level INFO: the ids of what was paid."""

from __future__ import annotations

import logging
import re
from pathlib import Path

import pytest

from grok_video import AsyncClient, JobFailed
from grok_video.emulator import Emulator, faults

LIFE = "grok_video.jobs"


def lives(caplog: pytest.LogCaptureFixture) -> list[str]:
    """Return the lines about jobs, each of level INFO; the clock is left out."""
    told = [one for one in caplog.records if one.name == LIFE]
    assert {one.levelno for one in told} <= {logging.INFO}
    return [
        re.sub(r"after \d+\.\d s and [1-9]\d* polls", "after N", one.getMessage()) for one in told
    ]


async def test_a_job_is_logged_when_it_is_taken_done_and_saved(
    client: AsyncClient, caplog: pytest.LogCaptureFixture, tmp_path: Path
) -> None:
    caplog.set_level(logging.INFO, logger=LIFE)
    place = tmp_path / "a.mp4"
    video = await client.generate("a secret drift", duration=1, save_to=place)
    assert lives(caplog) == [
        f"job {video.request_id} was accepted (grok-imagine-video-1.5)",
        f"job {video.request_id} is done after N",
        f"job {video.request_id} was saved as {place} ({video.size} bytes)",
    ]
    assert "secret" not in caplog.text
    assert str(video.url) not in caplog.text


async def test_the_end_of_a_job_is_logged_once_whoever_asks_again(
    client: AsyncClient, grok_emulator: Emulator, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, logger=LIFE)
    grok_emulator.script("create", [faults.Failed()])
    job = await client.submit("drift", duration=1)
    for _ in range(2):
        with pytest.raises(JobFailed):
            await job.result()
        await job.refresh()
    assert lives(caplog) == [
        f"job {job.request_id} was accepted (grok-imagine-video-1.5)",
        f"job {job.request_id} is failed after N",
    ]
