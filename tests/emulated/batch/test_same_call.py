"""The same call again: what is done is not done twice, what failed is tried again when asked."""

from __future__ import annotations

from decimal import Decimal
from pathlib import Path

from grok_video import (
    AsyncClient,
    JobTimeout,
)
from grok_video.emulator import Emulator, faults

from .conftest import NewClient, NewEmulator, outcomes, requests, states


async def test_the_same_call_again_sends_nothing(
    client: AsyncClient, grok_emulator: Emulator, tmp_path: Path
) -> None:
    words = {"out": tmp_path / "videos", "ledger": tmp_path / "a.sqlite"}
    first = await outcomes(client, requests(4), **words)
    requests_seen = len(grok_emulator.requests)
    again = await outcomes(client, requests(5), **words)
    assert states(again) == {**dict.fromkeys(first, "skipped"), "key-004": "saved"}
    for key, outcome in first.items():
        assert outcome.video is not None
        video = again[key].video
        assert video is not None
        assert (video.path, video.size, video.sha256) == (
            outcome.video.path,
            outcome.video.size,
            outcome.video.sha256,
        )
    assert len(grok_emulator.requests) > requests_seen
    assert grok_emulator.accepted == 5


async def test_failed_items_are_tried_again_only_on_request(
    client: AsyncClient, grok_emulator: Emulator, tmp_path: Path
) -> None:
    grok_emulator.script("create", [faults.Failed("internal_error", "no luck")])
    words = {"out": tmp_path / "videos", "ledger": tmp_path / "a.sqlite"}
    assert states(await outcomes(client, requests(1), **words)) == {"key-000": "failed"}
    again = await outcomes(client, requests(1), **words)
    assert states(again) == {"key-000": "failed"}
    assert "no luck" in str(again["key-000"].error)
    assert "retry_failed" in str(again["key-000"].error)
    assert grok_emulator.accepted == 1
    found = await outcomes(client, requests(1), retry_failed=True, **words)
    assert states(found) == {"key-000": "saved"}
    assert found["key-000"].attempts == 2
    assert grok_emulator.accepted == 2


async def test_a_wait_that_ends_leaves_the_job_pending(
    grok_emulator_factory: NewEmulator, new_client: NewClient, tmp_path: Path
) -> None:
    emulator = grok_emulator_factory(time_scale=1.0)
    words = {"ledger": tmp_path / "a.sqlite"}
    async with new_client(emulator) as client:
        found = await outcomes(client, requests(1), timeout=0.2, **words)
        assert states(found) == {"key-000": "pending"}
        assert isinstance(found["key-000"].error, JobTimeout)
        emulator.finish(emulator.creates[0].request_id)
        found = await outcomes(client, requests(1), **words)
        assert states(found) == {"key-000": "done"}
        assert found["key-000"].seconds is not None
        assert found["key-000"].seconds > 0.15  # counted from the create, in another run
    assert emulator.accepted == 1


async def test_a_done_item_is_downloaded_once_there_is_a_folder(
    client: AsyncClient, grok_emulator: Emulator, tmp_path: Path
) -> None:
    ledger = tmp_path / "a.sqlite"
    assert states(await outcomes(client, requests(1), ledger=ledger)) == {"key-000": "done"}
    assert states(await outcomes(client, requests(1), ledger=ledger)) == {"key-000": "skipped"}
    found = await outcomes(client, requests(1), ledger=ledger, out=tmp_path)
    assert states(found) == {"key-000": "saved"}
    assert found["key-000"].cost_usd == Decimal("0.14")
    assert grok_emulator.accepted == 1
