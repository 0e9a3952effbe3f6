"""What the log has of each job at level INFO: the ids of what was paid."""

from __future__ import annotations

import logging
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from grok_video import AsyncClient, AsyncJob, JobFailed, VideoRequest
from grok_video._log import logger
from grok_video.emulator import Emulator, faults

LIFE = "grok_video.jobs"


def lives(caplog: pytest.LogCaptureFixture) -> list[str]:
    """Return the lines about jobs, each of level INFO; the number of polls is left out."""
    told = [one for one in caplog.records if one.name == LIFE]
    assert {one.levelno for one in told} <= {logging.INFO}
    return [re.sub(r"after [1-9]\d* polls", "after N", one.getMessage()) for one in told]


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


async def test_a_handle_of_a_job_that_has_long_ended_tells_nothing(
    client: AsyncClient, caplog: pytest.LogCaptureFixture
) -> None:
    """A backend makes one for each question that it is asked."""
    job = await client.submit("drift", duration=1)
    await job
    caplog.clear()
    for _ in range(2):
        assert (await client.job(job.request_id).refresh()).video is not None
    assert lives(caplog) == []


async def test_an_id_that_is_no_word_stays_on_its_line_and_shows_no_secret(
    client: AsyncClient, grok_emulator: Emulator, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, logger=LIFE)
    for name in ("a\nCRITICAL b", "https://host/a?signature=s3cret"):
        grok_emulator.script("create", [faults.Answer(200, {"request_id": name}, accepted=True)])
        assert (await client.submit("drift")).request_id == name
    assert [one.splitlines() for one in lives(caplog)] == [
        ["job a\\nCRITICAL b was accepted (grok-imagine-video-1.5)"],
        ["job https://host/a?... was accepted (grok-imagine-video-1.5)"],
    ]


def warnings(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [one.getMessage() for one in caplog.records if one.levelno == logging.WARNING]


async def test_a_status_that_nobody_knows_is_told_once_by_its_word(
    client: AsyncClient, grok_emulator: Emulator, caplog: pytest.LogCaptureFixture
) -> None:
    for _ in range(2):
        job = await client.submit("drift", duration=1)
        grok_emulator.script(
            "poll",
            [faults.Answer(200, {"status": "polishing", "progress": n}) for n in range(5)],
        )
        await job
    [line] = warnings(caplog)
    assert "'polishing'" in line
    grok_emulator.assert_faults_consumed()


async def test_words_that_nobody_knows_are_told_without_secrets_and_only_so_many(
    client: AsyncClient, grok_emulator: Emulator, caplog: pytest.LogCaptureFixture
) -> None:
    odd = ["https://host/a?signature=s3cret", "x" * 5000, "a\nCRITICAL b"]
    words = odd + [f"step {n} of 60" for n in range(60)]
    job = await client.submit("drift", duration=1)
    grok_emulator.script("poll", [faults.Answer(200, {"status": word}) for word in words])
    await job
    told = warnings(caplog)
    assert 10 < len(told) < 40
    assert "s3cret" not in caplog.text
    assert all(line.isprintable() and len(line) < 400 for line in told)


@pytest.fixture
def _broken_log() -> Iterator[None]:
    """A program whose handlers raise out of the call that logs, which Python's own never do."""

    class Breaking(logging.Handler):
        def handle(self, record: logging.LogRecord) -> bool:
            raise RuntimeError(record.name)

    handler, log = Breaking(), logging.getLogger("grok_video")
    log.addHandler(handler)
    yield
    log.removeHandler(handler)


@pytest.mark.usefixtures("_broken_log")
async def test_a_log_that_fails_costs_no_job(
    client: AsyncClient, grok_emulator: Emulator, tmp_path: Path
) -> None:
    told: list[AsyncJob] = []
    video = await client.generate(
        "drift", duration=1, save_to=tmp_path / "a.mp4", on_submitted=told.append
    )
    assert [job.request_id for job in told] == [video.request_id]
    request = VideoRequest("drift", duration=1)
    summary = await client.run_batch(
        [request], out=tmp_path / "videos", ledger=tmp_path / "run.sqlite"
    )
    assert summary.is_complete
    assert grok_emulator.accepted == 2


@pytest.mark.usefixtures("_broken_log")
def test_what_a_log_that_fails_was_to_warn_of_is_told_on_stderr(
    capsys: pytest.CaptureFixture[str],
) -> None:
    logger.info("job %s goes on", "a-1")
    assert capsys.readouterr().err == ""
    logger.warning("nobody was told of job %s", "a-1")
    assert capsys.readouterr().err == (
        "grok_video: nobody was told of job a-1 (a handler of its log failed with RuntimeError)\n"
    )
