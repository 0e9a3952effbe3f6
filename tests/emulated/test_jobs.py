"""Jobs from create to video against the emulator, on every lane."""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import json
import logging
import math
import os
import sys
import threading
import time
import traceback
from collections.abc import Callable
from decimal import Decimal
from itertools import pairwise
from pathlib import Path
from typing import Any

import anyio
import anyio.lowlevel
import pytest

from grok_video import (
    APIConnectionError,
    APITimeoutError,
    AsyncClient,
    AsyncJob,
    AuthenticationError,
    ConfigurationError,
    CreateOutcomeUnknown,
    DestinationError,
    DownloadError,
    InsufficientBalance,
    InvalidRequest,
    JobExpired,
    JobFailed,
    JobStatus,
    JobTimeout,
    Limits,
    ModerationRefused,
    NotFound,
    Polling,
    RateLimited,
    Retry,
    Video,
    VideoRequest,
    _create,
)
from grok_video._lifecycle import Event
from grok_video._policies import Deadline
from grok_video._transports._base import Answer, Transport
from grok_video.emulator import Emulator, faults
from grok_video.emulator.pytest_plugin import EmulatorFactory

from ..conftest import EAGER, PHOTO
from ..transports.rawserver import PATIENCE, Visit, raw_server


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


async def test_only_what_was_set_is_sent(client: AsyncClient, grok_emulator: Emulator) -> None:
    await client.submit(VideoRequest("drift", user="u7"))
    sent = grok_emulator.creates[0].fields
    assert {name: sent[name] for name in ("prompt", "user", "model")} == {
        "prompt": "drift",
        "user": "u7",
        "model": "grok-imagine-video-1.5",
    }


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
            async for job in client.as_completed(jobs, timeout=0.3):
                seen.append(job)
    assert seen == [quick]
    assert set(caught.value.pending) == {job.request_id for job in jobs[1:]}
    assert all(job.request_id in str(caught.value) for job in jobs[1:])


async def test_as_completed_left_in_the_middle_leaves_nothing_behind(
    client: AsyncClient, grok_emulator: Emulator
) -> None:
    jobs = [await client.submit("drift", duration=1) for _ in range(5)]
    async for _ in client.as_completed(jobs):
        break
    for job in jobs:
        assert (await job.result(timeout=20)).url


async def test_a_timeout_says_that_the_job_goes_on_and_how_to_resume(
    grok_emulator_factory: Callable[..., Emulator], new_client: Callable[..., AsyncClient]
) -> None:
    emulator = grok_emulator_factory(time_scale=1.0)
    async with new_client(emulator) as client:
        job = await client.submit("drift")
        began = anyio.current_time()
        with pytest.raises(JobTimeout) as caught:
            await job.result(timeout=0.3)
        assert anyio.current_time() - began < 0.6
    error = caught.value
    assert error.request_id == job.request_id
    assert error.snapshot is not None
    assert f"client.job('{job.request_id}')" in str(error)
    assert f"grok-video wait {job.request_id}" in str(error)
    assert "still" in str(error)


async def test_generate_tells_its_id_in_a_timeout(
    grok_emulator_factory: Callable[..., Emulator], new_client: Callable[..., AsyncClient]
) -> None:
    emulator = grok_emulator_factory(time_scale=1.0)
    async with new_client(emulator) as client:
        with pytest.raises(JobTimeout) as caught:
            await client.generate("drift", timeout=0.3)
    assert caught.value.request_id == emulator.creates[0].request_id


@pytest.mark.parametrize("shape", ["flag", "poll", "failed", "top-level", "envelope"])
async def test_a_refusal_by_moderation_is_its_own_error_in_every_shape(
    client: AsyncClient, grok_emulator: Emulator, shape: str
) -> None:
    grok_emulator.script("create", [faults.Moderated(shape)])
    job = await client.submit("drift")
    with pytest.raises(ModerationRefused) as caught:
        await job
    assert caught.value.request_id == job.request_id
    assert job.request_id in str(caught.value)


async def test_a_source_that_cannot_be_fetched_fails_the_job(client: AsyncClient) -> None:
    with pytest.raises(JobFailed, match="Unable to download") as caught:
        await client.generate("drift", image="https://nowhere.invalid/cat.jpg", timeout=20)
    assert caught.value.code == "invalid_argument"


async def test_an_expired_job_says_so(client: AsyncClient, grok_emulator: Emulator) -> None:
    grok_emulator.script("create", [faults.Expired()])
    with pytest.raises(JobExpired):
        await client.generate("drift", timeout=20)


async def test_a_refused_create_is_not_sent_again(
    client: AsyncClient, grok_emulator: Emulator
) -> None:
    refusals = [
        (faults.invalid_token(), AuthenticationError),
        (faults.out_of_credits(), InsufficientBalance),
        (faults.out_of_quota(), InsufficientBalance),
        (faults.no_channel(), NotFound),
    ]
    for answer, kind in refusals:
        grok_emulator.script("create", [answer])
        with pytest.raises(kind):
            await client.submit("drift")
        grok_emulator.assert_faults_consumed()
    assert len(grok_emulator.requests) == len(refusals)


@pytest.mark.parametrize(
    "fault",
    [faults.rate_limited(0.05), faults.rate_limited(50 / 1000, "ms"), faults.overloaded()],
    ids=["429", "429 in ms", "503 before any upstream"],
)
async def test_a_clear_and_passing_refusal_is_sent_again(
    client: AsyncClient, grok_emulator: Emulator, fault: faults.Fault
) -> None:
    grok_emulator.script("create", [fault, fault])
    assert (await client.generate("drift", timeout=20)).url
    grok_emulator.assert_faults_consumed()
    assert grok_emulator.accepted == 1


@pytest.mark.parametrize(
    "fault",
    [
        faults.CutRequest(accepted=True),
        faults.CutRequest(accepted=False),
        faults.CutAnswer(0),
        faults.CutAnswer(40),
        faults.bad_upstream(accepted=True),
        faults.timed_out(524),
        faults.html_page(200, accepted=True),
        faults.empty_202(),
        faults.WrongLength(10),
    ],
    ids=lambda fault: type(fault).__name__,
)
async def test_an_unknown_outcome_is_never_sent_again(
    client: AsyncClient, grok_emulator: Emulator, fault: faults.Fault
) -> None:
    grok_emulator.script("create", [fault])
    request = VideoRequest("drift")
    with pytest.raises(CreateOutcomeUnknown) as caught:
        await client.submit(request)
    grok_emulator.assert_faults_consumed()
    assert grok_emulator.accepted <= 1
    posts = [seen for seen in grok_emulator.requests if seen.method == "POST"]
    assert len(posts) == 1
    error = caught.value
    assert error.fingerprint == request.fingerprint()
    assert error.phase in ("awaiting the answer", "reading the answer")
    assert "Nothing was sent again" in str(error)


async def test_a_server_that_is_not_there_is_told_in_whole_sentences(
    new_client: Callable[..., AsyncClient],
) -> None:
    async with new_client(base_url="http://127.0.0.1:1/v1", api_key="k") as client:
        with pytest.raises(APIConnectionError) as caught:
            await client.submit("drift")
    assert not caught.value.may_have_been_sent
    assert "nothing was sent. It was tried 5 times and never taken" in str(caught.value)


async def test_the_caller_may_ask_for_resends_of_unknown_creates(
    new_client: Callable[..., AsyncClient], grok_emulator: Emulator
) -> None:
    grok_emulator.script("create", [faults.CutRequest(accepted=True)])
    retry = Retry(base=0.01, resend_unknown_creates=True)
    async with new_client(grok_emulator, retry=retry) as client:
        await client.submit("drift")
    assert grok_emulator.accepted == 2


@pytest.mark.parametrize("then", [faults.invalid_token(), faults.rate_limited(3600)])
async def test_what_ends_the_resends_says_nothing_about_a_create_that_was_lost_before(
    then: faults.Fault, new_client: Callable[..., AsyncClient], grok_emulator: Emulator
) -> None:
    grok_emulator.script("create", [faults.CutRequest(accepted=True), then])
    retry = Retry(base=0.01, resend_unknown_creates=True)
    async with new_client(grok_emulator, retry=retry) as client:
        with pytest.raises(CreateOutcomeUnknown, match="It was sent 2 times") as caught:
            await client.submit("drift")
    assert "What ended the attempts after it" in caught.value.__notes__[0]
    assert grok_emulator.accepted == 1


async def test_a_lost_create_stays_in_doubt_when_its_picture_changed_before_the_resend(
    new_client: Callable[..., AsyncClient], tmp_path: Path
) -> None:
    picture = tmp_path / "cat.jpg"
    picture.write_bytes(b"\xff\xd8\xff" + bytes(300_000))

    def loses_the_answer(visit: Visit) -> None:
        visit.request()
        picture.write_bytes(b"\xff\xd8\xff" + bytes(100))
        visit.reset()

    retry = Retry(base=0.01, resend_unknown_creates=True)
    with raw_server(loses_the_answer, Visit.until_gone) as server:
        async with new_client(api_key="k", base_url=server.base, retry=retry) as client:
            with pytest.raises(CreateOutcomeUnknown) as caught:
                await client.submit("drift", image=picture)
    assert "image must not change" in "".join(caught.value.__notes__)


async def test_a_lost_create_stays_in_doubt_when_the_resend_cannot_be_recorded(
    client: AsyncClient, grok_emulator: Emulator
) -> None:
    grok_emulator.script("create", [faults.CutRequest(accepted=True)])
    client._session.retry = Retry(base=0.01, resend_unknown_creates=True)
    begun: list[Event] = []

    async def record(event: Event, _: str | None) -> None:
        begun.append(event)
        if begun.count(Event.SENDING_BEGAN) == 2:
            raise OSError("the disk is full")

    with pytest.raises(CreateOutcomeUnknown) as caught:
        await client._session.create(VideoRequest("drift"), record=record)
    assert "Nothing was sent again" in str(caught.value)
    assert "the disk is full" in "".join(caught.value.__notes__)
    assert grok_emulator.accepted == 1


async def test_an_item_whose_create_was_lost_before_a_refused_resend_is_in_doubt(
    new_client: Callable[..., AsyncClient], grok_emulator: Emulator, tmp_path: Path
) -> None:
    grok_emulator.script(
        "create", [faults.CutRequest(accepted=True), faults.no_channel(), faults.invalid_token()]
    )
    retry = Retry(base=0.01, cap=0.01, resend_unknown_creates=True)
    async with new_client(grok_emulator, retry=retry) as client:
        summary = await client.run_batch(
            [VideoRequest("drift")], out=None, ledger=tmp_path / "run.sqlite"
        )
    assert len(summary.in_doubt) == 1, summary


async def test_a_create_of_a_cancelled_caller_is_not_sent(
    client: AsyncClient, grok_emulator: Emulator
) -> None:
    with anyio.CancelScope() as scope:
        scope.cancel()
        await client.submit("drift")
    assert grok_emulator.requests == ()


async def test_a_create_in_line_is_not_sent_by_a_closed_client(
    new_client: Callable[..., AsyncClient], grok_emulator: Emulator
) -> None:
    grok_emulator.script("create", [faults.Stall(0.5, resume=True)])
    told: list[str] = []

    async def second(client: AsyncClient) -> None:
        try:
            await client.submit("second")
        except ConfigurationError as error:
            told.append(str(error))

    async def first(client: AsyncClient) -> None:
        with contextlib.suppress(CreateOutcomeUnknown):
            await client.submit("first")

    client = new_client(grok_emulator, limits=Limits(connections=1))
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(first, client)
        while not grok_emulator.faults_consumed:
            await anyio.lowlevel.checkpoint()
        tasks.start_soon(second, client)
        for _ in range(10):
            await anyio.lowlevel.checkpoint()
        await client.aclose()
    assert "closed" in told[0]
    assert grok_emulator.accepted <= 1


async def test_a_long_retry_after_fails_at_once_and_says_so(
    client: AsyncClient, grok_emulator: Emulator
) -> None:
    grok_emulator.script("create", [faults.rate_limited(3600)])
    with pytest.raises(RateLimited, match="3600 s") as caught:
        await client.submit("drift")
    assert caught.value.retry_after == 3600
    # The next one knows it too, and does not sleep through the hour.
    with pytest.raises(RateLimited, match=r"may start in 3[56]"):
        await client.submit("drift")
    assert len(grok_emulator.requests) == 1
    assert grok_emulator.accepted == 0


@pytest.mark.parametrize(
    "fault",
    [
        faults.CloseOnAccept(),
        faults.CutRequest(),
        faults.CutAnswer(30),
        faults.bad_upstream(),
        faults.timed_out(520),
        faults.rate_limited(0.02),
        faults.html_page(200),
        faults.DeepJSON(),
        faults.TaskNotExist(polls=3),
        faults.UnknownStatus(polls=2),
        faults.Backwards(),
        faults.StuckProgress(),
    ],
    ids=lambda fault: type(fault).__name__,
)
async def test_a_poll_that_fails_in_passing_costs_no_video(
    client: AsyncClient, grok_emulator: Emulator, fault: faults.Fault
) -> None:
    grok_emulator.script("poll", [fault])
    assert (await client.generate("drift", timeout=20)).url
    grok_emulator.assert_faults_consumed()
    assert grok_emulator.accepted == 1


async def test_a_refused_poll_ends_the_wait_at_once_with_the_id(
    client: AsyncClient, grok_emulator: Emulator
) -> None:
    grok_emulator.script("poll", [faults.invalid_token()])
    job = await client.submit("drift")
    with pytest.raises(AuthenticationError) as caught:
        await job.result()
    assert caught.value.request_id == job.request_id
    assert f"grok-video wait {job.request_id}" in str(caught.value)
    assert (await job.result(timeout=20)).url  # the key was put right


async def test_a_retry_after_past_the_deadline_ends_the_wait_and_says_so(
    grok_emulator_factory: Callable[..., Emulator], new_client: Callable[..., AsyncClient]
) -> None:
    emulator = grok_emulator_factory(time_scale=1.0)
    emulator.script("poll", [faults.rate_limited(900)])
    async with new_client(emulator) as client:
        job = await client.submit("drift")
        with pytest.raises(JobTimeout, match="no poll in the next 900 s"):
            await job.result(timeout=30)


async def test_a_429_on_one_job_slows_all_of_them(
    grok_emulator_factory: Callable[..., Emulator], new_client: Callable[..., AsyncClient]
) -> None:
    emulator = grok_emulator_factory(time_scale=1.0)
    async with new_client(emulator) as client:
        jobs = [await client.submit("drift") for _ in range(3)]
        emulator.script("poll", [faults.rate_limited(900)])
        with pytest.raises(RateLimited):
            await jobs[0].refresh()
        before = emulator.polls
        with pytest.raises(JobTimeout, match="no poll"):
            await jobs[1].result(timeout=5)
        assert emulator.polls == before


async def test_the_id_is_told_before_anything_else_happens(
    client: AsyncClient, grok_emulator: Emulator
) -> None:
    told: list[tuple[str, int]] = []

    async def write_down(job: AsyncJob) -> None:
        await anyio.lowlevel.checkpoint()
        told.append((job.request_id, grok_emulator.polls))

    video = await client.generate("drift", on_submitted=write_down, timeout=20)
    assert told == [(video.request_id, 0)]


async def test_a_cancelled_create_still_tells_its_id(
    new_client: Callable[..., AsyncClient], grok_emulator: Emulator
) -> None:
    grok_emulator.script("create", [faults.Stall(0.2, resume=True)])
    told: list[str] = []
    async with new_client(grok_emulator) as client:
        with anyio.move_on_after(0.05) as scope:
            await client.submit("drift", on_submitted=lambda job: told.append(job.request_id))
        assert scope.cancelled_caught
    assert told == [grok_emulator.creates[0].request_id]


async def test_an_id_that_could_not_be_told_to_a_cancelled_caller_stands_in_the_log(
    new_client: Callable[..., AsyncClient],
    grok_emulator: Emulator,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """The cancellation is all that the caller hears, and its database was down."""
    grok_emulator.script("create", [faults.Stall(0.2, resume=True)])

    def write_down(_: AsyncJob) -> None:
        raise OSError("the database is down")

    async with new_client(grok_emulator) as client:
        with anyio.move_on_after(0.05) as scope:
            await client.submit("drift", on_submitted=write_down)
        assert scope.cancelled_caught
    told = [one for one in caplog.records if one.levelname == "ERROR"]
    assert len(told) == 1
    assert grok_emulator.creates[0].request_id in told[0].getMessage()
    assert told[0].exc_info is not None
    assert isinstance(told[0].exc_info[1], OSError)


async def test_an_id_that_could_not_be_told_after_the_deadline_is_in_the_error(
    new_client: Callable[..., AsyncClient], grok_emulator: Emulator
) -> None:
    grok_emulator.script("create", [faults.Stall(0.5, resume=True)])

    def write_down(_: AsyncJob) -> None:
        raise OSError("the database is down")

    async with new_client(grok_emulator) as client:
        with pytest.raises(OSError, match="database") as caught:
            await client.generate("drift", timeout=0.2, on_submitted=write_down)
    assert grok_emulator.creates[0].request_id in "".join(caught.value.__notes__)


@pytest.mark.parametrize("ended_by", ["a cancellation", "its deadline"])
async def test_an_id_whose_record_was_cut_off_at_the_end_of_the_grace_stands_in_the_log(
    ended_by: str,
    new_client: Callable[..., AsyncClient],
    grok_emulator: Emulator,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    monkeypatch.setattr(_create, "CANCEL_GRACE", 0.3)

    async def write_down(_: AsyncJob) -> None:
        await anyio.sleep(30)

    async with new_client(grok_emulator) as client:
        if ended_by == "its deadline":
            with pytest.raises(JobTimeout):
                await client.generate("drift", timeout=0.3, on_submitted=write_down)
        else:
            with anyio.move_on_after(0.3) as scope:
                await client.submit("drift", on_submitted=write_down)
            assert scope.cancelled_caught
    told = [one.getMessage() for one in caplog.records if one.levelname == "ERROR"]
    assert len(told) == 1
    assert grok_emulator.creates[0].request_id in told[0]


@pytest.mark.parametrize("call", ["submit", "generate"])
async def test_the_id_of_a_cancelled_call_that_nobody_was_told_stands_in_the_log(
    call: str,
    new_client: Callable[..., AsyncClient],
    grok_emulator: Emulator,
    caplog: pytest.LogCaptureFixture,
) -> None:
    for hook in (None, lambda _: None):
        caplog.clear()
        if call == "submit":
            grok_emulator.script("create", [faults.Stall(0.4, resume=True)])
        else:
            grok_emulator.script("poll", [faults.Stall(5.0)])
        async with new_client(grok_emulator) as client:
            with anyio.move_on_after(0.2) as scope:
                await getattr(client, call)("drift", on_submitted=hook)
            assert scope.cancelled_caught
        told = [one.getMessage() for one in caplog.records if one.levelno >= logging.WARNING]
        assert len(told) == (hook is None)
        assert all(grok_emulator.creates[-1].request_id in one for one in told)


async def test_closing_the_client_under_a_call_names_its_job(
    new_client: Callable[..., AsyncClient],
    grok_emulator_factory: EmulatorFactory,
    caplog: pytest.LogCaptureFixture,
) -> None:
    emulator = grok_emulator_factory(time_scale=100.0)
    client = new_client(emulator)
    raised: list[ConfigurationError] = []

    async def generate() -> None:
        try:
            await client.generate("drift", duration=1)
        except ConfigurationError as error:
            raised.append(error)

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(generate)
        while not emulator.polls:
            await anyio.lowlevel.checkpoint()
        await client.aclose()
    (create,) = emulator.creates
    assert raised[0].request_id == create.request_id
    assert not [one for one in caplog.records if one.levelno >= logging.WARNING]


class Fickle(Transport):
    """A transport of the caller's own that has a bug: what it raises knows of no job."""

    async def post(self, url: str, body: Any) -> Any:
        return Answer(200, {}, b'{"request_id": "job-1"}')

    async def get(self, url: str) -> Any:
        raise ZeroDivisionError

    def stream(self, *_: Any, **__: Any) -> Any:
        raise AssertionError("only a create and a poll are sent")

    async def aclose(self) -> None:
        pass


async def test_the_id_stands_in_the_log_where_a_strangers_error_does_not_have_it(
    caplog: pytest.LogCaptureFixture,
) -> None:
    async with AsyncClient("k", base_url="http://127.0.0.1:9", transport=Fickle()) as client:
        with pytest.raises(ZeroDivisionError):
            await client.generate("drift")
    told = [one.getMessage() for one in caplog.records if one.levelno >= logging.WARNING]
    assert len(told) == 1
    assert "grok-video wait job-1" in told[0]


@pytest.mark.parametrize("loop", ["asyncio", "trio"])
def test_the_id_of_a_hook_that_leaves_the_program_stands_in_the_log(
    loop: str, grok_emulator: Emulator, caplog: pytest.LogCaptureFixture
) -> None:
    async def submit() -> None:
        place = {"base_url": grok_emulator.base_url, "api_key": grok_emulator.api_key}
        async with AsyncClient(**place) as client:
            await client.submit("drift", on_submitted=lambda _: sys.exit(3))

    with pytest.raises(SystemExit):
        anyio.run(submit, backend=loop)
    told = [one.getMessage() for one in caplog.records if one.levelno >= logging.WARNING]
    assert len(told) == 1
    assert grok_emulator.creates[0].request_id in told[0]


async def test_a_record_that_refuses_before_anything_is_sent_is_no_news_for_the_log(
    caplog: pytest.LogCaptureFixture,
) -> None:
    """A batch that stops refuses so; its callers are cancelled at the same time."""

    async def refuse(event: Event, _: str | None) -> None:
        assert event is Event.SENDING_BEGAN
        with anyio.CancelScope(shield=True):
            await anyio.sleep(0.1)
        raise RuntimeError("stopped")

    async def post() -> str:
        raise AssertionError("it was sent")

    attempt = _create.Attempt(VideoRequest("drift"), post, refuse)
    with anyio.move_on_after(0.05) as scope:
        await attempt.run(Deadline(math.inf, None), 60.0)
    assert scope.cancelled_caught
    assert not caplog.records


class Unhurried(Transport):
    """A transport of the caller's own that knows no timeout."""

    async def post(self, url: str, body: Any) -> Any:
        await anyio.sleep_forever()

    async def get(self, url: str) -> Any:
        raise AssertionError("only a create is sent")

    def stream(self, *_: Any, **__: Any) -> Any:
        raise AssertionError("only a create is sent")

    async def aclose(self) -> None:
        pass


async def test_a_transport_without_a_timeout_does_not_outlast_the_callers(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(_create, "CANCEL_GRACE", 0.2)
    client = AsyncClient("k", base_url="http://127.0.0.1:9", transport=Unhurried(), timeout=0.1)
    with anyio.fail_after(5), pytest.raises(CreateOutcomeUnknown):
        await client.generate("drift", timeout=0.3)


async def test_a_create_is_not_sent_after_the_end_of_its_call(
    client: AsyncClient, grok_emulator: Emulator
) -> None:
    """However the time was spent: here it was over before anything began."""
    for image in (None, PHOTO):
        with pytest.raises(APITimeoutError, match=r"1e-06 s of this call; nothing was sent"):
            await client.generate("drift", image=image, timeout=1e-6)
    assert grok_emulator.requests == ()


async def test_a_picture_that_does_not_come_ends_with_the_timeout_and_nothing_is_sent(
    client: AsyncClient, grok_emulator: Emulator
) -> None:
    reading, writing = os.pipe()
    with (
        os.fdopen(reading, "rb") as pipe,
        os.fdopen(writing, "wb"),
        anyio.fail_after(10),
        pytest.raises(APITimeoutError, match=r"the picture .* 0\.2 s .* nothing was sent") as it,
    ):
        await client.generate("drift", image=pipe, timeout=0.2)
    assert not it.value.may_have_been_sent
    assert grok_emulator.requests == ()


if sys.version_info >= (3, 12):

    def test_a_loop_whose_tasks_start_at_once_makes_videos_too(grok_emulator: Emulator) -> None:
        async def main() -> Video:
            asyncio.get_running_loop().set_task_factory(asyncio.eager_task_factory)
            url, key = grok_emulator.base_url, grok_emulator.api_key
            async with AsyncClient(key, base_url=url) as client:
                return await client.generate("drift", timeout=20)

        assert asyncio.run(main()).url


@pytest.mark.parametrize("answer", ["while it stood still", "once it goes on"])
async def test_a_process_that_stood_still_longer_than_the_grace_still_hears_the_answer(
    answer: str, new_client: Callable[..., AsyncClient], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A closed laptop, a stopped process: the clock went on, and who waits did not wait."""
    grace = 0.5
    monkeypatch.setattr(_create, "CANCEL_GRACE", grace)
    taken, answering, answered = threading.Event(), threading.Event(), threading.Event()

    def answers_when_told(visit: Visit) -> None:
        visit.request()
        taken.set()
        assert answering.wait(PATIENCE)
        visit.answer(b'{"request_id":"job-1"}')
        answered.set()
        visit.until_gone()

    told: list[str] = []
    with raw_server(answers_when_told) as server:
        async with new_client(api_key="k", base_url=server.base) as client:

            async def submit() -> None:
                await client.submit("drift", on_submitted=lambda job: told.append(job.request_id))

            async with anyio.create_task_group() as tasks:
                tasks.start_soon(submit)
                while not taken.is_set():
                    await anyio.lowlevel.checkpoint()
                tasks.cancel_scope.cancel()
                for _ in range(10):  # until the one who was cancelled waits for the answer
                    with anyio.CancelScope(shield=True):
                        await anyio.lowlevel.checkpoint()
                over = time.monotonic() + 1.5 * grace
                while time.monotonic() < over:
                    pass  # the loop stands still, and its clock does not
                if answer == "while it stood still":
                    answering.set()
                    assert answered.wait(PATIENCE)
                else:
                    with anyio.CancelScope(shield=True):
                        await anyio.sleep(grace / 10)
                    answering.set()
    assert told == ["job-1"]


async def test_a_destination_is_checked_before_anything_is_paid(
    client: AsyncClient, grok_emulator: Emulator, tmp_path: Path
) -> None:
    taken = tmp_path / "taken.mp4"
    taken.write_text("mine")
    for place in (taken, tmp_path, tmp_path / "no" / "such" / "folder.mp4"):
        with pytest.raises(DestinationError):
            await client.generate("drift", save_to=place)
    assert grok_emulator.requests == ()
    assert taken.read_text() == "mine"


async def test_a_stream_gives_the_bytes_of_the_file(client: AsyncClient, tmp_path: Path) -> None:
    job = await client.submit("drift", image=PHOTO, duration=1, resolution="480p")
    content = b"".join([chunk async for chunk in job.stream()])
    video = await job.download(tmp_path / "same.mp4")
    assert video.path is not None
    assert content == video.path.read_bytes()


async def test_creates_keep_to_their_rate(
    new_client: Callable[..., AsyncClient], grok_emulator: Emulator
) -> None:
    """Sixty a second, after a burst of a second's worth: ninety take half a second more."""
    limits = Limits(creates_per_minute=3600)
    async with new_client(grok_emulator, limits=limits, retry=EAGER) as client:
        began = anyio.current_time()
        async with anyio.create_task_group() as tasks:
            for _ in range(90):
                tasks.start_soon(client.submit, "drift")
        assert anyio.current_time() - began >= 0.45
    assert grok_emulator.accepted == 90


async def test_a_closed_client_says_so_and_sends_nothing(
    new_client: Callable[..., AsyncClient], grok_emulator: Emulator
) -> None:
    client = new_client(grok_emulator)
    await client.aclose()
    with pytest.raises(ConfigurationError, match="closed"):
        await client.submit("drift")
    assert grok_emulator.requests == ()


@pytest.mark.parametrize("timeout", [0, -1, True, "5", float("nan")])
async def test_a_timeout_that_is_none_is_refused(client: AsyncClient, timeout: object) -> None:
    with pytest.raises(InvalidRequest, match="timeout"):
        await client.job("x").result(timeout=timeout)  # type: ignore[arg-type]


async def test_words_beside_a_request_are_refused(
    client: AsyncClient, grok_emulator: Emulator
) -> None:
    with pytest.raises(InvalidRequest, match="inside the VideoRequest"):
        await client.submit(VideoRequest("drift"), duration=3)  # type: ignore[call-overload]
    with pytest.raises(InvalidRequest, match="use aspect_ratio"):
        await client.submit("drift", size="1280x720")  # type: ignore[call-overload]
    assert grok_emulator.requests == ()


async def test_waiting_for_a_connection_is_bounded_by_the_wait_of_the_caller(
    new_client: Callable[..., AsyncClient], grok_emulator: Emulator
) -> None:
    """One connection, a silent server: those who queue for it end at their own deadline."""
    grok_emulator.script("poll", [faults.Stall(5.0)] * 4)
    late: list[float] = []

    async def one(client: AsyncClient, name: str) -> None:
        began = anyio.current_time()
        with pytest.raises(JobTimeout):
            await client.job(name).result(timeout=0.4)
        late.append(anyio.current_time() - began - 0.4)

    limits = Limits(connections=1, polls_per_second=None)
    client = new_client(grok_emulator, limits=limits, timeout=0.3)
    async with client, anyio.create_task_group() as tasks:
        for number in range(4):
            tasks.start_soon(one, client, f"job-{number}")
    assert max(late) < 0.25, late


async def test_waiting_for_a_connection_is_not_waiting_for_the_server(
    new_client: Callable[..., AsyncClient], grok_emulator: Emulator
) -> None:
    """Two answers of 0.3 s each, one after the other, and 0.5 s for either."""
    grok_emulator.script("poll", [faults.Stall(0.3, resume=True)] * 2)
    limits = Limits(connections=1, polls_per_second=None)
    async with new_client(grok_emulator, limits=limits, timeout=0.5) as client:
        jobs = [await client.submit("drift"), await client.submit("drift")]
        began = anyio.current_time()
        async with anyio.create_task_group() as tasks:
            for job in jobs:
                tasks.start_soon(job.refresh)
        assert anyio.current_time() - began >= 0.6
    grok_emulator.assert_faults_consumed()


async def test_polls_in_flight_keep_no_create_waiting(
    new_client: Callable[..., AsyncClient], grok_emulator: Emulator
) -> None:
    grok_emulator.script("poll", [faults.Stall(60)])
    limits = Limits(connections=1, polls_per_second=None)
    client = new_client(grok_emulator, limits=limits)
    async with client, anyio.create_task_group() as tasks:
        tasks.start_soon((await client.submit("first")).refresh)
        while not grok_emulator.faults_consumed:
            await anyio.lowlevel.checkpoint()
        with anyio.fail_after(5):
            await client.submit("second")
        tasks.cancel_scope.cancel()


async def test_a_create_that_waits_for_a_connection_is_not_sent_after_its_deadline(
    new_client: Callable[..., AsyncClient], grok_emulator: Emulator
) -> None:
    grok_emulator.script("create", [faults.Stall(0.6, resume=True)])
    seen: list[str] = []

    async def one(client: AsyncClient) -> None:
        try:
            await client.generate("drift", duration=1, timeout=0.3)
        except (APITimeoutError, CreateOutcomeUnknown, JobTimeout) as error:
            seen.append(type(error).__name__)

    limits = Limits(connections=1, polls_per_second=None)
    client = new_client(grok_emulator, limits=limits)
    async with client, anyio.create_task_group() as tasks:
        for _ in range(4):
            tasks.start_soon(one, client)
    assert seen.count("APITimeoutError") == 3, seen
    assert grok_emulator.accepted == 1


@pytest.mark.parametrize("call", ["download", "generate"])
async def test_waiting_for_a_download_slot_is_bounded_by_the_wait_of_the_caller(
    call: str, new_client: Callable[..., AsyncClient], grok_emulator: Emulator, tmp_path: Path
) -> None:
    """One download at a time, and the first stands still."""
    grok_emulator.script("download", [faults.Stall(60)])
    client = new_client(grok_emulator, limits=Limits(concurrent_downloads=1))
    async with client, anyio.create_task_group() as tasks:
        first, second = [await client.submit("drift", duration=1) for _ in range(2)]
        await first
        await second
        tasks.start_soon(first.download, tmp_path / "first.mp4")
        while not grok_emulator.faults_consumed:
            await anyio.lowlevel.checkpoint()
        place = tmp_path / "second.mp4"
        with anyio.fail_after(10), pytest.raises(DownloadError, match="was not fetched: no other"):
            if call == "download":
                await second.download(place, timeout=0.2)
            else:
                await client.generate("drift", duration=1, save_to=place, timeout=1.0)
        tasks.cancel_scope.cancel()


async def test_a_cancelled_create_that_waits_for_a_connection_ends_at_once_and_sends_nothing(
    new_client: Callable[..., AsyncClient], grok_emulator: Emulator
) -> None:
    grok_emulator.script("create", [faults.Stall(0.5, resume=True)])
    limits = Limits(connections=1, polls_per_second=None)
    client = new_client(grok_emulator, limits=limits)
    async with client, anyio.create_task_group() as tasks:
        tasks.start_soon(client.submit, "first")
        while not grok_emulator.faults_consumed:
            await anyio.lowlevel.checkpoint()
        began = anyio.current_time()
        with anyio.move_on_after(0.05):
            await client.submit("second")
        assert anyio.current_time() - began < 0.4
    assert grok_emulator.accepted == 1


async def test_the_words_of_an_answer_stand_in_no_frame_of_a_later_failure(
    new_client: Callable[..., AsyncClient], grok_emulator: Emulator
) -> None:
    """A server may echo the key in a poll that is fine, and fail the next one."""
    key = "sk-" + "k" * 40
    echo = {"status": "processing", "progress": 10, "note": f"Bearer {key}"}
    grok_emulator.script("poll", [faults.Answer(200, echo), faults.Answer(401, {"error": "no"})])
    async with new_client(base_url=grok_emulator.base_url, api_key=key) as client:
        job = client.job("somewhere")
        await job.refresh()
        with pytest.raises(AuthenticationError) as caught:
            await job.refresh()
    shown = traceback.TracebackException.from_exception(caught.value, capture_locals=True)
    # The frame of this very test has the key in a variable of its own.
    assert not [line for line in shown.format() if key in line and "test_jobs" not in line]
