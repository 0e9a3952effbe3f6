"""Resends of creates of unknown outcome, which a caller may ask for: no doubt is lost with them."""

from __future__ import annotations

import logging
from collections.abc import Callable

import anyio
import anyio.lowlevel
import pytest

from grok_video import (
    AsyncClient,
    AsyncJob,
    CreateOutcomeUnknown,
    Limits,
    RateLimited,
    Retry,
    VideoRequest,
    _create,
)
from grok_video.emulator import Emulator, faults

from ...conftest import NO_LIMITS
from ...transports.rawserver import PATIENCE

LOST = faults.CutRequest(accepted=True)
AT_ONCE = Retry(base=0.01, resend_unknown_creates=True)
#: Longer than any test may take.
LATE = Retry(base=600.0, cap=600.0, resend_unknown_creates=True)


async def waits_to_send_again(caplog: pytest.LogCaptureFixture) -> None:
    """Return when a create has failed and sleeps before it is sent again."""
    while "sent again in" not in caplog.text:
        await anyio.lowlevel.checkpoint()
    await anyio.wait_all_tasks_blocked()


def errors_in(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [one.getMessage() for one in caplog.records if one.levelno >= logging.ERROR]


async def test_the_job_of_a_resend_is_named_where_the_caller_could_not_take_it(
    new_client: Callable[..., AsyncClient], grok_emulator: Emulator
) -> None:
    grok_emulator.script("create", [LOST])

    def write_down(_: AsyncJob) -> None:
        raise OSError("the database is down")

    async with new_client(grok_emulator, retry=AT_ONCE) as client:
        with pytest.raises(OSError, match="the database is down") as caught:
            await client.submit("drift", on_submitted=write_down)
    assert grok_emulator.accepted == 2
    assert grok_emulator.creates[1].request_id in "".join(caught.value.__notes__)


async def test_a_lost_create_stays_in_doubt_when_the_limits_leave_no_turn_for_its_resend(
    new_client: Callable[..., AsyncClient], grok_emulator: Emulator
) -> None:
    grok_emulator.script("create", [LOST])
    limits = Limits(creates_per_minute=1)
    async with new_client(grok_emulator, retry=AT_ONCE, limits=limits) as client:
        with pytest.raises(CreateOutcomeUnknown, match="Nothing was sent again") as caught:
            await client.generate("drift", timeout=30)
        [note] = caught.value.__notes__
        assert "What ended the attempts after it: the next create may start in" in note
        # It says of the resend alone that it was not sent: the create may have been accepted.
        told = f"{caught.value} {note}"
        assert "nothing was created" not in told
        assert "never taken" not in told
        # Who lost nothing before hears of the limits alone.
        with pytest.raises(RateLimited, match="nothing was sent"):
            await client.generate("drift", timeout=30)
    assert grok_emulator.accepted == 1


async def test_a_lost_create_stays_in_doubt_when_the_client_is_closed_before_its_resend(
    new_client: Callable[..., AsyncClient],
    grok_emulator: Emulator,
    caplog: pytest.LogCaptureFixture,
) -> None:
    grok_emulator.script("create", [LOST])
    client = new_client(grok_emulator, retry=LATE, limits=NO_LIMITS)
    told: list[CreateOutcomeUnknown] = []

    async def submit() -> None:
        with pytest.raises(CreateOutcomeUnknown) as caught:
            await client.submit("drift")
        told.append(caught.value)

    with anyio.fail_after(PATIENCE):
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(submit)
            await waits_to_send_again(caplog)
            await client.aclose()
    assert "Nothing was sent again" in str(told[0])
    assert "this client is closed" in "".join(told[0].__notes__)
    assert grok_emulator.accepted == 1


async def test_a_lost_create_stays_in_doubt_when_no_connection_is_free_for_its_resend(
    new_client: Callable[..., AsyncClient],
    grok_emulator: Emulator,
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(_create, "CANCEL_GRACE", 0.01)  # for the other one, which is cut off
    grok_emulator.script("create", [LOST, faults.Stall(60)])
    # The other one takes the connection in the half second and more before the resend.
    retry, limits = Retry(base=1.0, resend_unknown_creates=True), Limits(connections=1)
    async with new_client(grok_emulator, retry=retry, limits=limits) as client:
        told: list[CreateOutcomeUnknown] = []

        async def generate() -> None:
            with pytest.raises(CreateOutcomeUnknown) as caught:
                await client.generate("drift", timeout=2.0)
            told.append(caught.value)
            tasks.cancel_scope.cancel()

        with anyio.fail_after(PATIENCE):
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(generate)
                await waits_to_send_again(caplog)
                tasks.start_soon(client.submit, "another")
    assert "Nothing was sent again" in str(told[0])
    assert "no connection became free" in "".join(told[0].__notes__)
    assert grok_emulator.accepted == 1


@pytest.mark.parametrize(
    ("fault", "is_lost"),
    [(LOST, True), (faults.rate_limited(), False)],
    ids=["a lost answer", "a refusal"],
)
async def test_a_call_that_is_cancelled_before_a_resend_leaves_its_doubt_in_the_log(
    fault: faults.Fault,
    is_lost: bool,
    new_client: Callable[..., AsyncClient],
    grok_emulator: Emulator,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """The cancellation is all that the caller hears."""
    grok_emulator.script("create", [fault])
    request = VideoRequest("drift")
    async with new_client(grok_emulator, retry=LATE) as client:
        with anyio.fail_after(PATIENCE):
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(client.submit, request)
                await waits_to_send_again(caplog)
                tasks.cancel_scope.cancel()
    told = errors_in(caplog)
    assert len(told) == is_lost
    for words in told:
        assert "it may have been accepted and billed" in words
        assert request.fingerprint()[:12] in words
    assert grok_emulator.accepted == is_lost
