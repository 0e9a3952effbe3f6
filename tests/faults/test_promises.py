"""What issue 4 promises beside the matrix: bounds on memory and on time, whatever a server does."""

from __future__ import annotations

import contextlib
import pickle
import time
import tracemalloc
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from grok_video import (
    AsyncClient,
    CreateOutcomeUnknown,
    DownloadError,
    GrokVideoError,
    JobFailed,
    JobTimeout,
    Polling,
    ServerError,
    _create,
)
from grok_video.emulator import Emulator, faults

from .cases import CLIP
from .doors import DOORS, Door

GIB = 2**30


@pytest.fixture(params=[pytest.param(door, id=door.name) for door in DOORS.values()])
def door(request: pytest.FixtureRequest) -> Door:
    return request.param


@contextmanager
def within(seconds: float) -> Iterator[None]:
    began = time.monotonic()
    yield
    assert time.monotonic() - began < seconds


@pytest.mark.parametrize("phase", ["create", "poll", "download"])
def test_an_answer_of_a_gigabyte_is_neither_read_nor_held(
    door: Door, phase: str, tmp_path: Path
) -> None:
    with Emulator(clip=CLIP) as emulator:
        emulator.script(phase, [faults.HugeJSON(GIB)])  # type: ignore[arg-type]
        words = {"base_url": emulator.base_url, "api_key": emulator.api_key}

        async def generate() -> None:
            async with door.client(**words) as client:
                await client.generate("drift", save_to=tmp_path / "video.mp4", timeout=20)

        tracemalloc.start()
        try:
            door.run(generate)
            assert phase == "poll"
        except CreateOutcomeUnknown:
            assert phase == "create"
        except DownloadError:
            assert phase == "download"
        finally:
            _, most = tracemalloc.get_traced_memory()
            tracemalloc.stop()
        (huge,) = [seen for seen in emulator.requests if seen.fault is not None]
    # What was on its way when the client hung up stands in the buffers of two sockets.
    assert huge.sent < 32 * 2**20
    assert most < 32 * 2**20


def test_a_small_body_that_unpacks_to_a_gigabyte_is_refused_after_four_mebibytes(
    door: Door, request: pytest.FixtureRequest
) -> None:
    size = GIB if request.config.getoption("--whole", default=False) else GIB // 16
    with Emulator(clip=CLIP) as emulator:
        emulator.script("create", [faults.GzipBomb(size)])

        async def submit() -> None:
            async with door.client(
                base_url=emulator.base_url, api_key=emulator.api_key, timeout=60
            ) as client:
                await client.submit("drift")

        tracemalloc.start()
        try:
            with pytest.raises(CreateOutcomeUnknown, match="longer than 4 MiB"):
                door.run(submit)
            _, most = tracemalloc.get_traced_memory()
        finally:
            tracemalloc.stop()
    assert most < 24 * 2**20


@pytest.mark.parametrize("phase", ["poll", "download"])
def test_a_wait_ends_on_time_however_silent_the_server_is(
    door: Door, phase: str, tmp_path: Path
) -> None:
    """The 10 s that a request of its own may take do not count."""
    with Emulator(clip=CLIP) as emulator:
        emulator.script(phase, [faults.Stall(8.0)])  # type: ignore[arg-type]

        async def generate() -> None:
            async with door.client(base_url=emulator.base_url, api_key=emulator.api_key) as client:
                await client.generate("drift", save_to=tmp_path / "video.mp4", timeout=0.8)

        wanted = JobTimeout if phase == "poll" else DownloadError
        with within(3.0), pytest.raises(wanted) as caught:
            door.run(generate)
        assert caught.value.request_id == emulator.creates[0].request_id


def test_headers_that_never_end_do_not_keep_a_wait_from_ending(door: Door) -> None:
    """One library counts them and hangs up, so that the next poll brings the video in time."""
    with Emulator(clip=CLIP) as emulator:
        emulator.script("poll", [faults.EndlessHeaders(8.0, interval=0.001)])

        async def generate() -> None:
            async with door.client(base_url=emulator.base_url, api_key=emulator.api_key) as client:
                await client.generate("drift", timeout=0.8)

        with within(3.0), contextlib.suppress(JobTimeout):
            door.run(generate)
        emulator.assert_faults_consumed()


def test_a_create_that_is_not_answered_ends_with_the_grace_after_the_deadline(
    door: Door, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Five seconds in life: an answer would bring the id of something that may be paid for."""
    monkeypatch.setattr(_create, "CANCEL_GRACE", 0.5)
    with Emulator(clip=CLIP) as emulator:
        emulator.script("create", [faults.Stall(30.0, accepted=True)])

        async def generate() -> None:
            async with door.client(
                base_url=emulator.base_url, api_key=emulator.api_key, timeout=60
            ) as client:
                await client.generate("drift", timeout=0.2)

        wanted = r"within the 0\.2 s of this call"
        with within(3.0), pytest.raises(CreateOutcomeUnknown, match=wanted) as caught:
            door.run(generate)
        assert abs(caught.value.sent_at - emulator.creates[0].at) < 2


def test_a_create_that_is_answered_after_the_deadline_still_tells_its_id(door: Door) -> None:
    told: list[str] = []
    with Emulator(clip=CLIP) as emulator:
        emulator.script("create", [faults.Stall(0.6, resume=True)])

        async def generate() -> None:
            async with door.client(
                base_url=emulator.base_url, api_key=emulator.api_key, timeout=60
            ) as client:
                await client.generate(
                    "drift", timeout=0.2, on_submitted=lambda job: told.append(job.request_id)
                )

        with within(4.0), pytest.raises(JobTimeout) as caught:
            door.run(generate)
    assert told == [caught.value.request_id] == [emulator.creates[0].request_id]


def test_a_failed_download_never_leads_to_another_create(door: Door, tmp_path: Path) -> None:
    """However often it is tried: what is paid for stays where it is."""
    with Emulator(clip=CLIP) as emulator:
        emulator.script("download", [faults.html_page()] * 6)

        async def fetch() -> None:
            async with door.client(base_url=emulator.base_url, api_key=emulator.api_key) as client:
                job = await client.submit("drift")
                for _ in range(6):
                    with pytest.raises(GrokVideoError):
                        await job.download(tmp_path / "video.mp4", timeout=20)
                await job.download(tmp_path / "video.mp4", timeout=20)

        door.run(fetch)
        assert emulator.accepted == 1
        assert [seen.method for seen in emulator.requests].count("POST") == 1
    assert (tmp_path / "video.mp4").read_bytes() == CLIP


STUCK = faults.StuckProgress(polls=10**6)
#: Gives up after so long without anything new.
IMPATIENT = Polling(interval=0.02, adaptive=False, stalled_after=0.3)


def test_a_wait_without_an_end_gives_up_on_a_job_that_shows_nothing_new(door: Door) -> None:
    with Emulator(clip=CLIP) as emulator:
        emulator.script("create", [STUCK])

        async def wait() -> None:
            async with door.client(
                base_url=emulator.base_url, api_key=emulator.api_key, polling=IMPATIENT
            ) as client:
                await client.generate("drift", timeout=None)

        with within(4.0), pytest.raises(JobTimeout, match="nothing new") as caught:
            door.run(wait)
    error = caught.value
    assert error.request_id == emulator.creates[0].request_id
    assert error.stalled_for is not None
    assert error.stalled_for >= 0.3
    assert error.snapshot is not None
    assert error.snapshot.progress == 35
    assert pickle.loads(pickle.dumps(error)).stalled_for == error.stalled_for
    # The last look was when the patience ended, not an interval later or earlier.
    assert emulator.polls > 3


def test_a_job_whose_polls_fail_shows_nothing_new_either(door: Door) -> None:
    with Emulator(clip=CLIP, chaos=lambda p: faults.bad_upstream() if p == "poll" else None) as em:

        async def wait() -> None:
            async with door.client(
                base_url=em.base_url, api_key=em.api_key, polling=IMPATIENT
            ) as client:
                await client.generate("drift", timeout=None)

        with within(4.0), pytest.raises(JobTimeout, match="nothing new") as caught:
            door.run(wait)
    assert isinstance(caught.value.__cause__, ServerError)


def test_a_job_that_moves_is_waited_for_longer_than_the_patience(door: Door) -> None:
    """Each of its polls shows another number, for twice as long as the patience."""
    with Emulator(clip=CLIP) as emulator:
        emulator.script("create", [faults.Backwards(tuple(range(1, 31)))])

        async def wait() -> float:
            async with door.client(
                base_url=emulator.base_url, api_key=emulator.api_key, polling=IMPATIENT
            ) as client:
                began = time.monotonic()
                await client.generate("drift", timeout=30)
                return time.monotonic() - began

        assert door.run(wait) > 0.6


def test_a_job_that_was_given_up_is_asked_once_more_by_each_further_wait(door: Door) -> None:
    with Emulator(clip=CLIP) as emulator:
        emulator.script("create", [STUCK])

        async def wait() -> None:
            async with door.client(
                base_url=emulator.base_url, api_key=emulator.api_key, polling=IMPATIENT
            ) as client:
                job = await client.submit("drift")
                with pytest.raises(JobTimeout):
                    await job.result(timeout=30)
                before = emulator.polls
                with pytest.raises(JobTimeout):
                    await job.result(timeout=30)
                assert emulator.polls == before + 1
                emulator.fail(job.request_id)
                with pytest.raises(JobFailed):
                    await job.result(timeout=30)

        door.run(wait)


async def test_as_completed_gives_a_stalled_job_and_the_others(
    new_client: Callable[..., AsyncClient],
) -> None:
    with Emulator(clip=CLIP) as emulator:
        emulator.script("create", [STUCK])
        async with new_client(emulator, polling=IMPATIENT) as client:
            jobs = [await client.submit("drift") for _ in range(3)]
            seen = [job async for job in client.as_completed(jobs)]
            assert set(seen) == set(jobs)
            assert seen[-1] is jobs[0]
            with pytest.raises(JobTimeout, match="nothing new"):
                await jobs[0].result()
