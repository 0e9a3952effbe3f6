"""What the caller and the log are told of creates that were cut off, answered oddly, or unheard."""

from __future__ import annotations

import dataclasses
import logging
import threading
from collections.abc import Callable

import anyio
import anyio.lowlevel
import pytest

from grok_video import AsyncClient, AsyncJob, CreateOutcomeUnknown, VideoRequest, _create
from grok_video.emulator import Emulator, faults

from ...transports.rawserver import Visit, raw_server


async def test_a_cancelled_create_that_is_never_answered_leaves_its_doubt_in_the_log(
    new_client: Callable[..., AsyncClient],
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """The cancellation is all that the caller hears, and nobody else knows of the request."""
    monkeypatch.setattr(_create, "CANCEL_GRACE", 0.1)
    taken = threading.Event()

    def swallows(visit: Visit) -> None:
        visit.request()
        taken.set()
        visit.until_gone()

    request = VideoRequest("drift")
    with raw_server(swallows) as server:
        client = new_client(api_key="k", base_url=server.base)
        async with client, anyio.create_task_group() as tasks:
            tasks.start_soon(client.submit, request)
            while not taken.is_set():
                await anyio.lowlevel.checkpoint()
            tasks.cancel_scope.cancel()
    told = [one for one in caplog.records if one.levelno >= logging.WARNING]
    assert [one.levelname for one in told] == ["ERROR"]
    assert "it may have been accepted and billed" in told[0].getMessage()
    assert request.fingerprint()[:12] in told[0].getMessage()


@pytest.mark.parametrize("status", [500, 502, 504])
async def test_an_id_in_an_answer_that_proves_nothing_is_told_as_a_possible_one(
    client: AsyncClient, grok_emulator: Emulator, status: int
) -> None:
    document = {"request_id": "perhaps-1", "error": {"message": "bad gateway"}}
    grok_emulator.script("create", [faults.Answer(status, document, accepted=True)])
    with pytest.raises(CreateOutcomeUnknown, match="names the id 'perhaps-1'") as caught:
        await client.submit("drift")
    assert caught.value.possible_id == "perhaps-1"
    assert caught.value.status == status
    assert caught.value.request_id is None


@pytest.mark.parametrize("fault", [faults.bad_upstream(), faults.CutRequest(accepted=True)])
async def test_no_id_is_made_up_where_none_was_named(
    client: AsyncClient, grok_emulator: Emulator, fault: faults.Fault
) -> None:
    grok_emulator.script("create", [fault])
    with pytest.raises(CreateOutcomeUnknown) as caught:
        await client.submit("drift")
    assert caught.value.possible_id is None
    assert "names the id" not in str(caught.value)


@dataclasses.dataclass(frozen=True)
class Down(Exception):
    """An exception that takes no notes: nothing can be written on it."""

    database: str


async def test_an_id_that_no_note_can_tell_stands_in_the_log(
    client: AsyncClient, grok_emulator: Emulator, caplog: pytest.LogCaptureFixture
) -> None:
    def write_down(_: AsyncJob) -> None:
        raise Down("orders")

    with pytest.raises(Down, match="orders") as caught:
        await client.submit("drift", on_submitted=write_down)
    assert not hasattr(caught.value, "__notes__")
    told = [one.getMessage() for one in caplog.records if one.levelno >= logging.WARNING]
    assert len(told) == 1
    assert f"grok-video wait {grok_emulator.creates[0].request_id}" in told[0]
