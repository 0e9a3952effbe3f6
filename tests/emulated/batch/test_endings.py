"""Items that come to their end in the middle of something: of the upload, or of the download."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from grok_video import (
    InvalidRequest,
    JobExpired,
    JobFailed,
    ModerationRefused,
    OutcomeState,
    VideoRequest,
)
from grok_video.emulator import faults

from ...transports.rawserver import Visit, raw_server
from .conftest import NewClient, NewEmulator, outcomes, read, requests, states

#: More than the buffers of two sockets hold, so that the sender has to wait for the reader.
LARGE = 16 * 2**20


async def test_an_item_whose_picture_is_cut_short_on_its_way_has_failed_and_is_not_in_doubt(
    new_client: NewClient, tmp_path: Path
) -> None:
    """No server can have accepted it: the end of its create was never sent."""
    picture = tmp_path / "cat.jpg"
    picture.write_bytes(b"\xff\xd8\xff\xe0" + bytes(LARGE))
    ledger = tmp_path / "a.sqlite"
    things = [("cat", VideoRequest("drift", picture, duration=1))]

    def cuts_the_picture(visit: Visit) -> None:
        visit.head()
        os.truncate(picture, 1000)
        visit.until_gone()

    with raw_server(cuts_the_picture) as server:
        async with new_client(api_key="k", base_url=server.base) as client:
            async with client.batch(things, ledger=ledger) as batch:
                [outcome] = [one async for one in batch]
            assert outcome.state is OutcomeState.FAILED
            assert isinstance(outcome.error, InvalidRequest)
            assert "must not change while it is being sent" in str(outcome.error)
            assert batch.summary.in_doubt == ()
            assert batch.summary.open_usd == 0
            assert read(ledger, "SELECT state FROM item") == [("failed",)]
            # The same call again: it stays failed, and the server sees nobody.
            found = await outcomes(client, things, ledger=ledger)
    assert states(found) == {"cat": "failed"}


ENDS = pytest.mark.parametrize(
    ("fate", "kind", "state"),
    [
        (faults.Failed(), JobFailed, "failed"),
        (faults.Moderated("failed"), ModerationRefused, "failed"),
        (faults.Expired(), JobExpired, "expired"),
    ],
    ids=["failed", "moderated", "expired"],
)


@ENDS
async def test_an_item_whose_job_ends_while_its_link_is_renewed_ends_with_it(
    fate: faults.Fault,
    kind: type[Exception],
    state: str,
    new_client: NewClient,
    grok_emulator_factory: NewEmulator,
    tmp_path: Path,
) -> None:
    emulator = grok_emulator_factory(time_scale=0.0)
    emulator.script("poll", [faults.Pass(), fate])
    emulator.script("download", [faults.Answer(404)])
    words = {"ledger": tmp_path / "a.sqlite", "out": tmp_path / "videos"}
    async with new_client(emulator) as client:
        for _ in range(2):
            found = await outcomes(client, requests(1), **words)
            assert states(found) == {"key-000": state}
            assert type(found["key-000"].error) is kind
            assert read(words["ledger"], "SELECT state FROM item") == [(state,)]
            assert emulator.polls == 2
    emulator.assert_faults_consumed()
    assert emulator.accepted == 1
