"""Jobs from create to video against the emulator, on every lane."""

from __future__ import annotations

import asyncio
import hashlib
import json
import sys
from collections.abc import Callable
from decimal import Decimal
from itertools import pairwise
from pathlib import Path

import anyio
import anyio.lowlevel
import pytest

from grok_video import (
    AsyncClient,
    AsyncJob,
    JobFailed,
    JobStatus,
    JobTimeout,
    Polling,
    Video,
)
from grok_video.emulator import Emulator, faults

from ...conftest import PHOTO
from ...transports.rawserver import Visit, raw_server


async def test_a_picture_becomes_a_file(
    client: AsyncClient, grok_emulator: Emulator, tmp_path: Path
) -> None:
    """The first example of the README, with every setting."""
    video = await client.generate(
        "slow push-in",
        image=PHOTO,
        duration=1,
        resolution="480p",
        aspect_ratio="1:1",
        save_to=tmp_path / "rocket.mp4",
        timeout=30,
    )
    assert video.path == tmp_path / "rocket.mp4"
    assert video.size == video.path.stat().st_size > 1000
    assert video.path.read_bytes()[4:8] == b"ftyp"
    assert video.duration == 1
    assert video.cost_usd == Decimal("0.09")
    assert [create.fields["duration"] for create in grok_emulator.creates] == [1]


async def test_a_file_is_hashed_where_that_is_asked_for(
    client: AsyncClient, tmp_path: Path
) -> None:
    made = await client.generate("drift", duration=1, save_to=tmp_path / "a.mp4", sha256=True)
    job = client.job(made.request_id)
    again = await job.download(tmp_path / "b.mp4", sha256=True)
    whole = (tmp_path / "a.mp4").read_bytes()
    assert made.sha256 == again.sha256 == hashlib.sha256(whole).hexdigest()
    plain = await client.generate("drift", duration=1, save_to=tmp_path / "c.mp4")
    fetched = await job.download(tmp_path / "d.mp4")
    assert (plain.sha256, fetched.sha256) == (None, None)
    assert (tmp_path / "d.mp4").read_bytes() == whole


@pytest.mark.parametrize(
    "answer",
    [
        faults.bad_upstream(),
        faults.no_channel(),
        faults.html_page(200),
        faults.Answer(200, b'{"status": "do'),
        faults.Answer(200, {"status": "pending", "progress": 99}),
    ],
    ids=["bad upstream", "no channel", "a page", "half a document", "not done"],
)
async def test_a_dead_link_outlives_a_poll_that_fails_in_passing(
    client: AsyncClient, grok_emulator: Emulator, tmp_path: Path, answer: faults.Fault
) -> None:
    """What a wait for the video bears, its download bears too."""
    job = await client.submit("drift", duration=1)
    await job
    grok_emulator.script("download", [faults.LinkDied()])
    grok_emulator.script("poll", [answer])
    video = await job.download(tmp_path / "cat.mp4")
    grok_emulator.assert_faults_consumed()
    assert video.size == (tmp_path / "cat.mp4").stat().st_size > 1000
    assert grok_emulator.accepted == 1


async def test_ids_and_signed_links_that_look_like_pictures_stay_as_they_are(
    new_client: Callable[..., AsyncClient],
) -> None:
    name = "video_" + "QWxhZGRpbjpvcGVuIHNlc2FtZQ" * 12
    link = "https://storage.test/a.mp4?X-Goog-Signature=" + "0123456789abcdef" * 32

    def creates(visit: Visit) -> None:
        visit.request()
        # A poll of its own connection, whichever library it goes through.
        visit.answer(json.dumps({"request_id": name}).encode(), "200 OK", "Connection: close")
        visit.until_gone()

    def is_done(visit: Visit) -> None:
        assert f"/videos/{name} ".encode() in visit.request()
        visit.answer(json.dumps({"status": "done", "video": {"url": link}}).encode())
        visit.until_gone()

    with raw_server(creates, is_done) as server:
        async with new_client(api_key="k", base_url=server.base) as client:
            job = await client.submit("drift")
            assert job.request_id == name
            assert (await job).url == link


async def test_submit_returns_once_there_is_an_id(
    client: AsyncClient, grok_emulator: Emulator
) -> None:
    job = await client.submit("drift", image="https://example.com/cat.jpg")
    assert job.request_id == grok_emulator.creates[0].request_id
    assert job.status is JobStatus.QUEUED
    assert job.snapshot is None
    assert grok_emulator.polls == 0
    video = await job
    assert video.url is not None
    assert job.status is JobStatus.DONE
    assert job.progress == 100


async def test_another_process_and_another_day(
    client: AsyncClient, new_client: Callable[..., AsyncClient], grok_emulator: Emulator
) -> None:
    request_id = (await client.submit("drift")).request_id
    async with new_client(grok_emulator) as later:
        job = later.job(request_id)
        assert job.status is None
        assert (await job.result(timeout=20)).request_id == request_id
    assert grok_emulator.accepted == 1


async def test_refresh_is_exactly_one_get(client: AsyncClient, grok_emulator: Emulator) -> None:
    job = await client.submit("drift")
    for count in range(1, 4):
        snapshot = await job.refresh()
        assert grok_emulator.polls == count
        assert job.snapshot == snapshot


async def test_updates_show_each_change_once_and_the_end(
    client: AsyncClient, grok_emulator_factory: Callable[..., Emulator], new_client: Callable
) -> None:
    emulator = grok_emulator_factory(time_scale=0.004)
    async with new_client(emulator) as slow:
        job = await slow.submit("drift", duration=1)
        seen = [snapshot async for snapshot in job.updates()]
    assert seen[-1].status is JobStatus.DONE
    assert len(seen) >= 3
    assert all(a != b for a, b in pairwise(seen))


async def test_updates_end_with_a_failed_job_without_raising(
    client: AsyncClient, grok_emulator: Emulator
) -> None:
    grok_emulator.script("create", [faults.Failed("internal_error", "no luck")])
    job = await client.submit("drift")
    seen = [snapshot async for snapshot in job.updates()]
    assert seen[-1].status is JobStatus.FAILED


async def test_ten_awaiters_cause_one_stream_of_polls(
    grok_emulator_factory: Callable[..., Emulator], new_client: Callable[..., AsyncClient]
) -> None:
    """Compared with what one awaiter costs, and with none of the first nine left alive."""
    emulator = grok_emulator_factory(time_scale=0.01)
    async with new_client(emulator, polling=Polling.fixed(0.05)) as client:
        alone = await client.submit("drift", duration=1)
        await alone.result(timeout=30)
        polls_of_one = emulator.polls

        job = await client.submit("drift", duration=1)
        videos = []

        async def wait() -> None:
            videos.append(await job.result(timeout=30))

        scopes = []

        async def wait_cancellable() -> None:
            with anyio.CancelScope() as scope:
                scopes.append(scope)
                await wait()

        async with anyio.create_task_group() as tasks:
            for _ in range(9):
                tasks.start_soon(wait_cancellable)
            tasks.start_soon(wait)
            while emulator.polls < polls_of_one + 2:  # noqa: ASYNC110 - counted by a thread
                await anyio.sleep(0.01)
            for scope in scopes:
                scope.cancel()
        assert len(videos) == 1
        polls_of_ten = emulator.polls - polls_of_one
    # One poll may be cut by the cancellation of whoever was sending it, and is sent again.
    assert polls_of_ten <= polls_of_one * 1.5 + 2


async def test_as_completed_yields_every_job_in_the_order_of_their_ends(
    client: AsyncClient, grok_emulator: Emulator
) -> None:
    grok_emulator.script("create", [faults.Failed()] + [faults.Pass()] * 11)
    jobs = [await client.submit("drift", duration=1) for _ in range(12)]
    seen: list[AsyncJob] = []
    async for job in client.as_completed(jobs, timeout=30):
        assert job.is_finished
        seen.append(job)
    assert sorted(map(id, seen)) == sorted(map(id, jobs))
    with pytest.raises(JobFailed):
        await jobs[0].result()
    assert (await jobs[1].result()).url


async def test_as_completed_names_what_is_still_running(
    grok_emulator_factory: Callable[..., Emulator], new_client: Callable[..., AsyncClient]
) -> None:
    emulator = grok_emulator_factory(time_scale=1.0)
    async with new_client(emulator) as client:
        quick = await client.submit("drift")
        jobs = [quick, *[await client.submit("drift") for _ in range(3)]]
        emulator.finish(quick.request_id)
        seen = []
        with pytest.raises(JobTimeout) as caught:
            async for job in client.as_completed(jobs, timeout=1):
                seen.append(job)
    assert seen == [quick]
    assert set(caught.value.pending) == {job.request_id for job in jobs[1:]}
    assert all(job.request_id in str(caught.value) for job in jobs[1:])


async def test_a_cancelled_as_completed_says_what_goes_on(
    grok_emulator_factory: Callable[..., Emulator], new_client: Callable[..., AsyncClient]
) -> None:
    emulator = grok_emulator_factory(time_scale=1.0)
    notes: list[str] = []
    async with new_client(emulator) as client:
        jobs = [await client.submit("drift") for _ in range(3)]
        emulator.finish(jobs[0].request_id)
        with anyio.CancelScope() as scope:
            try:
                async for _ in client.as_completed(jobs):
                    scope.cancel()
            except anyio.get_cancelled_exc_class() as error:
                notes = error.__notes__
                raise
    [note] = notes
    assert "2 jobs go on at the provider and may be billed" in note
    assert [job.request_id in note for job in jobs] == [False, True, True]


async def test_as_completed_left_in_the_middle_leaves_nothing_behind(
    client: AsyncClient, grok_emulator: Emulator
) -> None:
    jobs = [await client.submit("drift", duration=1) for _ in range(5)]
    async for _ in client.as_completed(jobs):
        break
    for job in jobs:
        assert (await job.result(timeout=20)).url


if sys.version_info >= (3, 12):

    def test_a_loop_whose_tasks_start_at_once_makes_videos_too(grok_emulator: Emulator) -> None:
        async def main() -> Video:
            asyncio.get_running_loop().set_task_factory(asyncio.eager_task_factory)
            url, key = grok_emulator.base_url, grok_emulator.api_key
            async with AsyncClient(key, base_url=url) as client:
                return await client.generate("drift", timeout=20)

        assert asyncio.run(main()).url


async def test_a_stream_gives_the_bytes_of_the_file(client: AsyncClient, tmp_path: Path) -> None:
    job = await client.submit("drift", image=PHOTO, duration=1, resolution="480p")
    content = b"".join([chunk async for chunk in job.stream()])
    video = await job.download(tmp_path / "same.mp4")
    assert video.path is not None
    assert content == video.path.read_bytes()
