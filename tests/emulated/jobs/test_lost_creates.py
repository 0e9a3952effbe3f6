"""Creates whose outcome is unknown: never sent again by themselves, and in doubt for as long."""

from __future__ import annotations

import errno
import sys
from collections.abc import Callable
from pathlib import Path
from types import FrameType

import anyio
import pytest
from anyio.lowlevel import checkpoint

from grok_video import (
    APITimeoutError,
    AsyncClient,
    CreateOutcomeUnknown,
    Image,
    Retry,
    VideoRequest,
    _create,
)
from grok_video._lifecycle import Event
from grok_video._policies import Deadline
from grok_video._transports._loops import current_time
from grok_video.emulator import Emulator, faults

from ...transports.rawserver import Visit, raw_server


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


async def test_an_answer_that_ends_too_early_has_its_id_all_the_same(
    client: AsyncClient, grok_emulator: Emulator
) -> None:
    grok_emulator.script("create", [faults.WrongLength(10)])
    job = await client.submit("drift")
    assert job.request_id == grok_emulator.creates[0].request_id
    assert grok_emulator.accepted == 1


async def test_the_caller_may_ask_for_resends_of_unknown_creates(
    new_client: Callable[..., AsyncClient], grok_emulator: Emulator
) -> None:
    grok_emulator.script("create", [faults.CutRequest(accepted=True)])
    retry = Retry(base=0.01, resend_unknown_creates=True)
    async with new_client(grok_emulator, retry=retry) as client:
        await client.submit("drift")
    assert grok_emulator.accepted == 2


async def test_only_creates_of_unknown_outcome_are_said_to_be_in_doubt(
    new_client: Callable[..., AsyncClient], grok_emulator: Emulator
) -> None:
    refused, lost = faults.rate_limited(0.01), faults.CutRequest(accepted=True)
    for resend, script, said in (
        (False, [refused, lost], "Nothing was sent again"),
        (True, [refused, lost, lost], "It was sent 2 times, and more than one may have been"),
        (True, [lost, refused, refused], "What was sent again was not taken"),
    ):
        grok_emulator.script("create", script)
        retry = Retry(attempts=3, base=0.01, resend_unknown_creates=resend)
        async with new_client(grok_emulator, retry=retry) as client:
            with pytest.raises(CreateOutcomeUnknown, match=said):
                await client.submit("drift")


@pytest.mark.parametrize("then", [faults.invalid_token(), faults.rate_limited(3600)])
async def test_what_ends_the_resends_says_nothing_about_a_create_that_was_lost_before(
    then: faults.Fault, new_client: Callable[..., AsyncClient], grok_emulator: Emulator
) -> None:
    grok_emulator.script("create", [faults.CutRequest(accepted=True), then])
    retry = Retry(base=0.01, resend_unknown_creates=True)
    async with new_client(grok_emulator, retry=retry) as client:
        with pytest.raises(CreateOutcomeUnknown, match="sent again was not taken") as caught:
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


class SlowRecord:
    """A record that takes longer over a beginning, or all it hears, than anybody waits."""

    def __init__(self, hangs_on: set[Event], *, is_full: bool = False) -> None:
        self.hangs_on = hangs_on
        self.is_full = is_full
        self.heard: list[Event] = []
        self.scope = anyio.CancelScope()

    async def __call__(self, event: Event, _: str | None) -> None:
        self.heard.append(event)
        if self.is_full and event is not Event.SENDING_BEGAN:
            raise OSError(errno.ENOSPC, "no space left on device")
        if event in self.hangs_on:
            self.scope.cancel()
            await anyio.sleep_forever()


@pytest.fixture
def impatience(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_create, "CANCEL_GRACE", 0.01)


HANGING = pytest.mark.parametrize(
    "hangs_on",
    [{Event.SENDING_BEGAN}, {Event.SENDING_BEGAN, Event.NOT_TAKEN}],
    ids=["on the beginning", "on all"],
)


@HANGING
@pytest.mark.usefixtures("impatience")
async def test_a_create_whose_beginning_is_not_recorded_in_time_was_not_sent(
    client: AsyncClient, grok_emulator: Emulator, hangs_on: set[Event]
) -> None:
    record = SlowRecord(hangs_on)
    until = Deadline.after(current_time(), 0.1)
    with pytest.raises(APITimeoutError, match=r"not recorded within .* nothing was sent") as caught:
        await client._session.create(VideoRequest("drift"), deadline=until, record=record)
    assert not caught.value.may_have_been_sent
    assert record.heard == [Event.SENDING_BEGAN, Event.NOT_TAKEN]
    assert not grok_emulator.requests


@pytest.mark.usefixtures("impatience")
async def test_a_resend_whose_beginning_is_not_recorded_in_time_is_not_said_to_be_sent(
    new_client: Callable[..., AsyncClient], grok_emulator: Emulator
) -> None:
    grok_emulator.script("create", [faults.CutRequest(accepted=True)])
    retry = Retry(base=1e-9, cap=1e-9, resend_unknown_creates=True)
    record = SlowRecord(set())

    async def recorded(event: Event, request_id: str | None) -> None:
        await record(event, request_id)
        if event is Event.ANSWER_LOST:
            record.hangs_on = {Event.SENDING_BEGAN}

    until = Deadline.after(current_time(), 0.5)
    async with new_client(grok_emulator, retry=retry) as client:
        with pytest.raises(CreateOutcomeUnknown, match="Nothing was sent again") as caught:
            await client._session.create(VideoRequest("drift"), deadline=until, record=recorded)
    assert "its beginning was not recorded" in "".join(caught.value.__notes__)
    assert len(grok_emulator.requests) == 1


@HANGING
@pytest.mark.usefixtures("impatience")
async def test_a_create_that_is_cancelled_while_its_beginning_is_recorded_was_not_sent(
    client: AsyncClient, grok_emulator: Emulator, hangs_on: set[Event]
) -> None:
    record = SlowRecord(hangs_on)
    notes: list[str] = []
    with record.scope:
        try:
            await client._session.create(VideoRequest("drift"), record=record)
        except anyio.get_cancelled_exc_class() as error:
            notes += error.__notes__
            raise
    assert notes == [_create.NOTHING_SENT]
    assert record.heard == [Event.SENDING_BEGAN, Event.NOT_TAKEN]
    assert not grok_emulator.requests


@pytest.mark.parametrize(
    ("hangs_on", "is_full"),
    [({Event.SENDING_BEGAN}, True), ({Event.SENDING_BEGAN, Event.NOT_TAKEN}, False)],
    ids=["fails", "hangs"],
)
@pytest.mark.usefixtures("impatience")
async def test_the_log_tells_that_nothing_was_sent_if_no_record_of_it_could_be_made(
    client: AsyncClient, caplog: pytest.LogCaptureFixture, hangs_on: set[Event], is_full: bool
) -> None:
    record = SlowRecord(hangs_on, is_full=is_full)
    with record.scope:
        await client._session.create(VideoRequest("drift"), record=record)
    assert record.scope.cancelled_caught
    (message,) = [line.getMessage() for line in caplog.records if line.levelname == "ERROR"]
    assert "could not be recorded" in message
    assert "nothing was created" in message


@pytest.mark.parametrize("is_full", [False, True], ids=["recorded", "not recorded"])
@pytest.mark.parametrize("waits_for", ["its turn", "the record of its beginning"])
@pytest.mark.usefixtures("impatience")
async def test_a_resend_that_is_cancelled_is_not_told_as_if_nothing_was_paid(
    new_client: Callable[..., AsyncClient],
    grok_emulator: Emulator,
    caplog: pytest.LogCaptureFixture,
    is_full: bool,
    waits_for: str,
) -> None:
    """The create before it was lost, and may have been accepted: here it was."""
    grok_emulator.script("create", [faults.CutRequest(accepted=True)])
    retry = Retry(base=1e-9, cap=1e-9, resend_unknown_creates=True)
    notes: list[str] = []
    record = SlowRecord(set())

    async def recorded(event: Event, request_id: str | None) -> None:
        await record(event, request_id)
        if event is not Event.ANSWER_LOST:
            return
        if waits_for == "its turn":
            client._session._creates.pacer.throttled(current_time(), 60.0)
            tasks.start_soon(cancel_when_idle)
        record.hangs_on, record.is_full = {Event.SENDING_BEGAN}, is_full

    async def cancel_when_idle() -> None:
        for _ in range(100):  # turns of the loop, in which the pause before it passes
            await checkpoint()
        await anyio.wait_all_tasks_blocked()
        record.scope.cancel()

    async with new_client(grok_emulator, retry=retry) as client, anyio.create_task_group() as tasks:
        with record.scope:
            try:
                await client._session.create(VideoRequest("drift"), record=recorded)
            except anyio.get_cancelled_exc_class() as error:
                notes += getattr(error, "__notes__", ())
                raise
    assert record.scope.cancelled_caught
    assert len(grok_emulator.requests) == 1
    assert _create.NOTHING_SENT not in notes
    said = [line.getMessage() for line in caplog.records if line.levelname == "ERROR"]
    assert [line for line in said if "may have been accepted and billed" in line]
    assert not [line for line in said if "nothing was" in line]


@pytest.mark.parametrize("hangs", [False, True], ids=["fails", "hangs"])
@pytest.mark.usefixtures("impatience")
async def test_a_create_without_an_answer_in_time_is_in_doubt_also_where_no_record_can_be_made(
    client: AsyncClient, grok_emulator: Emulator, hangs: bool
) -> None:
    grok_emulator.script("create", [faults.Stall(60)])
    record = SlowRecord({Event.ANSWER_LOST} if hangs else set(), is_full=not hangs)
    until = Deadline.after(current_time(), 0.2)
    with pytest.raises(CreateOutcomeUnknown, match=r"no answer within the 0\.2 s") as caught:
        await client._session.create(VideoRequest("drift"), deadline=until, record=record)
    assert record.heard == [Event.SENDING_BEGAN, Event.ANSWER_LOST]
    assert "Nothing was sent again" in str(caught.value)
    if not hangs:
        assert "no space left on device" in "".join(caught.value.__notes__)


@pytest.mark.usefixtures("impatience")
async def test_a_create_whose_answer_does_not_come_before_its_cancelled_caller_goes_is_logged_once(
    client: AsyncClient, grok_emulator: Emulator, caplog: pytest.LogCaptureFixture
) -> None:
    grok_emulator.script("create", [faults.Stall(60)])
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(client.submit, "drift")
        while not grok_emulator.requests:
            await checkpoint()
        await anyio.wait_all_tasks_blocked()
        tasks.cancel_scope.cancel()
    (message,) = [line.getMessage() for line in caplog.records if line.levelname == "ERROR"]
    assert "may have been accepted and billed" in message


@pytest.mark.parametrize("lost", [1, 2])
async def test_a_create_that_is_lost_while_its_caller_is_cancelled_is_logged(
    new_client: Callable[..., AsyncClient],
    grok_emulator: Emulator,
    caplog: pytest.LogCaptureFixture,
    lost: int,
) -> None:
    grok_emulator.script("create", [faults.CutRequest(accepted=True)] * lost)
    retry = Retry(base=1e-9, cap=1e-9, resend_unknown_creates=True)
    heard: list[Event] = []

    async def record(event: Event, _: str | None) -> None:
        heard.append(event)
        if heard.count(Event.ANSWER_LOST) == lost:
            scope.cancel()
            await checkpoint()

    async with new_client(grok_emulator, retry=retry) as client:
        with anyio.CancelScope() as scope:
            await client._session.create(VideoRequest("drift"), record=record)
    assert scope.cancelled_caught
    assert grok_emulator.accepted == lost
    (message,) = [line.getMessage() for line in caplog.records if line.levelname == "ERROR"]
    assert "may have been accepted and billed" in message
    assert ("2 creates" in message) == (lost == 2)
    # An answer that was lost is not told as a create that was not taken.
    resent = [line for line in caplog.records if "sent again" in line.getMessage()]
    assert [line.levelname for line in resent] == ["WARNING"] * (lost - 1)


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


#: Whatever follows the first three bytes; large enough to be hashed in a thread.
PICTURE = b"\xff\xd8\xff" + bytes(200_000)


async def test_a_lost_create_is_told_though_the_picture_was_given_as_memory_that_is_released(
    new_client: Callable[..., AsyncClient],
) -> None:
    """A `ValueError` in its place would be taken for a refusal, and the create sent again."""
    # (Of a BytesIO it is the same, but Python 3.12.1 itself ends where one is collected in a cycle:
    # python/cpython#111211.)
    view = memoryview(bytearray(PICTURE))

    def loses_the_answer(visit: Visit) -> None:
        names = dict(line.lower().split(b": ", 1) for line in visit.head().splitlines()[1:-1])
        view.release()
        visit.read(int(names[b"content-length"]))
        visit.reset()

    with raw_server(loses_the_answer) as server:
        async with new_client(api_key="k", base_url=server.base) as client:
            with pytest.raises(CreateOutcomeUnknown) as caught:
                await client.submit("drift", image=Image.from_bytes(view))
    assert caught.value.fingerprint == VideoRequest("drift", PICTURE).fingerprint()


async def test_a_lost_create_is_told_though_the_picture_is_every_second_byte_of_some_memory(
    client: AsyncClient, grok_emulator: Emulator
) -> None:
    doubled = bytearray(2 * len(PICTURE))
    doubled[::2] = PICTURE
    image = Image.from_bytes(memoryview(doubled)[::2])
    grok_emulator.script("create", [faults.CutRequest(accepted=True)])
    with pytest.raises(CreateOutcomeUnknown) as caught:
        await client.submit("drift", image=image)
    assert caught.value.fingerprint == VideoRequest("drift", PICTURE).fingerprint()
    summary = await client.run_batch([("a", VideoRequest("drift", image))])
    assert summary.total == 1
    assert grok_emulator.accepted == 2


async def test_a_large_picture_whose_create_was_lost_is_not_hashed_by_the_event_loop(
    client: AsyncClient, grok_emulator: Emulator
) -> None:
    grok_emulator.script("create", [faults.CutRequest(accepted=True)])
    request, hashed = VideoRequest("drift", PICTURE), list[str]()

    def note(frame: FrameType, _event: str, _: object) -> None:
        if frame.f_code is VideoRequest.fingerprint.__code__:
            hashed.append("here")

    sys.setprofile(note)  # of this thread alone
    try:
        with pytest.raises(CreateOutcomeUnknown) as caught:
            await client.submit(request)
    finally:
        sys.setprofile(None)
    assert hashed == []
    assert caught.value.fingerprint == request.fingerprint()
