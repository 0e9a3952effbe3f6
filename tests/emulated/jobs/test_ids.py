"""The id of a paid job is told, whatever happens to the call."""

from __future__ import annotations

import logging
import math
import sys
import threading
import time
from collections.abc import Callable
from typing import Any

import anyio
import anyio.lowlevel
import pytest

from grok_video import (
    AsyncClient,
    AsyncJob,
    ConfigurationError,
    JobTimeout,
    VideoRequest,
    _create,
)
from grok_video._body import TextBody
from grok_video._lifecycle import Event
from grok_video._policies import Deadline
from grok_video._transports._base import Answer, Body, Transport
from grok_video.emulator import Emulator, faults
from grok_video.emulator.pytest_plugin import EmulatorFactory

from ...transports.rawserver import PATIENCE, Visit, raw_server


async def test_the_id_is_told_before_anything_else_happens(
    client: AsyncClient, grok_emulator: Emulator
) -> None:
    told: list[tuple[str, int]] = []

    async def write_down(job: AsyncJob) -> None:
        await anyio.lowlevel.checkpoint()
        told.append((job.request_id, grok_emulator.polls))

    video = await client.generate("drift", on_submitted=write_down, timeout=20)
    assert told == [(video.request_id, 0)]


async def test_a_hook_that_hands_back_the_job_does_not_wait_for_its_end(
    client: AsyncClient, grok_emulator: Emulator
) -> None:
    jobs: dict[str, AsyncJob] = {}
    job = await client.submit(
        "drift", on_submitted=lambda job: jobs.setdefault(job.request_id, job)
    )
    assert jobs == {job.request_id: job}
    assert grok_emulator.polls == 0


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


class Leaving(BaseException):
    """Ends the program, as `SystemExit` does: no trouble that could pass."""


class Fickle(Transport):
    """A transport of the caller's own that has a bug: what it raises knows of no job."""

    async def post(self, url: str, body: Any) -> Any:
        return Answer(200, {}, b'{"request_id": "job-1"}')

    async def get(self, url: str) -> Any:
        raise Leaving

    def stream(self, *_: Any, **__: Any) -> Any:
        raise AssertionError("only a create and a poll are sent")

    async def aclose(self) -> None:
        pass


async def test_the_id_stands_in_the_log_where_a_strangers_error_does_not_have_it(
    caplog: pytest.LogCaptureFixture,
) -> None:
    async with AsyncClient("k", base_url="http://127.0.0.1:9", transport=Fickle()) as client:
        with pytest.raises(Leaving):
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

    async def post(_: Body) -> str:
        raise AssertionError("it was sent")

    sending = _create.Sending(TextBody(b"{}"), is_watched=True)
    attempt = _create.Attempt(VideoRequest("drift"), sending, post, refuse, is_in_doubt=False)
    with anyio.move_on_after(0.05) as scope:
        await attempt.run(Deadline(math.inf, None), 60.0)
    assert scope.cancelled_caught
    assert not caplog.records


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
