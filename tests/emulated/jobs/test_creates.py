"""How creates are sent, at what rate, and when they are not sent or sent again."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import anyio
import anyio.lowlevel
import pytest

from grok_video import (
    APIConnectionError,
    APITimeoutError,
    AsyncClient,
    AuthenticationError,
    ConfigurationError,
    CreateOutcomeUnknown,
    DestinationError,
    InsufficientBalance,
    InvalidRequest,
    Limits,
    NotFound,
    RateLimited,
    Retry,
    VideoRequest,
    _create,
)
from grok_video._transports._base import Transport
from grok_video.emulator import Emulator, faults

from ...conftest import EAGER, PHOTO
from ...transports.rawserver import Visit, raw_server


async def test_only_what_was_set_is_sent(client: AsyncClient, grok_emulator: Emulator) -> None:
    await client.submit(VideoRequest("drift", user="u7"))
    sent = grok_emulator.creates[0].fields
    assert {name: sent[name] for name in ("prompt", "user", "model")} == {
        "prompt": "drift",
        "user": "u7",
        "model": "grok-imagine-video-1.5",
    }


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
    ("waits", "retry", "timeout", "said", "not_said"),
    [
        ([1], Retry(attempts=1), None, "Nothing was created.", "asks to wait"),
        ([0.01, 1], Retry(attempts=2), None, "tried 2 times and never taken", "asks to wait"),
        ([3600], Retry(), None, "Nothing was created. The server asks to wait 3600 s, longer", "!"),
        ([20], Retry(), 5, "Nothing was created. The server asks to wait 20 s, longer", "!"),
        (
            [0.01, 3600],
            Retry(),
            None,
            "tried 2 times .* asks to wait 3600 s",
            "Nothing was created",
        ),
    ],
    ids=["one attempt", "two attempts", "for an hour", "in a short call", "at last"],
)
async def test_a_wait_that_the_server_asks_for_is_blamed_only_where_it_ends_the_call(
    new_client: Callable[..., AsyncClient],
    grok_emulator: Emulator,
    waits: list[float],
    retry: Retry,
    timeout: float | None,
    said: str,
    not_said: str,
) -> None:
    grok_emulator.script("create", [faults.rate_limited(seconds) for seconds in waits])
    async with new_client(grok_emulator, retry=retry) as client:
        with pytest.raises(RateLimited, match=said) as caught:
            await client.submit("drift", timeout=timeout)
    assert not_said not in str(caught.value)
    grok_emulator.assert_faults_consumed()


async def test_a_refusal_for_good_is_not_blamed_on_a_wait(
    new_client: Callable[..., AsyncClient],
) -> None:
    def refuses(visit: Visit) -> None:
        visit.request()
        visit.answer(b'{"error": {"message": "no"}}', "401 Unauthorized", "Retry-After: 3600")

    with raw_server(refuses) as server:
        async with new_client(api_key="k", base_url=server.base) as client:
            with pytest.raises(AuthenticationError, match="Nothing was created") as caught:
                await client.submit("drift")
    assert "asks to wait" not in str(caught.value)


async def test_a_server_that_is_not_there_is_told_in_whole_sentences(
    new_client: Callable[..., AsyncClient],
) -> None:
    async with new_client(base_url="http://127.0.0.1:1/v1", api_key="k") as client:
        with pytest.raises(APIConnectionError) as caught:
            await client.submit("drift")
    assert not caught.value.may_have_been_sent
    assert "nothing was sent. It was tried 5 times and never taken" in str(caught.value)


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


async def test_a_create_that_found_no_connection_until_the_end_of_its_call_was_not_sent(
    new_client: Callable[..., AsyncClient], nowhere: str
) -> None:
    client = new_client(api_key="k", base_url=nowhere)
    began = anyio.current_time()
    with pytest.raises(APITimeoutError, match=r"within the 0\.2 s of this call; nothing was sent"):
        await client.generate("drift", timeout=0.2)
    assert anyio.current_time() - began < _create.CANCEL_GRACE


async def test_a_submit_ends_at_its_timeout_and_was_not_sent(
    new_client: Callable[..., AsyncClient], nowhere: str
) -> None:
    client = new_client(api_key="k", base_url=nowhere)
    with pytest.raises(APITimeoutError, match=r"within the 0\.2 s of this call; nothing was sent"):
        await client.submit("drift", timeout=0.2)
    with pytest.raises(InvalidRequest, match="timeout must be a number of seconds above 0"):
        await client.submit("drift", timeout=0)


async def test_a_create_that_is_cancelled_before_it_has_a_connection_ends_at_once(
    new_client: Callable[..., AsyncClient], nowhere: str, caplog: pytest.LogCaptureFixture
) -> None:
    client = new_client(api_key="k", base_url=nowhere)
    notes: list[str] = []
    with anyio.fail_after(_create.CANCEL_GRACE), anyio.move_on_after(0.2) as scope:
        try:
            await client.submit("drift")
        except anyio.get_cancelled_exc_class() as error:
            notes = error.__notes__
            raise
    assert scope.cancelled_caught
    assert notes == [_create.NOTHING_SENT]
    assert not caplog.records


async def test_an_item_that_found_no_connection_is_not_in_doubt_when_its_batch_is_left(
    new_client: Callable[..., AsyncClient], nowhere: str, tmp_path: Path
) -> None:
    client = new_client(api_key="k", base_url=nowhere)
    async with client.batch([VideoRequest("drift")], ledger=tmp_path / "run.sqlite") as batch:
        await anyio.sleep(0.2)
    assert batch.summary.in_doubt == ()
    assert batch.summary.open_usd == 0


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


async def test_words_beside_a_request_are_refused(
    client: AsyncClient, grok_emulator: Emulator
) -> None:
    with pytest.raises(InvalidRequest, match="inside the VideoRequest"):
        await client.submit(VideoRequest("drift"), duration=3)  # type: ignore[call-overload]  # refused: the test
    with pytest.raises(InvalidRequest, match="use aspect_ratio"):
        await client.submit("drift", size="1280x720")  # type: ignore[call-overload]  # refused: the test
    assert grok_emulator.requests == ()
