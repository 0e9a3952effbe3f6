"""How a wait ends: timeouts, refusals, failures, and polls that fail in passing or slow others."""

from __future__ import annotations

import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

import anyio
import anyio.lowlevel
import pytest

from grok_video import (
    AsyncClient,
    AuthenticationError,
    Client,
    ConfigurationError,
    DownloadTimeout,
    InvalidRequest,
    JobExpired,
    JobFailed,
    JobTimeout,
    ModerationRefused,
    RateLimited,
    ServerError,
)
from grok_video.emulator import Emulator, faults


async def test_a_look_at_a_job_ends_at_its_timeout_however_long_the_server_wants_to_be_left_alone(
    grok_emulator: Emulator, client: AsyncClient
) -> None:
    job = await client.submit("drift")
    grok_emulator.script("poll", [faults.rate_limited(3600)])
    with pytest.raises(RateLimited):
        await job.refresh()
    began = anyio.current_time()
    with pytest.raises(JobTimeout, match=r"after 0\.2 s"):
        await job.refresh(timeout=0.2)
    assert 0.1 < anyio.current_time() - began < 2
    assert grok_emulator.polls == 1


async def test_a_download_whose_link_died_ends_at_its_timeout_where_no_poll_is_wanted_before(
    grok_emulator: Emulator, client: AsyncClient, tmp_path: Path
) -> None:
    job = await client.submit("drift", duration=1, resolution="480p")
    await job.result(timeout=20)
    busy = faults.Answer(503, {"error": "busy"}, {"Retry-After": "3600"})
    grok_emulator.script("poll", [busy])
    with pytest.raises(ServerError):
        await job.refresh()
    grok_emulator.script("download", [faults.LinkDied()])
    polls = grok_emulator.polls
    with pytest.raises(DownloadTimeout):
        await job.download(tmp_path / "a.mp4", timeout=1)
    grok_emulator.assert_faults_consumed()
    assert grok_emulator.polls == polls


async def test_a_look_that_waits_for_another_poll_ends_at_its_timeout(
    grok_emulator: Emulator, new_client: Callable[..., AsyncClient]
) -> None:
    async with new_client(grok_emulator) as client:
        job = await client.submit("drift")
        grok_emulator.script("poll", [faults.Stall(2.0)])
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(job.refresh)
            await anyio.lowlevel.checkpoint()
            with pytest.raises(JobTimeout):
                await job.refresh(timeout=0.2)
            tasks.cancel_scope.cancel()


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
        await client.job("x").result(timeout=timeout)  # type: ignore[arg-type]  # refused: the test


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
    assert not [line for line in shown.format() if key in line and Path(__file__).name not in line]


@pytest.mark.parametrize(
    ("key", "spelled"),
    [
        ("Zk3v/9QmT2x7LwP0+aBcD==", r"Zk3v\/9QmT2x7LwP0+aBcD=="),  # PHP
        ("Zk3v/9QmT2x7LwP0+aBcD==", r"Zk3v/9QmT2x7LwP0\u002BaBcD=="),  # .NET
        ("Zk3v&9QmT2x7<wP0>aBcD", r"Zk3v\u00269QmT2x7\u003cwP0\u003eaBcD"),  # Go
        ('Zk3v"9QmT2x\\7LwP0aBcD', r"Zk3v\"9QmT2x\\7LwP0aBcD"),
    ],
)
async def test_a_key_that_comes_back_in_escapes_stands_in_no_error(
    new_client: Callable[..., AsyncClient], grok_emulator: Emulator, key: str, spelled: str
) -> None:
    body = b'{"error":{"message":"Incorrect API key: %b"}}' % spelled.encode()
    grok_emulator.script("poll", [faults.Answer(401, body)])
    async with new_client(base_url=grok_emulator.base_url, api_key=key) as client:
        with pytest.raises(AuthenticationError) as caught:
            await client.job("somewhere").refresh()
    assert "Incorrect API key: ***" in caught.value.message
    assert "Incorrect API key: ***" in caught.value.body


PICTURE = "data:image/jpeg;base64," + "Jsl9" * 20
TARGET = {"upload_url": "https://put.example/x?sig=deadbeef"}


@pytest.mark.parametrize(
    "words",
    [
        {"image_url": PICTURE},
        {"imge": PICTURE},
        {"image": PICTURE, "output": TARGET, "duration": 99},
        {"output": {**TARGET, "ratio": float("nan")}},
    ],
)
@pytest.mark.parametrize("door", [AsyncClient, Client])
def test_what_a_refused_call_was_given_stands_in_no_frame_of_the_package(
    words: dict[str, Any], door: type[Any]
) -> None:
    async def call() -> None:
        async with AsyncClient("key") as client:
            await client.submit("drift", **words)

    with pytest.raises((InvalidRequest, TypeError)) as caught:
        if door is AsyncClient:
            anyio.run(call)
        else:
            with Client("key") as client:
                client.submit("drift", **words)
    shown = traceback.TracebackException.from_exception(caught.value, capture_locals=True)
    frames = [line for frame in shown.stack if "grok_video/_" in frame.filename
              for line in (frame.locals or {}).values()]  # fmt: skip
    assert not [line for line in frames if "Jsl9" in line or "deadbeef" in line]
